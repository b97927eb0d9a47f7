/*
 * The daemon answers: the base, variants loaded by the request itself, many at once, clients that
 * vanish, that do not read, that break the protocol.
 */
#include "tests/live_daemon.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>

#define PROMPT "Tom has three apples and"
#define QUICK "memory:\n  kv: 64 MiB\nqueue:\n  high: 4 KiB\n  low: 1 KiB\n"

static struct live_store store;
static struct live_daemon the_daemon;
static struct connection *client, *admin;
static struct answer answer, other;

static int setup(void **state)
{
	static const struct live_options options = {.yaml = QUICK};

	(void)state;
	live_store_make(&store);
	live_daemon_start(&the_daemon, &store, &options);
	client = live_connect(&the_daemon);
	admin = live_connect_admin(&the_daemon);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	connection_free(client);
	connection_free(admin);
	live_daemon_stop(&the_daemon);
	live_store_remove(&store);
	return 0;
}

static void assert_same(const struct answer *a, const struct answer *b)
{
	assert_int_equal(a->status, PROTO_STATUS_OK);
	assert_int_equal(b->status, PROTO_STATUS_OK);
	assert_int_equal(a->n_tokens, b->n_tokens);
	assert_memory_equal(a->tokens, b->tokens, a->n_tokens * sizeof(a->tokens[0]));
	assert_string_equal(a->text, b->text);
}

