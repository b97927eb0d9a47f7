/*
 * Variants come and go: files that are broken, of another base, replaced; pins, budget, eviction,
 * unloading under way.
 */
#include "store/image.h"
#include "tests/imported_base.h"
#include "tests/live_daemon.h"
#include "tests/random_delta.h"
#include "tests/scratch.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#define PROMPT "Tom has three apples and"
#define ANOTHER_MODEL "tests/golden/data/tiny/llama-gqa"

static struct live_store store;
static struct live_daemon the_daemon;
static struct connection *admin;
static struct answer answer, other;
static char words[PROTO_MAX_WORDS + 1];
static uint64_t delta_bytes;    /* of red's file */
static uint64_t expanded_bytes; /* that red takes beside it */

static uint64_t size_of_delta(const char *name)
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s.delta", store.folder, name);
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static uint64_t expanded_bytes_of(const char *name)
{
	struct format_header header;
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.delta", store.folder, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(image_peek(fd, &header, NULL), 0);
	close(fd);
	return header.expanded_bytes;
}

/* Room for two deltas and a half. */
static int setup(void **state)
{
	struct live_options options;
	char yaml[128];

	(void)state;
	live_store_make(&store);
	delta_bytes = size_of_delta("red");
	expanded_bytes = expanded_bytes_of("red");
	snprintf(yaml, sizeof(yaml), "memory:\n  kv: 32 MiB\n  deltas: %llu\n",
		(unsigned long long)((delta_bytes + expanded_bytes) * 5 / 2));
	options = (struct live_options){.yaml = yaml};
	live_daemon_start(&the_daemon, &store, &options);
	admin = live_connect_admin(&the_daemon);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	connection_free(admin);
	live_daemon_stop(&the_daemon);
	live_store_remove(&store);
	return 0;
}

static enum proto_status order(enum proto_op op, const char *name)
{
	return live_order(admin, op, name, words);
}

static void break_delta(const char *name, off_t truncate_to, off_t flip_at)
{
	char path[PATH_MAX];
	uint8_t byte;
	int fd;

	snprintf(path, sizeof(path), "%s/%s.delta", store.folder, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	if (truncate_to)
		assert_int_equal(ftruncate(fd, truncate_to), 0);
	if (flip_at) {
		assert_int_equal(pread(fd, &byte, 1, flip_at), 1);
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, flip_at), 1);
	}
	close(fd);
}

static void remove_delta(const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s.delta", store.folder, name);
	assert_int_equal(unlink(path), 0);
}

/* A request and an order are refused with the same status; what was there goes on. */
static void check_refused(const char *name, enum proto_status status)
{
	live_ask(admin, name, PROMPT, 4, &answer);
	assert_int_equal(answer.status, status);
	assert_non_null(strstr(answer.words, name));
	assert_int_equal(order(PROTO_LOAD, name), status);
	assert_non_null(strstr(words, name));
	assert_int_equal(live_residency(admin, name), PROTO_RESIDENCY_FAILED);
	assert_int_equal(live_stat(admin, "deltas_charged_bytes"), 0);
	live_ask(admin, "base", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	remove_delta(name);
}

static void test_truncated(void **state)
{
	(void)state;
	live_store_copy(&store, "red", "short");
	break_delta("short", (off_t)delta_bytes - 4096, 0);
	check_refused("short", PROTO_STATUS_LOAD_FAILED);
	live_store_copy(&store, "red", "stump");
	break_delta("stump", 100, 0);
	check_refused("stump", PROTO_STATUS_LOAD_FAILED);
}

static void test_flipped_byte(void **state)
{
	(void)state;
	live_store_copy(&store, "red", "flipped");
	break_delta("flipped", 0, (off_t)delta_bytes / 2);
	check_refused("flipped", PROTO_STATUS_LOAD_FAILED);
	live_store_copy(&store, "red", "header");
	break_delta("header", 0, 40);
	check_refused("header", PROTO_STATUS_LOAD_FAILED);
}

static void test_delta_of_another_base(void **state)
{
	struct base *another = imported_base(ANOTHER_MODEL);
	_cleanup_(freep) char *path = scratch_path(store.folder, "stranger.delta");

	(void)state;
	random_delta_file(another, 1, NULL, path);
	base_free(another);
	check_refused("stranger", PROTO_STATUS_WRONG_BASE);
}

/* Repaired, the file is read again without anybody saying so. */
static void test_repaired_file(void **state)
{
	(void)state;
	live_store_copy(&store, "red", "patient");
	break_delta("patient", 0, (off_t)delta_bytes / 2);
	live_ask(admin, "patient", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_LOAD_FAILED);
	remove_delta("patient");
	live_store_copy(&store, "red", "patient");
	live_ask(admin, "patient", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_UNLOAD, "patient"), PROTO_STATUS_OK);
	remove_delta("patient");
}

