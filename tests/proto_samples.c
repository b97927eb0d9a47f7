#include "tests/proto_samples.h"

#include <math.h>

#define STR(literal)                                                                               \
	{                                                                                          \
		.bytes = (literal), .n = sizeof(literal) - 1                                       \
	}

static uint32_t ids[] = {1, 0, 31999, 0xffffffff};

static struct proto_chat_message messages[] = {
	{.role = PROTO_ROLE_SYSTEM, .text = STR("Be brief.")},
	{.role = PROTO_ROLE_USER, .text = STR("gr\xc3\xbc\xc3\x9f dich")},
	{.role = PROTO_ROLE_ASSISTANT, .text = STR("")},
};

static struct proto_variant variants[] = {
	{
		.name = STR("base"),
		.residency = PROTO_RESIDENCY_RESIDENT,
		.flags = PROTO_VARIANT_BASE | PROTO_VARIANT_PINNED,
		.digest = {{1, 2, 3}},
		.file_bytes = 1ull << 40,
		.memory_bytes = (1ull << 40) + 1,
		.loaded_bytes = 7,
		.context = 2048,
		.vocabulary = 32000,
		.streams = 3,
		.requests = 4,
		.generated = 5,
		.idle_ns = 6,
	},
	{
		.name = STR("math"),
		.residency = PROTO_RESIDENCY_FAILED,
		.flags = PROTO_VARIANT_CHAT,
		.words = STR("chunk 3: digest differs"),
	},
};

static struct proto_stat stats[] = {
	{.name = STR("requests"), .kind = PROTO_STAT_COUNTER, .value = UINT64_MAX},
	{.name = STR("kv_bytes"), .kind = PROTO_STAT_BYTES, .value = 1},
	{.name = STR("uptime"), .kind = PROTO_STAT_NANOSECONDS, .value = 0},
};

#define SAMPLING                                                                                   \
	{                                                                                          \
		.temperature = 0.75f, .top_k = 40, .top_p = 0.5f, .min_p = 0.25f,                  \
		.repetition_penalty = 1.5f, .presence_penalty = -1, .frequency_penalty = 2,        \
		.seed = 0x0123456789abcdefull, .n_logprobs = 20, .n_logit_bias = 2,                \
		.logit_bias = {{.token = 5, .bias = -INFINITY}, {.token = 6, .bias = 1}},          \
	}