/* The tokens are those of the text, as far as the daemon's own tokenizer can tell. */
static void test_base_answers(void **state)
{
	static struct wire_received received;
	struct proto_message m = {.op = PROTO_DETOKENIZE};
	struct reason reason;

	(void)state;
	live_ask(client, "base", PROMPT, 24, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_int_equal(answer.finish, PROTO_FINISH_LENGTH);
	assert_int_equal(answer.n_tokens, 24);
	assert_true(answer.n_prompt > 3);
	m.detokenize.variant = proto_str("base");
	m.detokenize.ids = answer.tokens;
	m.detokenize.n_ids = answer.n_tokens;
	assert_int_equal(connection_call(client, &m, &received, &reason), 0);
	assert_int_equal(received.message.op, PROTO_DETOKENIZE_REPLY);
	assert_true(proto_str_equal(received.message.text.text, answer.text));
	wire_received_done(&received);
	live_ask(client, "base", PROMPT, 24, &other);
	assert_same(&answer, &other);
}

static void test_refusals(void **state)
{
	static char long_text[1 << 20];
	uint32_t bad_id = 1000000;
	struct proto_message m;

	(void)state;
	live_ask(client, "nobody", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_UNKNOWN_VARIANT);
	assert_non_null(strstr(answer.words, "nobody"));
	live_ask(client, "../base", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_UNKNOWN_VARIANT);
	live_ask(client, "base", PROMPT, 1024, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_TOO_LONG);
	memset(long_text, 'a', sizeof(long_text) - 1);
	live_ask(client, "base", long_text, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_TOO_LONG);
	assert_non_null(strstr(answer.words, "bytes"));
	m = live_complete("base", PROMPT, 4);
	m.complete.sampling.temperature = -1;
	live_collect(client, live_send(client, &m), &answer);
	assert_int_equal(answer.status, PROTO_STATUS_BAD_ARGUMENT);
	m = live_complete("base", "", 4);
	m.complete.prompt = PROTO_PROMPT_IDS;
	m.complete.ids = &bad_id;
	m.complete.n_ids = 1;
	live_collect(client, live_send(client, &m), &answer);
	assert_int_equal(answer.status, PROTO_STATUS_BAD_ARGUMENT);
	assert_non_null(strstr(answer.words, "1000000"));
	m = live_complete("base", "\xff\xfe", 4);
	live_collect(client, live_send(client, &m), &answer);
	assert_int_equal(answer.status, PROTO_STATUS_BAD_ARGUMENT);
	/* The daemon goes on. */
	live_ask(client, "base", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
}

static void test_load_on_demand(void **state)
{
	(void)state;
	assert_int_equal(live_residency(admin, "red"), PROTO_RESIDENCY_DISK);
	live_ask(client, "base", PROMPT, 24, &other);
	live_ask(client, "red", PROMPT, 24, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_true(answer.load_ns > 0);
	assert_int_equal(live_residency(admin, "red"), PROTO_RESIDENCY_RESIDENT);
	assert_memory_not_equal(answer.tokens, other.tokens, 24 * sizeof(answer.tokens[0]));
	live_ask(client, "red", PROMPT, 24, &other);
	assert_int_equal(other.load_ns, 0);
	assert_same(&answer, &other);
}

/* Eight clients at once, three variants, prompts of different lengths: every answer is what the
 * same request gets alone. */
static void test_company_does_not_matter(void **state)
{
	static const char *const variants[] = {"base", "red", "blue"};
	static const char *const prompts[] = {PROMPT,
		("Once upon a time there was a little girl who lived in a big house by the "
		 "sea, and"),
		"The"};
	static struct answer alone[8], together[8];
	struct connection *clients[8];
	uint64_t requests[8];

	(void)state;
	for (size_t i = 0; i < 8; i++)
		live_ask(client, variants[i % 3], prompts[i % 2 + (i > 5)], 48, &alone[i]);
	for (size_t i = 0; i < 8; i++) {
		struct proto_message m =
			live_complete(variants[i % 3], prompts[i % 2 + (i > 5)], 48);

		clients[i] = live_connect(&the_daemon);
		requests[i] = live_send(clients[i], &m);
	}
	for (size_t i = 0; i < 8; i++) {
		live_collect(clients[i], requests[i], &together[i]);
		connection_free(clients[i]);
	}
	for (size_t i = 0; i < 8; i++)
		assert_same(&alone[i], &together[i]);
}

static void test_several_requests_of_one_client(void **state)
{
	struct proto_message m = live_complete("base", PROMPT, 16);
	uint64_t first, second;

	(void)state;
	live_ask(client, "base", PROMPT, 16, &answer);
	first = live_send(client, &m);
	m.request = 0;
	second = live_send(client, &m);
	live_collect(client, second, &other);
	assert_same(&answer, &other);
	live_collect(client, first, &other);
	assert_same(&answer, &other);
}

static void test_stop_string(void **state)
{
	struct proto_message m = live_complete("base", PROMPT, 24);
	char stop[8];
	size_t cut;

	(void)state;
	live_ask(client, "base", PROMPT, 24, &other);
	cut = strlen(other.text) / 2;
	snprintf(stop, sizeof(stop), "%.3s", other.text + cut);
	cut = (size_t)(strstr(other.text, stop) - other.text);
	m.complete.n_stops = 1;
	m.complete.stops[0] = proto_str(stop);
	live_collect(client, live_send(client, &m), &answer);
	assert_int_equal(answer.finish, PROTO_FINISH_STOP);
	assert_string_equal(answer.stop, stop);
	assert_int_equal(strlen(answer.text), cut);
	assert_memory_equal(answer.text, other.text, cut);
	assert_true(answer.n_tokens < 24);
}

/* A conversation ends by itself with the end of the assistant's turn, which is not part of it. */
static void test_chat(void **state)
{
	struct proto_chat_message question = {
		.role = PROTO_ROLE_USER,
		.text = proto_str("Say hello. <|im_end|>"),
	};
	struct proto_message m = live_complete("red", "", 40);

	(void)state;
	m.complete.flags = 0;
	m.complete.prompt = PROTO_PROMPT_CHAT;
	m.complete.messages = &question;
	m.complete.n_messages = 1;
	live_collect(client, live_send(client, &m), &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_true(answer.n_prompt > 8);
	assert_null(strstr(answer.text, "<|im_"));
	m.request = 0;
	m.complete.variant = proto_str("base");
	live_collect(client, live_send(client, &m), &answer);
	assert_int_equal(answer.status, PROTO_STATUS_NO_CHAT_FORMAT);
	assert_true(strlen(answer.words) > 10);
}

static void test_cancel(void **state)
{
	struct proto_message m = live_complete("base", PROMPT, 900);
	struct proto_message cancel = {.op = PROTO_CANCEL};

	(void)state;
	cancel.request = live_send(client, &m);
	live_send(client, &cancel);
	live_collect(client, cancel.request, &answer);
	assert_int_equal(answer.finish, PROTO_FINISH_CANCELLED);
	assert_true(answer.n_tokens < 900);
	live_await_stat(admin, "engine_running", 0);
}

static void assert_nothing_is_left(void)
{
	live_await_stat(admin, "connections", 2);
	live_await_stat(admin, "requests", 0);
	live_await_stat(admin, "requests_paused", 0);
	live_await_stat(admin, "queued_bytes", 0);
	live_await_stat(admin, "engine_running", 0);
	live_await_stat(admin, "engine_waiting", 0);
	assert_int_equal(live_stat(admin, "kv_pages_free"), live_stat(admin, "kv_pages"));
}

/* A process that is killed while it reads its answer. */
static void test_client_killed_in_mid_stream(void **state)
{
	struct proto_message m = live_complete("red", PROMPT, 900);
	struct proto_message mine = live_complete("base", PROMPT, 64);
	static struct wire_received received;
	int ready[2], status;
	uint64_t request;
	char byte;
	pid_t pid;

	(void)state;
	live_ask(client, "base", PROMPT, 64, &other);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct connection *c;
		struct reason reason;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (connection_open(the_daemon.socket, "victim", &c, &reason) < 0 ||
			connection_send(c, &m, &reason) < 0 ||
			connection_receive(c, m.request, 10000, &received, &reason) < 0 ||
			write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	request = live_send(client, &mine);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	live_collect(client, request, &answer);
	assert_same(&answer, &other);
	assert_nothing_is_left();
	assert_true(live_stat(admin, "generated_tokens") > 0);
}

/* A reader that stops reading is paused; others go on; when it reads again it gets every token. */
static void test_slow_reader(void **state)
{
	struct proto_message m = live_complete("base", PROMPT, 900);
	struct connection *slow = live_connect(&the_daemon);
	uint64_t request, generated;

	(void)state;
	live_ask(client, "base", PROMPT, 900, &other);
	m.complete.sampling.n_logprobs = 20;
	request = live_send(slow, &m);
	live_await_stat(admin, "requests_paused", 1);
	live_ask(client, "red", PROMPT, 16, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	generated = live_stat(admin, "generated_tokens");
	live_ask(client, "red", PROMPT, 16, &answer);
	/* The paused one has made at most the token that was under way. */
	assert_true(live_stat(admin, "generated_tokens") <= generated + 17);
	live_collect(slow, request, &answer);
	assert_same(&answer, &other);
	connection_free(slow);
	assert_nothing_is_left();
}

static void test_reader_that_never_reads(void **state)
{
	static const struct live_options options = {
		.yaml = "memory:\n  kv: 32 MiB\nqueue:\n  high: 4 KiB\n  low: 1 KiB\n  stall: 1 "
			"s\n"};
	struct proto_message m = live_complete("base", PROMPT, 900);
	struct connection *dead, *patient;
	struct live_daemon d;

	(void)state;
	live_daemon_start(&d, &store, &options);
	dead = live_connect(&d);
	patient = live_connect_admin(&d);
	m.complete.sampling.n_logprobs = 20;
	live_send(dead, &m);
	live_await_stat(patient, "requests_paused", 1);
	live_await_stat(patient, "connections", 1);
	live_await_stat(patient, "requests", 0);
	live_await_stat(patient, "queued_bytes", 0);
	live_await_stat(patient, "engine_running", 0);
	assert_int_equal(live_stat(patient, "kv_pages_free"), live_stat(patient, "kv_pages"));
	connection_free(dead);
	connection_free(patient);
	live_daemon_stop(&d);
}

/* It reads all the time, but less than it takes to have its request go on in time. */
static void test_reader_that_reads_too_slowly(void **state)
{
	static const struct live_options options = {
		.yaml = "memory:\n  kv: 32 MiB\nqueue:\n  high: 64 KiB\n  low: 1 KiB\n  stall: 2 "
			"s\n"};
	static struct wire_received received;
	struct proto_message m = live_complete("base", PROMPT, 300);
	struct connection *slow, *watcher;
	struct live_daemon d;
	struct reason reason;
	uint64_t requests[4];
	size_t n = 0;

	(void)state;
	live_daemon_start(&d, &store, &options);
	slow = live_connect(&d);
	watcher = live_connect_admin(&d);
	m.complete.sampling.n_logprobs = 20;
	for (size_t i = 0; i < array_len(requests); i++) {
		m.request = 0;
		requests[i] = live_send(slow, &m);
	}
	live_await_stat(watcher, "requests_paused", array_len(requests));
	while (connection_receive(slow, requests[n % array_len(requests)], LIVE_TIMEOUT_MS,
		       &received, &reason) == 0) {
		wire_received_done(&received);
		n++;
		usleep(7000);
	}
	assert_in_range(n, 100, array_len(requests) * 300 - 1);
	live_await_stat(watcher, "connections", 1);
	live_await_stat(watcher, "requests", 0);
	connection_free(slow);
	connection_free(watcher);
	live_daemon_stop(&d);
}

static int raw_socket(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* Sends bytes that break the protocol; the daemon says why and hangs up. */
static void check_violation(const void *bytes, size_t n, const char *words)
{
	static struct wire_received received;
	int fd = raw_socket(the_daemon.socket);
	struct reason reason;

	assert_int_equal(send(fd, bytes, n, 0), n);
	assert_int_equal(wire_receive(fd, &received, &reason), 0);
	assert_int_equal(received.message.op, PROTO_ERROR);
	assert_int_equal(received.message.error.status, PROTO_STATUS_BAD_MESSAGE);
	assert_non_null(memmem(received.message.error.words.bytes, received.message.error.words.n,
		words, strlen(words)));
	wire_received_done(&received);
	assert_int_equal(wire_receive(fd, &received, &reason), WIRE_E_CLOSED);
	close(fd);
}

static void test_violations(void **state)
{
	struct proto_message models = {.op = PROTO_MODELS, .request = 1};
	struct proto_message done = {.op = PROTO_OK, .request = 1};
	uint8_t packet[64];
	size_t n;

	(void)state;
	check_violation("x", 1, "");
	assert_int_equal(proto_encode(&models, packet, sizeof(packet), &n), 0);
	check_violation(packet, n, "HELLO");
	assert_int_equal(proto_encode(&done, packet, sizeof(packet), &n), 0);
	check_violation(packet, n, "not a request");
	packet[0]++;
	check_violation(packet, n, "");
	assert_nothing_is_left();
}

static void test_admin_requests_need_the_admin_socket(void **state)
{
	char words[PROTO_MAX_WORDS + 1];

	(void)state;
	assert_int_equal(live_order(client, PROTO_DRAIN, NULL, words), PROTO_STATUS_NOT_PERMITTED);
	assert_int_equal(live_order(client, PROTO_LOAD, "red", words), PROTO_STATUS_NOT_PERMITTED);
	live_ask(admin, "base", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
}

static void test_socket_modes(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(stat(the_daemon.socket, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	assert_int_equal(stat(the_daemon.admin, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_base_answers),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_load_on_demand),
		cmocka_unit_test(test_company_does_not_matter),
		cmocka_unit_test(test_several_requests_of_one_client),
		cmocka_unit_test(test_stop_string),
		cmocka_unit_test(test_chat),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_client_killed_in_mid_stream),
		cmocka_unit_test(test_slow_reader),
		cmocka_unit_test(test_reader_that_never_reads),
		cmocka_unit_test(test_reader_that_reads_too_slowly),
		cmocka_unit_test(test_violations),
		cmocka_unit_test(test_admin_requests_need_the_admin_socket),
		cmocka_unit_test(test_socket_modes),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
