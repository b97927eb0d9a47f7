#include "client/deltactl/commands.h"
#include "client/deltactl/variants.h"

#include <math.h>

static void print_line(const char *label, const char *text)
{
	printf("%-18s %s\n", label, text);
}

static void print_str(const char *label, struct proto_str s)
{
	if (s.n > 0)
		printf("%-18s %.*s\n", label, (int)s.n, s.bytes);
}

static void print_number(const char *label, double value, const char *unit)
{
	if (isfinite(value))
		printf("%-18s %.6g%s\n", label, value, unit);
}

static void print_certificate(const struct proto_show_reply *s)
{
	char hex[DIGEST_HEX_SIZE], size[16];

	if (s->method.n == 0)
		return;
	print_str("method", s->method);
	digest_hex(&s->tuned, hex);
	print_line("fine-tune", hex);
	digest_hex(&s->calibration, hex);
	print_line("calibration", s->n_calibration_tokens ? hex : "none");
	printf("%-18s %llu calibration, %llu evaluation\n", "tokens",
		(unsigned long long)s->n_calibration_tokens, (unsigned long long)s->n_eval_tokens);
	print_number("KL to fine-tune", s->kl, " nats");
	print_number("agreement", 100 * s->agreement, " %");
	print_number("perplexity, base", s->perplexity_base, "");
	print_number("perplexity, tuned", s->perplexity_tuned, "");
	print_number("perplexity, delta", s->perplexity_delta, "");
	print_line("projections", human_bytes(s->projection_bytes, size));
	if (s->projection_bytes > 0)
		print_number("ratio",
			(double)s->projection_original_bytes / (double)s->projection_bytes, "x");
}

static struct proto_str chat_format(const struct proto_show_reply *s)
{
	if (s->chat_format.n)
		return s->chat_format;
	return proto_str(s->variant.flags & PROTO_VARIANT_CHAT ? "yes" : "none");
}

static void print_show(const struct proto_show_reply *s)
{
	const struct proto_variant *v = &s->variant;
	char hex[DIGEST_HEX_SIZE], size[16];

	print_str("name", v->name);
	printf("%-18s %s%s\n", "state", proto_residency_name(v->residency),
		v->flags & PROTO_VARIANT_PINNED ? ", pinned" : "");
	print_str("remark", v->words);
	digest_hex(&v->digest, hex);
	print_line("digest", hex);
	digest_hex(&s->model, hex);
	print_line("base model", hex);
	print_line("file", human_bytes(v->file_bytes, size));
	print_line("memory", human_bytes(v->memory_bytes, size));
	print_str("chat format", chat_format(s));
	/* Only a file in memory tells these. */
	if (v->context == 0)
		return;
	printf("%-18s %u\n", "context", v->context);
	printf("%-18s %u\n", "vocabulary", v->vocabulary);
	print_certificate(s);
}

static json_t *number_json(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static json_t *certificate_json(const struct proto_show_reply *s)
{
	char tuned[DIGEST_HEX_SIZE], calibration[DIGEST_HEX_SIZE];

	if (s->method.n == 0)
		return json_null();
	digest_hex(&s->tuned, tuned);
	digest_hex(&s->calibration, calibration);
	return json_pack("{so ss ss? sI sI so so so so so sI sI}", "method",
		remote_json_str(s->method), "tuned", tuned, "calibration",
		s->n_calibration_tokens ? calibration : NULL, "calibration_tokens",
		(json_int_t)s->n_calibration_tokens, "eval_tokens", (json_int_t)s->n_eval_tokens,
		"kl", number_json(s->kl), "agreement", number_json(s->agreement), "perplexity_base",
		number_json(s->perplexity_base), "perplexity_tuned",
		number_json(s->perplexity_tuned), "perplexity_delta",
		number_json(s->perplexity_delta), "projection_bytes",
		(json_int_t)s->projection_bytes, "projection_original_bytes",
		(json_int_t)s->projection_original_bytes);
}

static json_t *show_json(const struct proto_show_reply *s)
{
	json_t *object = variant_json(&s->variant);
	char model[DIGEST_HEX_SIZE];

	digest_hex(&s->model, model);
	json_object_set_new(object, "model", json_string(model));
	json_object_set_new(object, "chat_format",
		s->chat_format.n ? remote_json_str(s->chat_format) : json_null());
	json_object_set_new(object, "certificate", certificate_json(s));
	return object;
}

static int run(int argc, char **argv)
{
	_cleanup_(remote_done) struct remote r = {0};
	struct proto_message m = {.op = PROTO_SHOW};
	struct remote_options options;
	int code = remote_parse(&command_show, argc, argv, true, true, &options);

	if (code >= 0)
		return code;
	m.name.name = proto_str(options.name);
	code = remote_open(&r, &command_show, options.socket);
	if (code == EXIT_OK)
		code = remote_call(&r, &m, PROTO_SHOW_REPLY);
	if (code != EXIT_OK)
		return code;
	if (options.json)
		return remote_print_json(&command_show, show_json(&r.reply.message.show_reply));
	print_show(&r.reply.message.show_reply);
	return EXIT_OK;
}

const struct command command_show = {
	.name = "show",
	.arguments = "[--socket PATH] [--json] NAME",
	.summary = "what a variant is and what its certificate says",
	.run = run,
};
