#include "compress/questions.h"

#include "compress/decode.h"

static int judge(const struct questions_settings *s, const struct decode_request *answer,
	struct question *q, struct reason *reason)
{
	_cleanup_(freep) char *text = NULL;
	int r = task_text_answer(s->text, answer->ids, answer->n, &text, reason);

	if (r == 0)
		q->solved = task_solved(q->task, s->metric, text);
	return r;
}

int questions_ask(const struct questions_settings *s, struct question *questions, size_t n,
	struct reason *reason)
{
	const struct answer_end *end = task_text_end(s->text);
	const struct decode_settings settings = {
		.model = s->model,
		.variant = s->variant,
		.pool = s->pool,
		.progress = s->progress,
		.stage = s->stage,
		.stops = end->stops,
		.n_stops = end->n_stops,
		.max_tokens = s->max_tokens,
		.kv_type = s->kv_type,
	};
	_cleanup_(freep) struct decode_request *answers = calloc(n + 1, sizeof(*answers));
	_cleanup_(freep) uint32_t *ids = calloc(n * s->max_tokens + 1, sizeof(*ids));
	int r;

	if (!answers || !ids)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		answers[i] = (struct decode_request){
			.prompt = questions[i].prompt,
			.n_prompt = questions[i].n_prompt,
			.ids = ids + i * s->max_tokens,
		};
	r = decode_greedy(&settings, answers, n, reason);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = judge(s, &answers[i], &questions[i], reason);
	return r;
}
