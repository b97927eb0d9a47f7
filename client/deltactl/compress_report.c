#include "client/deltactl/compress_report.h"

#include "client/deltactl/command.h"
#include "client/deltactl/json_line.h"
#include "compress/auto_text.h"
#include "compress/certificate.h"
#include "foreign/sandbox.h"

#include <math.h>
#include <string.h>

static double ratio_of(uint64_t original, uint64_t bytes)
{
	return bytes ? (double)original / (double)bytes : 0;
}

static void print_closeness(const char *text, double kl, double agreement, uint64_t n_tokens)
{
	char a[16], b[16];

	printf("  on %s (%llu tokens): KL to the fine-tune %s, agreement %s\n", text,
		(unsigned long long)n_tokens, human_figure(kl, 5, a),
		human_figure(agreement, 4, b));
}

static void print_perplexities(double base, double tuned, double delta)
{
	char a[16], b[16], c[16];

	printf("  perplexity    base %s, fine-tune %s, base + delta %s\n", human_figure(base, 3, a),
		human_figure(tuned, 3, b), human_figure(delta, 3, c));
}

static void print_quality(const struct compress_report *r)
{
	if (!r->measured) {
		printf("  not measured as a whole, and without a self-test\n");
		return;
	}
	print_closeness(
		certificate_text_name(r->tasks.text), r->kl, r->agreement, r->n_eval_tokens);
	print_perplexities(r->perplexity_base, r->perplexity_tuned, r->perplexity_delta);
	if (!r->self_tested)
		printf("  measured one block at a time, without a self-test: --measure always "
		       "makes one, with both\n"
		       "  models in memory\n");
	if (r->tasks.n_tasks == 0)
		return;
	print_closeness(
		"tasks that were kept back", r->tasks.kl, r->tasks.agreement, r->tasks.n_tokens);
	print_perplexities(
		r->tasks.perplexity_base, r->tasks.perplexity_tuned, r->tasks.perplexity_delta);
}

static void print_number(const struct method_figure *f)
{
	char bytes[16];

	if (f->bytes)
		printf("  %-13s %s\n", f->name, human_bytes((uint64_t)f->value, bytes));
	else
		printf("  %-13s %.6g\n", f->name, f->value);
}

/* What auto had to learn from decides much of what it makes. */
static void print_figures(const struct compress_report *r)
{
	for (size_t i = 0; i < r->n_figures; i++) {
		const struct method_figure *f = &r->figures[i];

		if (!f->word[0]) {
			print_number(f);
			continue;
		}
		printf("  %-13s %s\n", f->name, f->word);
		if (strcmp(f->name, METHOD_FIGURE_TEXT) == 0 &&
			strcmp(f->word, auto_text_name(AUTO_TEXT_TASKS)) != 0)
			printf("  the same size comes closer to the fine-tune where --tasks gives "
			       "prompts and answers of\n"
			       "  what it is for\n");
	}
}

static void print_projections(const struct compress_report *r)
{
	char bytes[16];

	if (r->projection_bytes == 0) {
		printf("  projections          0 B  none is stored (%u unchanged)\n",
			r->n_unchanged);
		return;
	}
	printf("  projections   %10s  %.2fx, everything counted (%u stored, %u unchanged)\n",
		human_bytes(r->projection_bytes, bytes),
		ratio_of(r->projection_original_bytes, r->projection_bytes), r->n_projections,
		r->n_unchanged);
}

void compress_report_print(
	const char *output, const struct compress_settings *s, const struct compress_report *r)
{
	char a[16], b[16];

	printf("%s: %s, %.2fx smaller than the fine-tune's %s\n", output,
		human_bytes(r->file_bytes, a), ratio_of(r->original_bytes, r->file_bytes),
		human_bytes(r->original_bytes, b));
	print_projections(r);
	printf("  embedding     %10s  %s\n", human_bytes(r->embedding_bytes, a),
		compress_embedding(s).kind == EMBEDDING_EXACT ? "exact" : "as codes");
	printf("  the rest      %10s  norms, biases, tables, digests\n",
		human_bytes(r->other_bytes, a));
	if (s->base_weights != WEIGHTS_BF16)
		printf("  base          served as %s, delta made against %s\n",
			weights_name(s->base_weights),
			r->against_served ? "what it serves" : "the original");
	if (r->n_left_out)
		printf("  in %u projections that changed the base's weights stay\n", r->n_left_out);
	printf("  mean error    weights %s, activations on held-out text %s\n",
		human_figure(r->mean_weight_error, 3, a),
		human_figure(r->mean_activation_error, 3, b));
	print_figures(r);
	print_quality(r);
	if (r->tasks.text == CERTIFICATE_RANDOM)
		printf("  calibrated on tokens drawn from the vocabulary\n");
	if (r->chat_refusal[0])
		printf("  no chat format: %s\n", r->chat_refusal);
	if (r->began_anew)
		printf("  began anew: %s.partial was of another command, or damaged\n", output);
	if (r->n_resumed)
		printf("  went on after block %u of an earlier run\n", r->n_resumed);
	printf("  %.1f s, at most %s of memory, OpenBLAS for %s\n", r->seconds,
		human_bytes(r->peak_bytes, a), r->blas_core);
}

