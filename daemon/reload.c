/*
 * Reading the configuration again: all of it is checked before any of it is applied.
 */
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/server.h"

#include <stdio.h>
#include <string.h>

/* Appends ", name" while there is room. */
static void append(char *list, size_t room, const char *name)
{
	size_t n = strlen(list);

	snprintf(list + n, room - n, "%s%s", n ? ", " : "", name);
}

static void apply(struct server *server, struct config *wanted, struct reason *words)
{
	char changed[240] = "", kept[240] = "";
	const struct config_key *key;
	size_t index = 0;

	while ((key = config_difference(server->config, wanted, &index))) {
		append(key->live ? changed : kept, sizeof(changed), key->name);
		if (key->live)
			config_swap(server->config, wanted, key);
	}
	server_apply_limits(server);
	reason_set(words, 0, "changed: %s%s%s", changed[0] ? changed : "nothing",
		kept[0] ? "; needs a restart: " : "", kept);
}

int server_reload(struct server *server, struct reason *words)
{
	_cleanup_(config_freep) struct config *wanted = NULL;
	/* The service manager takes the end of a reload for the daemon being ready, so it hears of
	 * neither end while the daemon is not, or is no more. */
	bool ready = server->engine && !server->draining;
	int r;

	if (ready)
		notify_reloading();
	*words = (struct reason){""};
	r = server_read_config(&server->options, &wanted, words);
	if (r < 0 && !words->text[0])
		reason_set(words, 0, "%s", strerror(-r));
	if (r < 0) {
		log_error("the configuration stays as it was: %s", words->text);
	} else {
		apply(server, wanted, words);
		log_info("configuration read again; %s", words->text);
	}
	if (ready)
		notify_ready();
	return r;
}