static void test_load_and_unload(void **state)
{
	(void)state;
	assert_int_equal(order(PROTO_LOAD, "red"), PROTO_STATUS_OK);
	assert_true(live_stat(admin, "deltas_bytes") >= delta_bytes + expanded_bytes);
	assert_int_equal(live_stat(admin, "deltas_charged_bytes"), delta_bytes + expanded_bytes);
	assert_int_equal(order(PROTO_LOAD, "red"), PROTO_STATUS_OK);
	assert_int_equal(live_stat(admin, "variants_resident"), 2);
	assert_int_equal(order(PROTO_UNLOAD, "red"), PROTO_STATUS_OK);
	assert_int_equal(live_stat(admin, "deltas_bytes"), 0);
	assert_int_equal(order(PROTO_UNLOAD, "red"), PROTO_STATUS_NOT_RESIDENT);
	assert_int_equal(order(PROTO_UNLOAD, "base"), PROTO_STATUS_NOT_PERMITTED);
	assert_int_equal(order(PROTO_LOAD, "nobody"), PROTO_STATUS_UNKNOWN_VARIANT);
	assert_int_equal(order(PROTO_SHOW, "red"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_SHOW, "base"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_SHOW, "nobody"), PROTO_STATUS_UNKNOWN_VARIANT);
}

/* A sanitizer keeps what is freed, and memory of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* Memory that the daemon holds by a descriptor, whether it has looked at it or not. */
static uint64_t memory_files_bytes(void)
{
	char path[64], target[64];
	uint64_t sum = 0;
	struct stat st;

	for (int fd = 0; fd < 256; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)the_daemon.pid, fd);
		n = readlink(path, target, sizeof(target));
		if (n > 7 && memcmp(target, "/memfd:", 7) == 0 && stat(path, &st) == 0)
			sum += (uint64_t)st.st_blocks * 512;
	}
	return sum;
}

static uint64_t kernel_bytes(void)
{
	return live_stat(admin, "kernel_anonymous_bytes") + memory_files_bytes();
}

/* What a delta is said to take, with what it expands into, is what the kernel gave for it, within
 * 2 % and some pages of threads and tables, and gets back. What was unloaded is freed before the
 * next load begins, so memory is measured after loads; the first ones make what is kept. */
static void test_memory_adds_up(void **state)
{
	uint64_t said = 0, one = 0, two = 0, slack;

	(void)state;
	if (SANITIZED)
		skip();
	assert_true(expanded_bytes >= delta_bytes / 10);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(order(PROTO_LOAD, "red"), PROTO_STATUS_OK);
		one = kernel_bytes();
		said = live_stat(admin, "deltas_bytes");
		assert_int_equal(order(PROTO_LOAD, "blue"), PROTO_STATUS_OK);
		two = kernel_bytes();
		said = live_stat(admin, "deltas_bytes") - said;
		assert_int_equal(order(PROTO_UNLOAD, "red"), PROTO_STATUS_OK);
		assert_int_equal(order(PROTO_UNLOAD, "blue"), PROTO_STATUS_OK);
	}
	slack = said / 50 + (UINT64_C(256) << 10);
	assert_in_range(two - one, said - slack, said + slack);
	assert_int_equal(order(PROTO_LOAD, "red"), PROTO_STATUS_OK);
	assert_in_range(kernel_bytes(), one - slack, one + slack);
	assert_int_equal(order(PROTO_UNLOAD, "red"), PROTO_STATUS_OK);
}