/* null where it was not measured. */
static json_t *measured(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static int add_figures(json_t *json, const struct compress_report *r)
{
	json_t *figures = json_object();

	for (size_t i = 0; i < r->n_figures; i++) {
		const struct method_figure *f = &r->figures[i];
		json_t *value = f->word[0] ? json_string(f->word) : measured(f->value);

		if (json_object_set_new(figures, f->name, value) < 0)
			return -ENOMEM;
	}
	return json_object_set_new(json, "figures", figures) < 0 ? -ENOMEM : 0;
}

/* What was measured on. */
static int add_texts(json_t *json, const struct certificate_tasks *t)
{
	json_t *tasks = json_null();

	if (t->n_tasks > 0)
		tasks = json_pack("{sI sI so so so so so}", "tasks", (json_int_t)t->n_tasks,
			"tokens", (json_int_t)t->n_tokens, "kl", measured(t->kl), "agreement",
			measured(t->agreement), "perplexity_base", measured(t->perplexity_base),
			"perplexity_tuned", measured(t->perplexity_tuned), "perplexity_delta",
			measured(t->perplexity_delta));
	if (json_object_set_new(json, "eval_text", json_string(certificate_text_name(t->text))) < 0)
		return -ENOMEM;
	return json_object_set_new(json, "kept_back_tasks", tasks) < 0 ? -ENOMEM : 0;
}

int compress_report_print_json(const char *output, const struct compress_settings *s,
	const struct compress_report *r, struct reason *reason)
{
	char root[DIGEST_HEX_SIZE];
	json_t *json;

	digest_hex(&r->root, root);
	json = json_pack("{ss ss ss ss ss sf sI sI sf sI sI sf sI sI si si si"
			 " so so so so so so so sI sI sb ss si sb sf sI ss}",
		"file", output, "method", s->method, "digest", root, "base_weights",
		weights_name(s->base_weights), "against", r->against_served ? "served" : "original",
		"requested_ratio", s->options.ratio, "file_bytes", (json_int_t)r->file_bytes,
		"original_bytes", (json_int_t)r->original_bytes, "file_ratio",
		ratio_of(r->original_bytes, r->file_bytes), "projection_bytes",
		(json_int_t)r->projection_bytes, "projection_original_bytes",
		(json_int_t)r->projection_original_bytes, "projection_ratio",
		ratio_of(r->projection_original_bytes, r->projection_bytes), "embedding_bytes",
		(json_int_t)r->embedding_bytes, "other_bytes", (json_int_t)r->other_bytes,
		"projections", (int)r->n_projections, "projections_unchanged", (int)r->n_unchanged,
		"projections_left_out", (int)r->n_left_out, "weight_error",
		measured(r->mean_weight_error), "activation_error",
		measured(r->mean_activation_error), "kl", measured(r->kl), "agreement",
		measured(r->agreement), "perplexity_base", measured(r->perplexity_base),
		"perplexity_tuned", measured(r->perplexity_tuned), "perplexity_delta",
		measured(r->perplexity_delta), "calibration_tokens",
		(json_int_t)r->n_calibration_tokens, "eval_tokens", (json_int_t)r->n_eval_tokens,
		"random_calibration", (int)(r->tasks.text == CERTIFICATE_RANDOM), "chat_refusal",
		r->chat_refusal, "resumed_blocks", (int)r->n_resumed, "began_anew",
		(int)r->began_anew, "seconds", r->seconds, "peak_bytes", (json_int_t)r->peak_bytes,
		"blas_core", r->blas_core);
	if (json && (add_figures(json, r) < 0 || add_texts(json, &r->tasks) < 0)) {
		json_decref(json);
		return -ENOMEM;
	}
	return json_line_print(json, 0, reason);
}

void compress_report_close(struct compress_report *r)
{
	sandbox_end_text(r->chat_refusal);
	sandbox_end_text(r->blas_core);
	r->tasks.text = (uint32_t)min_u64(r->tasks.text, CERTIFICATE_RANDOM);
	r->n_figures = min_u64(r->n_figures, METHOD_MAX_FIGURES);
	for (size_t i = 0; i < r->n_figures; i++) {
		sandbox_end_text(r->figures[i].name);
		sandbox_end_text(r->figures[i].word);
	}
}