static const struct proto_sample samples[] = {
	{"hello", {.op = PROTO_HELLO, .request = 1, .hello = {1, STR("test 1.0")}}},
	{"hello-reply", {.op = PROTO_HELLO_REPLY,
				.request = 1,
				.hello_reply = {1, PROTO_SOCKET_ADMIN, 64, STR("deltad 0.1.0")}}},
	{"models", {.op = PROTO_MODELS, .request = 2}},
	{"models-reply", {.op = PROTO_MODELS_REPLY,
				 .request = 2,
				 .variants = {array_len(variants), variants}}},
	{"models-reply-empty", {.op = PROTO_MODELS_REPLY, .request = 2}},
	{"complete-text", {.op = PROTO_COMPLETE,
				  .request = UINT64_MAX,
				  .complete = {.variant = STR("math"),
					  .flags = PROTO_COMPLETE_IGNORE_EOS,
					  .max_tokens = 100,
					  .sampling = SAMPLING,
					  .n_stops = 2,
					  .stops = {STR("\n\n"), STR("###")},
					  .prompt = PROTO_PROMPT_TEXT,
					  .text = STR("Tom has 3 apples")}}},
	{"complete-ids", {.op = PROTO_COMPLETE,
				 .request = 4,
				 .complete = {.variant = STR("base"),
					 .prompt = PROTO_PROMPT_IDS,
					 .n_ids = array_len(ids),
					 .ids = ids}}},
	{"complete-chat",
		{.op = PROTO_COMPLETE,
			.request = 5,
			.complete = {.variant = STR("tools"),
				.flags = PROTO_COMPLETE_PARSE_SPECIALS | PROTO_COMPLETE_NO_SPECIALS,
				.prompt = PROTO_PROMPT_CHAT,
				.n_messages = array_len(messages),
				.messages = messages}}},
	{"cancel", {.op = PROTO_CANCEL, .request = 5}},
	{"tokenize", {.op = PROTO_TOKENIZE,
			     .request = 6,
			     .tokenize = {STR("math"), PROTO_TOKENIZE_ADD_SPECIALS, STR("a\0b")}}},
	{"tokenize-reply",
		{.op = PROTO_TOKENIZE_REPLY, .request = 6, .ids = {array_len(ids), ids}}},
	{"detokenize", {.op = PROTO_DETOKENIZE,
			       .request = 7,
			       .detokenize = {STR("math"), PROTO_DETOKENIZE_SKIP_SPECIALS,
				       array_len(ids), ids}}},
	{"detokenize-reply", {.op = PROTO_DETOKENIZE_REPLY, .request = 7, .text = {STR("hello")}}},
	{"load", {.op = PROTO_LOAD, .request = 8, .name = {STR("math")}}},
	{"load-reply", {.op = PROTO_LOAD_REPLY, .request = 8, .load_reply = {31000000, 250000000}}},
	{"unload", {.op = PROTO_UNLOAD, .request = 9, .name = {STR("math")}}},
	{"pin", {.op = PROTO_PIN, .request = 10, .name = {STR("math")}}},
	{"unpin", {.op = PROTO_UNPIN, .request = 11, .name = {STR("math")}}},
	{"ps", {.op = PROTO_PS, .request = 12}},
	{"ps-reply", {.op = PROTO_PS_REPLY, .request = 12, .variants = {1, variants}}},
	{"list", {.op = PROTO_LIST, .request = 13}},
	{"list-reply", {.op = PROTO_LIST_REPLY, .request = 13, .variants = {1, variants + 1}}},
	{"show", {.op = PROTO_SHOW, .request = 14, .name = {STR("math")}}},
	{"show-reply", {.op = PROTO_SHOW_REPLY,
			       .request = 14,
			       .show_reply = {.variant = {.name = STR("math")},
				       .model = {{4}},
				       .tuned = {{5}},
				       .chat_format = STR("chatml"),
				       .method = STR("delta-come"),
				       .calibration = {{6}},
				       .n_calibration_tokens = 1000,
				       .n_eval_tokens = 500,
				       .kl = 0.0123,
				       .agreement = 0.97,
				       .perplexity_base = 9.5,
				       .perplexity_tuned = 4.25,
				       .perplexity_delta = 4.5,
				       .projection_bytes = 1,
				       .projection_original_bytes = 16}}},
	{"stats", {.op = PROTO_STATS, .request = 15}},
	{"stats-reply",
		{.op = PROTO_STATS_REPLY, .request = 15, .stats_reply = {array_len(stats), stats}}},
	{"reload", {.op = PROTO_RELOAD, .request = 16}},
	{"drain", {.op = PROTO_DRAIN, .request = 17}},
	{"token", {.op = PROTO_TOKEN,
			  .request = 5,
			  .token = {17, -0.5f, STR(" apples"), 2, {{17, -0.5f}, {18, -2}}}}},
	{"done", {.op = PROTO_DONE,
			 .request = 5,
			 .done = {.finish = PROTO_FINISH_STOP,
				 .n_prompt = 12,
				 .n_generated = 34,
				 .load_ns = 1,
				 .queue_ns = 2,
				 .prompt_ns = 3,
				 .decode_ns = 4,
				 .text = STR("end"),
				 .stop = STR("###")}}},
	{"done-error", {.op = PROTO_DONE,
			       .request = 5,
			       .done = {.finish = PROTO_FINISH_ERROR,
				       .status = PROTO_STATUS_SHUTTING_DOWN,
				       .words = STR("draining")}}},
	{"ok", {.op = PROTO_OK, .request = 9, .ok = {STR("2 variants found")}}},
	{"error", {.op = PROTO_ERROR,
			  .request = 9,
			  .error = {PROTO_STATUS_UNKNOWN_VARIANT, STR("nosuch")}}},
	{"error-of-packet",
		{.op = PROTO_ERROR, .error = {PROTO_STATUS_BAD_MESSAGE, STR("header")}}},
};

const struct proto_sample *proto_sample(size_t n)
{
	return n < array_len(samples) ? &samples[n] : NULL;
}