static void test_eviction_under_the_budget(void **state)
{
	uint64_t evictions = live_stat(admin, "evictions");

	(void)state;
	live_store_copy(&store, "blue", "green");
	assert_int_equal(order(PROTO_LOAD, "red"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_LOAD, "blue"), PROTO_STATUS_OK);
	live_ask(admin, "red", PROMPT, 4, &answer);
	live_ask(admin, "green", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_int_equal(live_residency(admin, "blue"), PROTO_RESIDENCY_DISK);
	assert_int_equal(live_residency(admin, "red"), PROTO_RESIDENCY_RESIDENT);
	assert_int_equal(live_stat(admin, "evictions"), evictions + 1);
	/* Pinned ones stay, and then there is no room. */
	assert_int_equal(order(PROTO_PIN, "red"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_PIN, "green"), PROTO_STATUS_OK);
	live_ask(admin, "blue", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_BUDGET);
	assert_int_equal(order(PROTO_UNLOAD, "red"), PROTO_STATUS_NOT_PERMITTED);
	assert_int_equal(order(PROTO_UNPIN, "red"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_UNPIN, "red"), PROTO_STATUS_NOT_RESIDENT);
	live_ask(admin, "blue", PROMPT, 4, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_int_equal(live_residency(admin, "red"), PROTO_RESIDENCY_DISK);
	assert_int_equal(order(PROTO_UNPIN, "green"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_UNLOAD, "green"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_UNLOAD, "blue"), PROTO_STATUS_OK);
	assert_true(live_stat(admin, "deltas_charged_bytes") == 0);
	remove_delta("green");
}

/* Unloading waits for the stream, whose tokens it does not touch; the answer comes afterwards. */
static void test_unload_while_streaming(void **state)
{
	struct proto_message m = live_complete("red", PROMPT, 300);
	struct connection *client = live_connect(&the_daemon);
	uint64_t request;

	(void)state;
	live_ask(admin, "red", PROMPT, 300, &other);
	request = live_send(client, &m);
	live_await_stat(admin, "engine_running", 1);
	assert_int_equal(order(PROTO_UNLOAD, "red"), PROTO_STATUS_OK);
	assert_int_equal(live_stat(admin, "engine_running"), 0);
	assert_int_equal(live_stat(admin, "deltas_bytes"), 0);
	live_collect(client, request, &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_memory_equal(answer.tokens, other.tokens, 300 * sizeof(answer.tokens[0]));
	connection_free(client);
}

/* A file that is replaced is noticed by the next load; who streams from the old one is not
 * disturbed. */
static void test_replaced_file(void **state)
{
	struct proto_message m = live_complete("changing", PROMPT, 200);
	struct connection *client = live_connect(&the_daemon);
	uint64_t request;

	(void)state;
	live_ask(admin, "blue", PROMPT, 24, &other);
	live_store_copy(&store, "red", "changing");
	live_ask(admin, "changing", PROMPT, 200, &answer);
	request = live_send(client, &m);
	live_await_stat(admin, "engine_running", 1);
	remove_delta("changing");
	live_store_copy(&store, "blue", "changing");
	assert_int_equal(order(PROTO_LOAD, "changing"), PROTO_STATUS_OK);
	live_ask(admin, "changing", PROMPT, 24, &answer);
	assert_memory_equal(answer.tokens, other.tokens, 24 * sizeof(answer.tokens[0]));
	live_collect(client, request, &answer);
	live_ask(admin, "red", PROMPT, 200, &other);
	assert_memory_equal(answer.tokens, other.tokens, 200 * sizeof(answer.tokens[0]));
	connection_free(client);
	remove_delta("changing");
}

/* A replacement that is of no use takes nothing away: neither what is served, nor its pin. */
static void test_bad_replacement(void **state)
{
	(void)state;
	live_store_copy(&store, "red", "changing");
	live_ask(admin, "changing", PROMPT, 24, &other);
	assert_int_equal(order(PROTO_PIN, "changing"), PROTO_STATUS_OK);
	remove_delta("changing");
	live_store_copy(&store, "blue", "changing");
	break_delta("changing", (off_t)delta_bytes / 2, 0);
	assert_int_equal(order(PROTO_LOAD, "changing"), PROTO_STATUS_LOAD_FAILED);
	assert_int_equal(live_residency(admin, "changing"), PROTO_RESIDENCY_RESIDENT);
	live_ask(admin, "changing", PROMPT, 24, &answer);
	assert_memory_equal(answer.tokens, other.tokens, 24 * sizeof(answer.tokens[0]));
	assert_int_equal(order(PROTO_UNLOAD, "changing"), PROTO_STATUS_NOT_PERMITTED);
	/* A good one gets both. */
	remove_delta("changing");
	live_store_copy(&store, "blue", "changing");
	assert_int_equal(order(PROTO_LOAD, "changing"), PROTO_STATUS_OK);
	live_ask(admin, "blue", PROMPT, 24, &other);
	live_ask(admin, "changing", PROMPT, 24, &answer);
	assert_memory_equal(answer.tokens, other.tokens, 24 * sizeof(answer.tokens[0]));
	assert_int_equal(order(PROTO_UNLOAD, "changing"), PROTO_STATUS_NOT_PERMITTED);
	assert_int_equal(order(PROTO_UNPIN, "changing"), PROTO_STATUS_OK);
	assert_int_equal(order(PROTO_UNLOAD, "changing"), PROTO_STATUS_OK);
	remove_delta("changing");
}

static uint32_t context_told(struct connection *c, const char *name)
{
	static struct wire_received received;
	struct proto_message m = {.op = PROTO_MODELS};
	uint32_t context = 0;

	assert_int_equal(connection_call(c, &m, &received, NULL), 0);
	assert_int_equal(received.message.op, PROTO_MODELS_REPLY);
	for (uint32_t i = 0; i < received.message.variants.n; i++)
		if (proto_str_equal(received.message.variants.items[i].name, name))
			context = received.message.variants.items[i].context;
	wire_received_done(&received);
	return context;
}

/* The context that is told is what a request may have, also where there is memory for less than the
 * model could take. */
static void test_context_is_what_fits(void **state)
{
	const struct live_options options = {.yaml = "memory:\n  kv: 1 MiB\n"};
	struct live_daemon small;
	struct connection *c;
	uint32_t id = 1, context;
	struct proto_message m = live_complete("red", "", 0);

	(void)state;
	assert_true(context_told(admin, "base") > 0);
	live_daemon_start(&small, &store, &options);
	c = live_connect_admin(&small);
	assert_int_equal(context_told(c, "red"), 0);
	assert_int_equal(live_order(c, PROTO_LOAD, "red", words), PROTO_STATUS_OK);
	context = context_told(c, "red");
	assert_true(context > 1 && context < context_told(admin, "base"));
	m.complete.prompt = PROTO_PROMPT_IDS;
	m.complete.ids = &id;
	m.complete.n_ids = 1;
	m.complete.max_tokens = context - 1;
	live_collect(c, live_send(c, &m), &answer);
	assert_int_equal(answer.status, PROTO_STATUS_OK);
	assert_int_equal(answer.n_tokens, context - 1);
	m.request = 0;
	m.complete.max_tokens = context;
	live_collect(c, live_send(c, &m), &answer);
	assert_int_equal(answer.status, PROTO_STATUS_TOO_LONG);
	connection_free(c);
	live_daemon_stop(&small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_flipped_byte),
		cmocka_unit_test(test_delta_of_another_base),
		cmocka_unit_test(test_repaired_file),
		cmocka_unit_test(test_load_and_unload),
		cmocka_unit_test(test_memory_adds_up),
		cmocka_unit_test(test_eviction_under_the_budget),
		cmocka_unit_test(test_unload_while_streaming),
		cmocka_unit_test(test_replaced_file),
		cmocka_unit_test(test_bad_replacement),
		cmocka_unit_test(test_context_is_what_fits),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
