/*
 * The library against a daemon that follows a script, well-behaved or not.
 */
#include "client/deltad.h"
#include "tests/scripted_daemon.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static uint64_t ask(struct deltad *d, const char *variant, const char *text)
{
	struct deltad_complete_options o = DELTAD_COMPLETE_INIT;
	uint64_t stream = 0;

	o.variant = variant;
	o.text = text;
	o.n_text = strlen(text);
	assert_int_equal(deltad_complete(d, &o, &stream), 0);
	assert_true(stream != 0);
	return stream;
}

static void expect_token(struct deltad *d, uint64_t stream, uint64_t from, const char *text)
{
	const struct deltad_event *e;

	assert_int_equal(deltad_next(d, stream, 5000, &e), 0);
	assert_int_equal(e->kind, DELTAD_TOKEN);
	assert_int_equal(e->stream, from);
	assert_string_equal(e->text, text);
	assert_int_equal(e->n_text, strlen(text));
}

static void expect_done(struct deltad *d, uint64_t stream, enum deltad_finish finish)
{
	const struct deltad_event *e;

	assert_int_equal(deltad_next(d, stream, 5000, &e), 0);
	assert_int_equal(e->kind, DELTAD_DONE);
	assert_int_equal(e->finish, finish);
}

static void only_hello(struct script *s)
{
	script_hello(s);
	script_expect_end(s);
}

static void connecting_says_hello(void **state)
{
	struct scripted_daemon *daemon;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(only_hello, &d);
	assert_string_equal(deltad_server(d), "script 1");
	assert_true(deltad_fd(d) >= 0);
	deltad_close(d);
	scripted_daemon_done(daemon);
	assert_null(deltad_close(NULL));
}

static void no_daemon_is_an_error(void **state)
{
	char longest[200];
	struct deltad *d;

	(void)state;
	assert_int_equal(deltad_connect("/nonexistent/socket", &d), -ENOENT);
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(deltad_connect(longest, &d), -ENAMETOOLONG);
	assert_int_equal(setenv("DELTAD_SOCKET", "/nonexistent/other", 1), 0);
	assert_int_equal(deltad_connect(NULL, &d), -ENOENT);
}

static void refuse_version(struct script *s)
{
	const struct proto_message *hello = script_expect(s, PROTO_HELLO);
	const struct proto_message m = {.op = PROTO_ERROR,
		.request = hello->request,
		.error = {PROTO_STATUS_BAD_VERSION, proto_str("version 9 only")}};

	script_send(s, &m);
}

static void answer_with_noise(struct script *s)
{
	script_expect(s, PROTO_HELLO);
	script_check(wire_send(s->sock, "noise", 5, -1) == 0);
}

static void answer_with_another_op(struct script *s)
{
	const struct proto_message *hello = script_expect(s, PROTO_HELLO);
	const struct proto_message m = {.op = PROTO_OK, .request = hello->request};

	script_send(s, &m);
}

static void close_at_once(struct script *s)
{
	script_expect(s, PROTO_HELLO);
}

static void failed_hellos_are_told_apart(void **state)
{
	static const struct {
		void (*script)(struct script *s);
		int error;
	} cases[] = {
		{refuse_version, -EPROTONOSUPPORT},
		{answer_with_noise, -EPROTO},
		{answer_with_another_op, -EPROTO},
		{close_at_once, -ECONNRESET},
	};

	(void)state;
	for (size_t i = 0; i < array_len(cases); i++) {
		struct deltad *d = NULL;
		struct scripted_daemon *daemon;
		int sock;

		daemon = scripted_daemon_new(cases[i].script, &sock);
		assert_int_equal(deltad_connect_fd(sock, &d), cases[i].error);
		assert_null(d);
		scripted_daemon_done(daemon);
	}
}

static void interleave(struct script *s)
{
	uint64_t first, second;

	script_hello(s);
	first = script_expect(s, PROTO_COMPLETE)->request;
	second = script_expect(s, PROTO_COMPLETE)->request;
	script_check(proto_str_equal(s->in.message.complete.variant, "tools"));
	script_token(s, first, 1, "a");
	script_token(s, second, 2, "x");
	script_token(s, second, 3, "y");
	script_finish(s, second, PROTO_FINISH_LENGTH);
	script_token(s, first, 4, "b");
	script_finish(s, first, PROTO_FINISH_STOP);
	script_expect_end(s);
}

