#include "foreign/chat_probe.h"

#include <string.h>

struct probe probe_make(const char *roles, const char *system, const char *user, const char *answer)
{
	struct probe p = {.n = strlen(roles)};
	size_t n_users = 0;

	for (size_t i = 0; i < p.n; i++) {
		struct chat_message *m = &p.messages[i];

		switch (roles[i]) {
		case 's':
			m->role = CHAT_ROLE_SYSTEM;
			m->text = system;
			break;
		case 'u':
			m->role = CHAT_ROLE_USER;
			m->text = n_users++ ? PROBE_USER_2 : user;
			break;
		default:
			m->role = CHAT_ROLE_ASSISTANT;
			m->text = answer;
			break;
		}
		m->n_text = strlen(m->text);
	}
	return p;
}

int probe_run(const struct chat_template *t, const struct probe *p, bool generation,
	struct text *out, struct reason *reason)
{
	struct jinja_input input = {
		.messages = p->messages,
		.n_messages = p->n,
		.add_generation_prompt = generation,
		.bos_token = t->bos_token,
		.eos_token = t->eos_token,
	};
	int r = jinja_render(t->jinja, &input, out, reason);

	if (r != JINJA_RAISED)
		return r;
	out->n = 0;
	input.tools_undefined = true;
	return jinja_render(t->jinja, &input, out, reason);
}
