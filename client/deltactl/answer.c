#include "client/deltactl/answer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define INTERRUPT_CHECK_MS 200

static int keep_text(struct answer *a, const char *text, size_t n)
{
	char *grown = realloc(a->text, a->n_text + n + 1);

	if (!grown)
		return -ENOMEM;
	a->text = grown;
	memcpy(a->text + a->n_text, text, n);
	a->n_text += n;
	a->text[a->n_text] = '\0';
	return 0;
}

/* A model may write anything; a terminal would obey it. Shows control characters as '?'. */
static void print_harmless(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];
		bool c1 = c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] < 0xa0;

		if (c1)
			i++;
		putchar(c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : c);
	}
}

static void print_text(const char *text, size_t n)
{
	if (isatty(STDOUT_FILENO))
		print_harmless(text, n);
	else
		fwrite(text, 1, n, stdout);
	fflush(stdout);
}

static const char *finish_name(enum deltad_finish finish)
{
	switch (finish) {
	case DELTAD_FINISH_STOP:
		return "stop";
	case DELTAD_FINISH_LENGTH:
		return "length";
	case DELTAD_FINISH_CANCELLED:
		return "cancelled";
	case DELTAD_FINISH_ERROR:
		return "error";
	}
	return "unknown";
}

static json_t *logprob_json(float logprob)
{
	return isfinite(logprob) ? json_real(logprob) : json_null();
}

static int print_token_json(struct answer *a, struct generation *g, const struct deltad_event *e)
{
	json_t *top = json_array();
	json_t *line;

	for (size_t i = 0; i < e->n_top; i++)
		json_array_append_new(
			top, json_pack("{sI so}", "token", (json_int_t)e->top[i].token, "logprob",
				     logprob_json(e->top[i].logprob)));
	json_array_append_new(a->ids, json_integer(e->token));
	line = json_pack("{sI ss% so so}", "token", (json_int_t)e->token, "text", e->text,
		e->n_text, "logprob", logprob_json(e->logprob), "top", top);
	return remote_print_json(g->command, line);
}

/* The first token belongs to the prompt's time. */
static double tokens_per_second(const struct deltad_event *e)
{
	return e->n_generated > 1 && e->decode_ns > 0
		       ? (double)(e->n_generated - 1) * 1e9 / (double)e->decode_ns
		       : 0;
}

static void keep_figures(struct answer *a, const struct deltad_event *e)
{
	char load[40] = "";

	if (e->load_ns > 0)
		snprintf(load, sizeof(load), "loaded in %.1f ms, ", (double)e->load_ns * 1e-6);
	snprintf(a->figures, sizeof(a->figures),
		"%s%" PRIu32 " prompt tokens in %.1f ms, %" PRIu32 " tokens at %.0f a second", load,
		e->n_prompt, (double)e->prompt_ns * 1e-6, e->n_generated, tokens_per_second(e));
}

static int print_done_json(struct answer *a, struct generation *g, const struct deltad_event *e)
{
	return remote_print_json(g->command,
		json_pack("{ss ss% sO ss sI sI sI sI sI sI sf}", "finish", finish_name(e->finish),
			"text", a->text ? a->text : "", a->n_text, "ids", a->ids, "stop", e->stop,
			"prompt_tokens", (json_int_t)e->n_prompt, "generated_tokens",
			(json_int_t)e->n_generated, "load_ns", (json_int_t)e->load_ns, "queue_ns",
			(json_int_t)e->queue_ns, "prompt_ns", (json_int_t)e->prompt_ns, "decode_ns",
			(json_int_t)e->decode_ns, "tokens_per_second", tokens_per_second(e)));
}

/* Shows one event. Returns an exit code. */
static int show(struct answer *a, struct generation *g, const struct deltad_event *e)
{
	if (keep_text(a, e->text, e->n_text) < 0)
		return remote_fail(g->command, -ENOMEM, NULL);
	if (!a->json)
		print_text(e->text, e->n_text);
	if (a->json && e->kind == DELTAD_TOKEN)
		return print_token_json(a, g, e);
	if (e->kind == DELTAD_TOKEN)
		return EXIT_OK;
	a->error = e->error;
	if (e->finish == DELTAD_FINISH_ERROR) {
		if (a->n_text > 0 && !a->json)
			putchar('\n');
		fflush(stdout);
		if (e->error == a->expected_error)
			return EXIT_REFUSED;
		return remote_fail(
			g->command, e->error, e->words[0] ? e->words : deltad_strerror(e->error));
	}
	keep_figures(a, e);
	return a->json ? print_done_json(a, g, e) : EXIT_OK;
}

static int follow(struct answer *a, struct generation *g, struct deltad *d, uint64_t stream)
{
	const int timeout = a->interrupted ? INTERRUPT_CHECK_MS : -1;
	const struct deltad_event *e;
	bool cancelled = false;

	for (;;) {
		int r = deltad_next(d, stream, timeout, &e);
		int code;

		if (a->interrupted && *a->interrupted && !cancelled) {
			cancelled = true;
			/* If it has just ended, there is nothing to cancel. */
			if (r == -ETIMEDOUT || (r == 0 && e->kind == DELTAD_TOKEN)) {
				int failed = deltad_cancel(d, stream);

				if (failed < 0)
					return remote_fail(g->command, failed, deltad_reason(d));
			}
		}
		if (r == -ETIMEDOUT)
			continue;
		if (r < 0)
			return remote_fail(g->command, r, deltad_reason(d));
		code = show(a, g, e);
		if (code != EXIT_OK || e->kind == DELTAD_DONE)
			return code;
	}
}

int answer_run(struct answer *a, struct generation *g, struct deltad *d)
{
	uint64_t stream;
	int r;

	if (a->json && !a->ids)
		a->ids = json_array();
	r = deltad_complete(d, &g->complete, &stream);
	if (r < 0)
		return remote_fail(g->command, r, deltad_reason(d));
	return follow(a, g, d, stream);
}

void answer_done(struct answer *a)
{
	free(a->text);
	json_decref(a->ids);
	a->text = NULL;
	a->ids = NULL;
}
