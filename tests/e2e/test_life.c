/*
 * The daemon's life: passed sockets, what it tells the service manager, reload, drain, sockets that
 * others left behind.
 */
#include "tests/live_daemon.h"
#include "tests/scratch.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <cmocka.h>

#define PROMPT "Tom has three apples and"
#define KV "memory:\n  kv: 32 MiB\n"

static struct live_store store;
static struct answer answer, other;
static char words[PROTO_MAX_WORDS + 1];

static int setup(void **state)
{
	(void)state;
	live_store_make(&store);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	live_store_remove(&store);
	return 0;
}

static void test_passed_sockets(void **state)
{
	const struct live_options options = {.pass_sockets = true};
	struct live_daemon d;
	struct connection *c;

	(void)state;
	live_daemon_start(&d, &store, &options);
	c = live_connect(&d);
	live_ask(c, "red", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	connection_free(c);
	c = live_connect_admin(&d);
	assert_int_equal(live_order(c, PROTO_LOAD, "blue", words), PROTO_STATUS_OK);
	connection_free(c);
	live_daemon_stop(&d);
}

/* Sockets answer before the base is there; a request waits for it. */
static void test_asked_while_starting(void **state)
{
	const struct live_options options = {.pass_sockets = true, .do_not_wait = true};
	struct live_daemon d;
	struct connection *c;

	(void)state;
	live_daemon_start(&d, &store, &options);
	c = live_connect(&d);
	live_ask(c, "red", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	connection_free(c);
	live_daemon_await(&d, "READY=1");
	live_daemon_stop(&d);
}

static void test_notifications(void **state)
{
	const struct live_options options = {.watchdog_ms = 200};
	struct live_daemon d;
	struct connection *admin;

	(void)state;
	live_daemon_start(&d, &store, &options);
	live_daemon_await(&d, "STATUS=serving the base and 0 deltas");
	live_daemon_await(&d, "WATCHDOG=1");
	admin = live_connect_admin(&d);
	live_ask(admin, "red", PROMPT, 300, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	live_daemon_await(&d, "STATUS=serving the base and 1 deltas");
	assert_int_equal(live_order(admin, PROTO_RELOAD, NULL, words), PROTO_STATUS_OK);
	live_daemon_await(&d, "RELOADING=1\nMONOTONIC_USEC=");
	live_daemon_await_times(&d, "READY=1", 2);
	assert_true(live_daemon_told(&d, "WATCHDOG=1") >= 1);
	assert_int_equal(live_order(admin, PROTO_DRAIN, NULL, words), PROTO_STATUS_OK);
	live_daemon_await(&d, "STOPPING=1");
	connection_free(admin);
	assert_int_equal(live_daemon_wait(&d), 0);
}

/* An engine that hangs is not covered up: stopped threads make no steps, so nothing is fed. Here
 * the whole daemon is stopped, loop and all. */
static void test_watchdog_is_not_fed_by_a_stopped_daemon(void **state)
{
	const struct live_options options = {.watchdog_ms = 100};
	struct live_daemon d;
	size_t before;

	(void)state;
	live_daemon_start(&d, &store, &options);
	live_daemon_await(&d, "WATCHDOG=1");
	kill(d.pid, SIGSTOP);
	usleep(100000);
	before = live_daemon_told(&d, "WATCHDOG=1");
	usleep(300000);
	assert_int_equal(live_daemon_told(&d, "WATCHDOG=1"), before);
	kill(d.pid, SIGCONT);
	live_daemon_stop(&d);
}

/* Whoever does not read holds all pages, another one waits for them: there is nothing to do, which
 * is no reason to give up. */
static void test_watchdog_is_fed_while_nothing_can_go_on(void **state)
{
	const struct live_options options = {.watchdog_ms = 200,
		.yaml = "memory:\n  kv: 14 MiB\nqueue:\n  high: 4 KiB\n  low: 1 KiB\n"};
	struct proto_message m = live_complete("base", PROMPT, 900);
	struct connection *slow, *next, *admin;
	struct live_daemon d;
	size_t told;

	(void)state;
	live_daemon_start(&d, &store, &options);
	slow = live_connect(&d);
	next = live_connect(&d);
	admin = live_connect_admin(&d);
	m.complete.sampling.n_logprobs = 20;
	live_send(slow, &m);
	live_await_stat(admin, "requests_paused", 1);
	m.request = 0;
	live_send(next, &m);
	live_await_stat(admin, "engine_waiting", 1);
	usleep(500000);
	told = live_daemon_told(&d, "WATCHDOG=1");
	live_daemon_await_times(&d, "WATCHDOG=1", told + 3);
	connection_free(slow);
	live_await_stat(admin, "engine_waiting", 0);
	connection_free(next);
	connection_free(admin);
	live_daemon_stop(&d);
}

/* SIGTERM while a request runs: it ends as if nothing were, then the daemon does. */
static void test_drain_finishes_what_runs(void **state)
{
	struct proto_message m = live_complete("red", PROMPT, 200);
	struct connection *client, *admin;
	struct live_daemon d;
	uint64_t request;

	(void)state;
	live_daemon_start(&d, &store, NULL);
	client = live_connect(&d);
	admin = live_connect_admin(&d);
	live_ask(client, "red", PROMPT, 200, &other);
	request = live_send(client, &m);
	live_await_stat(admin, "requests", 1);
	kill(d.pid, SIGTERM);
	live_daemon_await(&d, "STOPPING=1");
	live_ask(admin, "base", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_SHUTTING_DOWN);
	/* To read the configuration again does not make it ready again. */
	assert_int_equal(live_order(admin, PROTO_RELOAD, NULL, words), PROTO_STATUS_OK);
	live_collect(client, request, &answer);
	assert_int_equal(live_daemon_told(&d, "READY=1"), 1);
	assert_int_equal(live_daemon_told(&d, "RELOADING=1"), 0);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_memory_equal(answer.tokens, other.tokens, 200 * sizeof(answer.tokens[0]));
	connection_free(client);
	connection_free(admin);
	assert_int_equal(live_daemon_wait(&d), 0);
}

/* What does not end in time is cancelled, and told why. */
static void test_drain_has_an_end(void **state)
{
	const struct live_options options = {.yaml = KV "shutdown:\n  drain: 50 ms\n"};
	struct proto_message m = live_complete("base", PROMPT, 900);
	struct connection *client;
	struct live_daemon d;
	uint64_t request;

	(void)state;
	live_daemon_start(&d, &store, &options);
	client = live_connect(&d);
	request = live_send(client, &m);
	usleep(20000);
	kill(d.pid, SIGTERM);
	live_collect(client, request, &answer);
	assert_int_equal(answer.finish, PROTO_FINISH_ERROR);
	assert_int_equal(answer.status, PROTO_STATUS_SHUTTING_DOWN);
	assert_true(answer.n_tokens < 900);
	connection_free(client);
	assert_int_equal(live_daemon_wait(&d), 0);
}

/* A client that does not read cannot hold up the end. */
static void test_drain_does_not_wait_for_a_dead_reader(void **state)
{
	const struct live_options options = {
		.yaml = KV "shutdown:\n  drain: 100 ms\nqueue:\n  high: 4 KiB\n  low: 1 KiB\n"};
	struct proto_message m = live_complete("base", PROMPT, 900);
	struct connection *client, *admin;
	struct live_daemon d;

	(void)state;
	live_daemon_start(&d, &store, &options);
	client = live_connect(&d);
	admin = live_connect_admin(&d);
	m.complete.sampling.n_logprobs = 20;
	live_send(client, &m);
	live_await_stat(admin, "requests_paused", 1);
	connection_free(admin);
	kill(d.pid, SIGTERM);
	assert_int_equal(live_daemon_wait(&d), 0);
	connection_free(client);
}

static void test_reload(void **state)
{
	struct connection *admin, *more;
	struct live_daemon d;
	struct reason reason;

	(void)state;
	live_daemon_start(&d, &store, NULL);
	admin = live_connect_admin(&d);
	assert_int_equal(live_order(admin, PROTO_RELOAD, NULL, words), PROTO_STATUS_OK);
	assert_string_equal(words, "changed: nothing");
	/* Wrong: nothing of it is applied. */
	live_daemon_configure(
		&d, &store, KV "limits:\n  connections_per_user: 1\nqueue:\n  stall: never\n");
	assert_int_equal(live_order(admin, PROTO_RELOAD, NULL, words), PROTO_STATUS_BAD_ARGUMENT);
	assert_non_null(strstr(words, "queue.stall"));
	assert_non_null(strstr(words, "line "));
	more = live_connect(&d);
	live_ask(more, "base", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	connection_free(more);
	/* Right: what can change does, the rest is told. */
	live_daemon_configure(&d, &store,
		"memory:\n  kv: 64 MiB\n  deltas: 0\nlimits:\n  connections_per_user: 1\n");
	assert_int_equal(live_order(admin, PROTO_RELOAD, NULL, words), PROTO_STATUS_OK);
	assert_string_equal(words,
		"changed: memory.deltas, limits.connections_per_user; needs a restart: memory.kv");
	assert_int_equal(connection_open(d.socket, "test", &more, &reason), -EBUSY);
	assert_non_null(strstr(reason.text, "connections"));
	live_ask(admin, "red", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_BUDGET);
	/* What needs a restart still does. */
	assert_int_equal(live_order(admin, PROTO_RELOAD, NULL, words), PROTO_STATUS_OK);
	assert_string_equal(words, "changed: nothing; needs a restart: memory.kv");
	connection_free(admin);
	live_daemon_stop(&d);
}

static void test_reload_by_signal(void **state)
{
	struct connection *admin;
	struct live_daemon d;

	(void)state;
	live_daemon_start(&d, &store, NULL);
	live_daemon_configure(&d, &store, KV "  deltas: 1 GiB\n");
	kill(d.pid, SIGHUP);
	live_daemon_await(&d, "RELOADING=1");
	admin = live_connect_admin(&d);
	live_await_stat(admin, "deltas_budget_bytes", UINT64_C(1) << 30);
	connection_free(admin);
	live_daemon_stop(&d);
}

static void test_request_limit(void **state)
{
	const struct live_options options = {.yaml = KV "limits:\n  requests_per_user: 1\n"};
	struct proto_message m = live_complete("base", PROMPT, 300);
	struct connection *client;
	struct live_daemon d;
	uint64_t request;

	(void)state;
	live_daemon_start(&d, &store, &options);
	client = live_connect(&d);
	request = live_send(client, &m);
	live_ask(client, "base", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_BUSY);
	live_collect(client, request, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	live_ask(client, "base", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	connection_free(client);
	live_daemon_stop(&d);
}

/* A socket that nobody listens on any more is replaced; one that is in use is not. */
static void test_sockets_left_behind(void **state)
{
	struct live_daemon first;
	struct connection *c;

	(void)state;
	live_daemon_start(&first, &store, NULL);
	/* A second daemon with the same configuration. */
	assert_int_equal(live_daemon_run_again(&first), 1);
	c = live_connect(&first);
	live_ask(c, "base", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	connection_free(c);
	live_daemon_kill(&first);
	live_daemon_restart(&first);
	c = live_connect(&first);
	live_ask(c, "base", PROMPT, 2, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	connection_free(c);
	live_daemon_stop(&first);
}

/* Only a socket is. */
static void test_file_in_the_place_of_a_socket(void **state)
{
	struct live_daemon d;
	struct stat st;
	FILE *f;

	(void)state;
	live_daemon_start(&d, &store, NULL);
	live_daemon_kill(&d);
	assert_int_equal(unlink(d.socket), 0);
	f = fopen(d.socket, "we");
	assert_non_null(f);
	fputs("precious", f);
	fclose(f);
	assert_int_equal(live_daemon_run_again(&d), 1);
	assert_int_equal(stat(d.socket, &st), 0);
	assert_int_equal(st.st_size, strlen("precious"));
	assert_int_equal(unlink(d.socket), 0);
	live_daemon_restart(&d);
	live_daemon_stop(&d);
}

static void test_base_that_cannot_be_loaded(void **state)
{
	const struct live_options options = {.do_not_wait = true};
	struct live_store broken = {.folder = scratch_folder()};
	struct live_daemon d;

	(void)state;
	live_daemon_start(&d, &broken, &options);
	assert_int_equal(live_daemon_wait(&d), 1);
	free(scratch_write(broken.folder, "base.base", "not an image", 12));
	live_daemon_start(&d, &broken, &options);
	assert_int_equal(live_daemon_wait(&d), 1);
	live_store_remove(&broken);
}

static void test_wrong_configuration(void **state)
{
	const struct live_options options = {.do_not_wait = true, .yaml = "memory:\n  kw: 1 GiB\n"};
	struct live_daemon d;

	(void)state;
	live_daemon_start(&d, &store, &options);
	assert_int_equal(live_daemon_wait(&d), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_passed_sockets),
		cmocka_unit_test(test_asked_while_starting),
		cmocka_unit_test(test_notifications),
		cmocka_unit_test(test_watchdog_is_not_fed_by_a_stopped_daemon),
		cmocka_unit_test(test_watchdog_is_fed_while_nothing_can_go_on),
		cmocka_unit_test(test_drain_finishes_what_runs),
		cmocka_unit_test(test_drain_has_an_end),
		cmocka_unit_test(test_drain_does_not_wait_for_a_dead_reader),
		cmocka_unit_test(test_reload),
		cmocka_unit_test(test_reload_by_signal),
		cmocka_unit_test(test_request_limit),
		cmocka_unit_test(test_sockets_left_behind),
		cmocka_unit_test(test_file_in_the_place_of_a_socket),
		cmocka_unit_test(test_base_that_cannot_be_loaded),
		cmocka_unit_test(test_wrong_configuration),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