static void streams_may_be_read_one_after_the_other(void **state)
{
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	uint64_t first, second;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(interleave, &d);
	first = ask(d, "math", "one");
	second = ask(d, "tools", "two");
	assert_true(first != second);
	expect_token(d, first, first, "a");
	expect_token(d, first, first, "b");
	expect_done(d, first, DELTAD_FINISH_STOP);
	assert_int_equal(deltad_next(d, first, 0, &e), -ENOENT);
	expect_token(d, second, second, "x");
	expect_token(d, second, second, "y");
	expect_done(d, second, DELTAD_FINISH_LENGTH);
	assert_int_equal(deltad_next(d, 0, 0, &e), -ENOENT);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void streams_may_be_read_as_they_come(void **state)
{
	struct scripted_daemon *daemon;
	uint64_t first, second;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(interleave, &d);
	first = ask(d, "math", "one");
	second = ask(d, "tools", "two");
	expect_token(d, second, second, "x"); /* puts "a" aside, which then comes first */
	expect_token(d, 0, first, "a");
	expect_token(d, 0, second, "y");
	expect_done(d, 0, DELTAD_FINISH_LENGTH);
	expect_token(d, 0, first, "b");
	expect_done(d, 0, DELTAD_FINISH_STOP);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void full_event(struct script *s)
{
	struct proto_message m = {.op = PROTO_TOKEN};

	script_hello(s);
	m.request = script_expect(s, PROTO_COMPLETE)->request;
	m.token = (struct proto_token){.token = 9,
		.logprob = -0.25f,
		.text = proto_str("t"),
		.n_top = 2,
		.top = {{9, -0.25f}, {8, -3}}};
	script_send(s, &m);
	m.op = PROTO_DONE;
	m.done = (struct proto_done){.finish = PROTO_FINISH_STOP,
		.n_prompt = 1,
		.n_generated = 2,
		.load_ns = 3,
		.queue_ns = 4,
		.prompt_ns = 5,
		.decode_ns = 6,
		.text = proto_str("end"),
		.stop = proto_str("###")};
	script_send(s, &m);
}

static void events_carry_everything(void **state)
{
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(full_event, &d);
	ask(d, "math", "one");
	assert_int_equal(deltad_next(d, 0, -1, &e), 0);
	assert_int_equal(e->token, 9);
	assert_true(e->logprob == -0.25f);
	assert_int_equal(e->n_top, 2);
	assert_int_equal(e->top[1].token, 8);
	assert_true(e->top[1].logprob == -3);
	assert_int_equal(deltad_next(d, 0, -1, &e), 0);
	assert_string_equal(e->text, "end");
	assert_string_equal(e->stop, "###");
	assert_string_equal(e->words, "");
	assert_int_equal(e->error, 0);
	assert_int_equal(e->n_prompt, 1);
	assert_int_equal(e->n_generated, 2);
	assert_int_equal(e->load_ns, 3);
	assert_int_equal(e->queue_ns, 4);
	assert_int_equal(e->prompt_ns, 5);
	assert_int_equal(e->decode_ns, 6);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void refuse_completion(struct script *s)
{
	struct proto_message m = {.op = PROTO_ERROR};

	script_hello(s);
	m.request = script_expect(s, PROTO_COMPLETE)->request;
	m.error = (struct proto_error){
		PROTO_STATUS_UNKNOWN_VARIANT, proto_str("no variant 'nosuch'")};
	script_send(s, &m);
	m.request = script_expect(s, PROTO_TOKENIZE)->request;
	script_send(s, &m);
	script_expect_end(s);
}

static void refusals_keep_the_daemons_words(void **state)
{
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	struct deltad *d;
	uint32_t *ids;
	size_t n;

	(void)state;
	daemon = scripted_daemon_connect(refuse_completion, &d);
	ask(d, "nosuch", "one");
	assert_int_equal(deltad_next(d, 0, -1, &e), 0);
	assert_int_equal(e->kind, DELTAD_DONE);
	assert_int_equal(e->finish, DELTAD_FINISH_ERROR);
	assert_int_equal(e->error, -ENXIO);
	assert_string_equal(e->words, "no variant 'nosuch'");
	assert_int_equal(deltad_tokenize(d, "nosuch", "x", 1, 0, &ids, &n), -ENXIO);
	assert_string_equal(deltad_reason(d), "no variant 'nosuch'");
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void vanish(struct script *s)
{
	uint64_t request;

	script_hello(s);
	request = script_expect(s, PROTO_COMPLETE)->request;
	script_token(s, request, 1, "half");
}

static void a_vanished_daemon_ends_all(void **state)
{
	struct deltad_complete_options o = DELTAD_COMPLETE_INIT;
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	uint64_t stream;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(vanish, &d);
	stream = ask(d, "math", "one");
	scripted_daemon_done(daemon);
	expect_token(d, stream, stream, "half");
	assert_int_equal(deltad_next(d, stream, -1, &e), -ECONNRESET);
	assert_int_equal(deltad_next(d, stream, -1, &e), -ECONNRESET);
	assert_true(deltad_reason(d)[0] != '\0');
	o.variant = "math";
	o.text = "again";
	o.n_text = 5;
	assert_int_equal(deltad_complete(d, &o, &stream), -ECONNRESET);
	assert_int_equal(deltad_cancel(d, stream), -ECONNRESET);
	deltad_close(d);
}

static void dawdle(struct script *s)
{
	uint64_t request;

	script_hello(s);
	request = script_expect(s, PROTO_COMPLETE)->request;
	script_check(script_expect(s, PROTO_CANCEL)->request == request);
	script_token(s, request, 1, "late");
	script_finish(s, request, PROTO_FINISH_CANCELLED);
	script_expect_end(s);
}

static void waiting_ends_and_cancelling_works(void **state)
{
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	struct pollfd p;
	uint64_t stream;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(dawdle, &d);
	stream = ask(d, "math", "one");
	assert_int_equal(deltad_next(d, stream, 0, &e), -ETIMEDOUT);
	assert_int_equal(deltad_next(d, 0, 30, &e), -ETIMEDOUT);
	assert_int_equal(deltad_next(d, stream + 1, -1, &e), -ENOENT);
	assert_int_equal(deltad_cancel(d, stream + 1), -ENOENT);
	assert_int_equal(deltad_cancel(d, stream), 0);
	p = (struct pollfd){.fd = deltad_fd(d), .events = POLLIN};
	assert_int_equal(poll(&p, 1, 5000), 1);
	expect_token(d, stream, stream, "late");
	expect_done(d, stream, DELTAD_FINISH_CANCELLED);
	assert_int_equal(deltad_cancel(d, stream), -ENOENT);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

static void speak_out_of_turn(struct script *s)
{
	script_hello(s);
	script_expect(s, PROTO_COMPLETE);
	script_token(s, 12345, 1, "whose?");
	script_expect_end(s);
}

static void complain(struct script *s)
{
	const struct proto_message m = {.op = PROTO_ERROR,
		.error = {PROTO_STATUS_BAD_MESSAGE, proto_str("header: nonsense")}};

	script_hello(s);
	script_expect(s, PROTO_COMPLETE);
	script_send(s, &m);
}

static void turn_away(struct script *s)
{
	const struct proto_message m = {
		.op = PROTO_ERROR, .error = {PROTO_STATUS_BUSY, proto_str("256 connections")}};

	script_send(s, &m);
}

static void a_full_daemon_is_busy(void **state)
{
	struct scripted_daemon *daemon;
	struct deltad *d;
	int sock;

	(void)state;
	daemon = scripted_daemon_new(turn_away, &sock);
	assert_int_equal(deltad_connect_fd(sock, &d), -EBUSY);
	scripted_daemon_done(daemon);
}

static void broken_protocol_is_noticed(void **state)
{
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	struct deltad *d;

	(void)state;
	daemon = scripted_daemon_connect(speak_out_of_turn, &d);
	ask(d, "math", "one");
	assert_int_equal(deltad_next(d, 0, -1, &e), -EPROTO);
	deltad_close(d);
	scripted_daemon_done(daemon);
	daemon = scripted_daemon_connect(complain, &d);
	ask(d, "math", "one");
	assert_int_equal(deltad_next(d, 0, -1, &e), -EPROTO);
	assert_string_equal(deltad_reason(d), "header: nonsense");
	deltad_close(d);
	scripted_daemon_done(daemon);
}

#define N_MODELS 2000
#define N_IDS 100000

static void send_models(struct script *s, uint64_t request)
{
	struct proto_variant *items = calloc(N_MODELS, sizeof(*items));
	struct proto_message m = {.op = PROTO_MODELS_REPLY, .request = request};

	for (uint32_t i = 0; i < N_MODELS; i++)
		items[i] = (struct proto_variant){.name = proto_str(i ? "tuned" : "base"),
			.residency = PROTO_RESIDENCY_RESIDENT,
			.flags = i ? PROTO_VARIANT_CHAT : PROTO_VARIANT_BASE,
			.file_bytes = i,
			.context = 2048};
	m.variants = (struct proto_variants){N_MODELS, items};
	script_send(s, &m);
	free(items);
}

static void send_ids(struct script *s, uint64_t request)
{
	static uint32_t ids[N_IDS];
	const struct proto_message m = {
		.op = PROTO_TOKENIZE_REPLY, .request = request, .ids = {N_IDS, ids}};

	ids[N_IDS - 1] = 77;
	script_send(s, &m);
}

static void serve_calls(struct script *s)
{
	struct proto_message m = {.op = PROTO_DETOKENIZE_REPLY};
	uint64_t stream;

	script_hello(s);
	stream = script_expect(s, PROTO_COMPLETE)->request;
	script_check(s->in.message.complete.text.n == 300000);
	script_token(s, stream, 1, "before");
	send_models(s, script_expect(s, PROTO_MODELS)->request);
	script_token(s, stream, 2, "between");
	send_ids(s, script_expect(s, PROTO_TOKENIZE)->request);
	script_check(s->in.message.tokenize.flags == PROTO_TOKENIZE_ADD_SPECIALS);
	m.request = script_expect(s, PROTO_DETOKENIZE)->request;
	script_check(s->in.message.detokenize.ids[1] == 6);
	m.text.text = proto_str("text");
	script_send(s, &m);
	script_finish(s, stream, PROTO_FINISH_STOP);
	script_expect_end(s);
}

static void check_models(struct deltad *d)
{
	struct deltad_models *models;

	assert_int_equal(deltad_models(d, &models), 0);
	assert_int_equal(deltad_models_count(models), N_MODELS);
	assert_string_equal(deltad_models_get(models, 0)->name, "base");
	assert_true(deltad_models_get(models, 0)->is_base);
	assert_false(deltad_models_get(models, 0)->has_chat);
	assert_string_equal(deltad_models_get(models, N_MODELS - 1)->name, "tuned");
	assert_int_equal(deltad_models_get(models, N_MODELS - 1)->file_bytes, N_MODELS - 1);
	assert_null(deltad_models_get(models, N_MODELS));
	deltad_models_free(models);
}

static void calls_run_beside_streams(void **state)
{
	static const uint32_t some[] = {5, 6};
	static char prompt[300001];
	struct scripted_daemon *daemon;
	uint64_t stream;
	struct deltad *d;
	uint32_t *ids;
	char *text;
	size_t n;

	(void)state;
	memset(prompt, 'p', sizeof(prompt) - 1);
	daemon = scripted_daemon_connect(serve_calls, &d);
	stream = ask(d, "math", prompt);
	check_models(d);
	assert_int_equal(
		deltad_tokenize(d, "math", "x", 1, DELTAD_TOKENIZE_ADD_SPECIALS, &ids, &n), 0);
	assert_int_equal(n, N_IDS);
	assert_int_equal(ids[N_IDS - 1], 77);
	free(ids);
	assert_int_equal(deltad_detokenize(d, "math", some, 2, 0, &text, &n), 0);
	assert_string_equal(text, "text");
	assert_int_equal(n, 4);
	free(text);
	expect_token(d, stream, stream, "before");
	expect_token(d, stream, stream, "between");
	expect_done(d, stream, DELTAD_FINISH_STOP);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

#define FLOOD 2000

/* Says much before it listens: both directions fill up. */
static void flood(struct script *s)
{
	uint64_t first;

	script_hello(s);
	first = script_expect(s, PROTO_COMPLETE)->request;
	for (uint32_t i = 0; i < FLOOD; i++)
		script_token(s, first, i, "flood");
	for (uint32_t i = 1; i < FLOOD; i++)
		script_expect(s, PROTO_COMPLETE);
	script_finish(s, first, PROTO_FINISH_STOP);
	script_expect_end(s);
}

static void two_full_buffers_do_not_lock(void **state)
{
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	struct deltad *d;
	uint64_t first;

	(void)state;
	daemon = scripted_daemon_connect(flood, &d);
	first = ask(d, "math", "first");
	for (uint32_t i = 1; i < FLOOD; i++)
		ask(d, "math", "more");
	for (uint32_t i = 0; i < FLOOD; i++) {
		assert_int_equal(deltad_next(d, first, 5000, &e), 0);
		assert_int_equal(e->token, i);
	}
	expect_done(d, first, DELTAD_FINISH_STOP);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(connecting_says_hello),
		cmocka_unit_test(no_daemon_is_an_error),
		cmocka_unit_test(failed_hellos_are_told_apart),
		cmocka_unit_test(streams_may_be_read_one_after_the_other),
		cmocka_unit_test(streams_may_be_read_as_they_come),
		cmocka_unit_test(events_carry_everything),
		cmocka_unit_test(refusals_keep_the_daemons_words),
		cmocka_unit_test(a_vanished_daemon_ends_all),
		cmocka_unit_test(waiting_ends_and_cancelling_works),
		cmocka_unit_test(a_full_daemon_is_busy),
		cmocka_unit_test(broken_protocol_is_noticed),
		cmocka_unit_test(calls_run_beside_streams),
		cmocka_unit_test(two_full_buffers_do_not_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
