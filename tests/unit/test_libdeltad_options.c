/*
 * What a program asks for is what the daemon hears, or is refused before it is sent.
 */
#include "client/deltad.h"
#include "tests/scripted_daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void only_hello(struct script *s)
{
	script_hello(s);
	script_expect_end(s);
}

static int complete(struct deltad *d, const struct deltad_complete_options *o)
{
	uint64_t stream;

	return deltad_complete(d, o, &stream);
}

static void wrong_options_are_refused_here(void **state)
{
	static const char *const stops[] = {"1", "2", "3", "4", "5", "6", "7", "8", "9"};
	static const char *const empty[] = {""};
	const struct deltad_complete_options good = {
		.size = sizeof(good), .variant = "m", .text = "t", .n_text = 1, .top_p = 1};
	struct {
		struct deltad_complete_options o;
		char more[8];
	} longer = {.o = good};
	struct deltad_complete_options o;
	struct scripted_daemon *daemon;
	struct deltad *d;
	uint32_t id = 1;

	(void)state;
	daemon = scripted_daemon_connect(only_hello, &d);
	o = good;
	o.size = sizeof(o) - 1;
	assert_int_equal(complete(d, &o), -EINVAL);
	longer.o.size = sizeof(longer);
	longer.more[3] = 1;
	assert_int_equal(complete(d, &longer.o), -EINVAL);
	assert_non_null(strstr(deltad_reason(d), "lacks"));
	o = good;
	o.ids = &id;
	o.n_ids = 1;
	assert_int_equal(complete(d, &o), -EINVAL);
	o = good;
	o.text = NULL;
	assert_int_equal(complete(d, &o), -EINVAL);
	o = good;
	o.variant = NULL;
	assert_int_equal(complete(d, &o), -EINVAL);
	o.variant = "";
	assert_int_equal(complete(d, &o), -EINVAL);
	o = good;
	o.stops = stops;
	o.n_stops = 9;
	assert_int_equal(complete(d, &o), -EINVAL);
	o.stops = empty;
	o.n_stops = 1;
	assert_int_equal(complete(d, &o), -EINVAL);
	o = good;
	o.n_logprobs = 21;
	assert_int_equal(complete(d, &o), -EINVAL);
	o = good;
	o.flags = 1u << 31;
	assert_int_equal(complete(d, &o), -EINVAL);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void check_settings(struct script *s)
{
	const struct proto_complete *c;

	script_hello(s);
	c = &script_expect(s, PROTO_COMPLETE)->complete;
	script_check(c->prompt == PROTO_PROMPT_CHAT && c->n_messages == 2);
	script_check(c->messages[0].role == PROTO_ROLE_SYSTEM);
	script_check(proto_str_equal(c->messages[1].text, "hi"));
	script_check(c->flags == PROTO_COMPLETE_IGNORE_EOS && c->max_tokens == 5);
	script_check(c->sampling.temperature == 0.5f && c->sampling.top_k == 3);
	script_check(c->sampling.top_p == 0.75f && c->sampling.min_p == 0.125f);
	script_check(c->sampling.repetition_penalty == 1.25f && c->sampling.presence_penalty == 2);
	script_check(c->sampling.frequency_penalty == -2 && c->sampling.seed == 1ull << 60);
	script_check(c->sampling.n_logprobs == 4 && c->sampling.n_logit_bias == 1);
	script_check(c->sampling.logit_bias[0].token == 11 && c->sampling.logit_bias[0].bias == -7);
	script_check(c->n_stops == 1 && proto_str_equal(c->stops[0], "end"));
	c = &script_expect(s, PROTO_COMPLETE)->complete;
	script_check(c->prompt == PROTO_PROMPT_IDS && c->n_ids == 2 && c->ids[1] == 22);
	script_check(c->sampling.top_p == 1 && c->sampling.repetition_penalty == 1);
	script_expect_end(s);
}

static void settings_reach_the_daemon(void **state)
{
	static const struct deltad_message messages[] = {
		{DELTAD_SYSTEM, "be", 2}, {DELTAD_USER, "hi", 2}};
	static const struct deltad_bias biases[] = {{11, -7}};
	static const char *const stops[] = {"end"};
	static const uint32_t ids[] = {21, 22};
	struct {
		struct deltad_complete_options o;
		char more[8];
	} longer = {.o = DELTAD_COMPLETE_INIT};
	const struct deltad_complete_options o = {.size = sizeof(o),
		.variant = "m",
		.messages = messages,
		.n_messages = 2,
		.flags = DELTAD_IGNORE_EOS,
		.max_tokens = 5,
		.temperature = 0.5f,
		.top_k = 3,
		.top_p = 0.75f,
		.min_p = 0.125f,
		.repetition_penalty = 1.25f,
		.presence_penalty = 2,
		.frequency_penalty = -2,
		.n_logprobs = 4,
		.seed = 1ull << 60,
		.stops = stops,
		.n_stops = 1,
		.biases = biases,
		.n_biases = 1};
	struct scripted_daemon *daemon;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(check_settings, &d);
	assert_int_equal(complete(d, &o), 0);
	/* A program built with a later header, which uses nothing new. */
	longer.o.size = sizeof(longer);
	longer.o.variant = "m";
	longer.o.ids = ids;
	longer.o.n_ids = 2;
	assert_int_equal(complete(d, &longer.o), 0);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void every_errno_has_words(void **state)
{
	(void)state;
	for (uint32_t status = 0; status <= PROTO_STATUS_INTERNAL; status++) {
		assert_string_not_equal(proto_status_name(status), "unknown status");
		assert_true(deltad_strerror(-(int)status)[0] != '\0');
	}
	assert_string_equal(deltad_strerror(-99999), "unknown error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_options_are_refused_here),
		cmocka_unit_test(settings_reach_the_daemon),
		cmocka_unit_test(every_errno_has_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
