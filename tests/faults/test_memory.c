/*
 * Memory runs out at every single place, one after the other: loading files, making what serves
 * them, text and tokens, and the whole daemon under requests. Each time an error comes back,
 * nothing stays behind, and the next try works.
 *
 * The linker puts the functions here before those of the C library (see the Makefile).
 */
#include "client/connection.h"
#include "daemon/server.h"
#include "engine/chat.h"
#include "engine/sampler.h"
#include "foreign/tokenizer_json.h"
#include "store/reader.h"
#include "tests/imported_base.h"
#include "tests/live_daemon.h"
#include "tests/random_delta.h"
#include "tests/scratch.h"
#include "tests/scripted_daemon.h"
#include "tests/small_image.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "models/Llama-deltad-16M-math"
#define LARGE "models/Llama-deltad-16M"
#define MANY 100000

/* The allocation that fails, counted down; 0: none. Threads that test are spared. */
static atomic_long countdown;
static _Thread_local bool spared;

static bool fails(void)
{
	if (spared || atomic_load(&countdown) <= 0 || atomic_fetch_sub(&countdown, 1) != 1)
		return false;
	errno = ENOMEM;
	return true;
}

/* What was allocated since tracking began and not freed yet. Others than ours may free what is not
 * in here, and the other way round. */
static struct {
	pthread_mutex_t lock;
	bool on;
	size_t n;
	void *items[1 << 14];
} live = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *note(void *at)
{
	pthread_mutex_lock(&live.lock);
	if (at && live.on && live.n < array_len(live.items))
		live.items[live.n++] = at;
	pthread_mutex_unlock(&live.lock);
	return at;
}

static void forget(const void *at)
{
	pthread_mutex_lock(&live.lock);
	for (size_t i = live.n; at && i-- > 0;) {
		if (live.items[i] != at)
			continue;
		live.items[i] = live.items[--live.n];
		break;
	}
	pthread_mutex_unlock(&live.lock);
}

static void track(bool on)
{
	live.on = on;
	live.n = 0;
}

#define WRAPPED(result, name, parameters, ...)                                                     \
	result __real_##name parameters;                                                           \
	result __wrap_##name parameters;                                                           \
	result __wrap_##name parameters                                                            \
	{                                                                                          \
		return fails() ? NULL : note(__real_##name(__VA_ARGS__));                          \
	}
#define WRAPPED_MOVE(name, parameters, ...)                                                        \
	void *__real_##name parameters;                                                            \
	void *__wrap_##name parameters;                                                            \
	void *__wrap_##name parameters                                                             \
	{                                                                                          \
		if (fails())                                                                       \
			return NULL;                                                               \
		forget(at);                                                                        \
		return note(__real_##name(__VA_ARGS__));                                           \
	}
WRAPPED(void *, malloc, (size_t n), n)
WRAPPED(void *, calloc, (size_t n, size_t size), n, size)
WRAPPED_MOVE(realloc, (void *at, size_t n), at, n)
WRAPPED_MOVE(reallocarray, (void *at, size_t n, size_t size), at, n, size)
WRAPPED(void *, aligned_alloc, (size_t alignment, size_t n), alignment, n)
WRAPPED(char *, strdup, (const char *s), s)
WRAPPED(char *, strndup, (const char *s, size_t n), s, n)
#undef WRAPPED
#undef WRAPPED_MOVE

void __real_free(void *at);
void __wrap_free(void *at);
void __wrap_free(void *at)
{
	forget(at);
	__real_free(at);
}

/* A thread is memory, too. What can be done without it, must be. */
int __real_pthread_create(
	pthread_t *ret, const pthread_attr_t *attributes, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(
	pthread_t *ret, const pthread_attr_t *attributes, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(
	pthread_t *ret, const pthread_attr_t *attributes, void *(*fn)(void *), void *arg)
{
	return fails() ? EAGAIN : __real_pthread_create(ret, attributes, fn, arg);
}

/* Tries with the first allocation failing, the second, and so on, until there is none to fail. */
static void fail_each(const char *what, int (*fn)(void))
{
	size_t descriptors;
	long n = 0;
	int r;

	/* What is made once and kept, in the C library too, is made now. */
	assert_int_equal(fn(), 0);
	descriptors = open_descriptors();
	do {
		track(true);
		atomic_store(&countdown, ++n);
		r = fn();
		if (live.n)
			fail_msg("%s, allocation %ld: %zu allocations stay", what, n, live.n);
		track(false);
		if (atomic_exchange(&countdown, 0) > 0)
			break;
		/* Some things can be done without. */
		if (r != 0 && r != -ENOMEM && r != -EAGAIN)
			fail_msg("%s, allocation %ld: %s", what, n, strerror(-r));
		assert_int_equal(open_descriptors(), descriptors);
	} while (n < MANY);
	assert_int_equal(r, 0);
	assert_true(n > 1);
}

static struct base *base;
static struct kernels kernels;
static struct model *model;

static int load_base(void)
{
	_cleanup_(closep) int fd = -1;
	_cleanup_(imagep) struct image *image = NULL;
	struct base *loaded;
	int r;

	spared = true;
	fd = small_base_file();
	spared = false;
	r = image_load(fd, &image, NULL, NULL);
	if (r == 0)
		r = base_bind(image, &loaded, NULL);
	if (r < 0)
		return r;
	image = NULL;
	base_free(loaded);
	return 0;
}

static int load_delta(void)
{
	_cleanup_(closep) int fd = -1;
	_cleanup_(imagep) struct image *image = NULL;
	struct variant *variant;
	struct delta *delta;
	int r;

	spared = true;
	fd = small_delta_file();
	spared = false;
	r = image_load(fd, &image, NULL, NULL);
	if (r == 0)
		r = delta_bind(image, base, &delta, NULL);
	if (r < 0)
		return r;
	image = NULL;
	r = variant_new(model, delta, &variant, NULL);
	if (r == 0)
		variant_free(variant);
	delta_free(delta);
	return r;
}

static int make_engine(void)
{
	static const struct engine_settings settings = {
		.n_threads = 2,
		.max_batch_rows = 8,
		.prompt_chunk = 4,
		.max_jobs = 4,
		.kv_type = KV_TYPE_F32,
		.kv_bytes = 1 << 20,
	};
	struct engine *engine;
	struct model *own;
	int r = model_new(base, &kernels, &own, NULL);

	if (r < 0)
		return r;
	r = engine_new(own, &settings, NULL, NULL, &engine, NULL);
	if (r == 0)
		engine_free(engine);
	model_free(own);
	return r;
}

static void test_loading(void **state)
{
	_cleanup_(closep) int fd = small_base_file();
	struct image *image;

	(void)state;
	assert_int_equal(image_load(fd, &image, NULL, NULL), 0);
	assert_int_equal(base_bind(image, &base, NULL), 0);
	assert_int_equal(kernels_select(&kernels, NULL, NULL), 0);
	assert_int_equal(model_new(base, &kernels, &model, NULL), 0);
	fail_each("base", load_base);
	fail_each("delta", load_delta);
	fail_each("engine", make_engine);
	model_free(model);
	base_free(base);
}

static char *large_path;
static struct base *large_base;

/* Large enough for several threads to expand it. */
static int expand_delta(void)
{
	struct delta *delta;
	int r = delta_open(large_path, large_base, &delta, NULL, NULL);

	if (r < 0)
		return r;
	assert_true(delta->expanded_bytes >= 1 << 20);
	delta_free(delta);
	return 0;
}

static void test_expanding(void **state)
{
	char *folder = scratch_folder();

	(void)state;
	large_path = scratch_path(folder, "large.delta");
	large_base = imported_base(LARGE);
	random_delta_file(large_base, 1, NULL, large_path);
	fail_each("a large delta", expand_delta);
	base_free(large_base);
	scratch_remove(folder);
	free(large_path);
	free(folder);
}

static uint8_t *tables, *section;
static size_t n_tables, n_section;
static struct tokenizer *tokenizer;

static int make_chat(void)
{
	static const struct chat_message talk[] = {
		{CHAT_ROLE_SYSTEM, "Be brief.", 9},
		{CHAT_ROLE_USER, "What is 2 + 3? \xe2\x82\xac", 18},
	};
	struct chat_format *format;
	uint32_t *ids = NULL;
	char *text = NULL;
	size_t n;
	int r = chat_format_new(section, n_section, &format, NULL);

	if (r < 0)
		return r;
	r = chat_render(format, tokenizer, talk, array_len(talk), &ids, &n, NULL);
	if (r == 0)
		r = tokenizer_decode(tokenizer, ids, n, false, &text, &n, NULL);
	free(text);
	free(ids);
	chat_format_free(format);
	return r;
}

static int make_tokenizer(void)
{
	struct tokenizer *t;
	int r = tokenizer_new(tables, n_tables, NULL, 0, &t, NULL);

	if (r == 0)
		tokenizer_free(t);
	return r;
}

static int make_sampler(void)
{
	static const uint32_t prompt[] = {1, 2, 3};
	struct sampler_settings settings = sampler_defaults;
	struct sampler *sampler;
	int r;

	settings.temperature = 1;
	settings.presence_penalty = 1;
	r = sampler_new(&settings, 100, prompt, array_len(prompt), &sampler);
	if (r == 0)
		sampler_free(sampler);
	return r;
}

/* A vocabulary so small that every allocation of a tokenizer can be tried. */
static void small_tables(void)
{
	static const char json[] =
		"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true}],"
		"\"normalizer\":{\"type\":\"NFC\"},"
		"\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
		"\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},\"post_processor\":null,"
		"\"model\":{\"type\":\"BPE\",\"unk_token\":null,\"vocab\":{\"a\":0,\"<s>\":1,"
		"\"b\":2,\"ab\":3},\"merges\":[\"a b\"]}}";
	char *folder = scratch_folder();
	struct reason reason = {""};

	free(scratch_write(folder, "tokenizer.json", json, sizeof(json) - 1));
	if (tokenizer_compile(folder, &tables, &n_tables, &reason) < 0)
		fail_msg("%s", reason.text);
	scratch_remove(folder);
	free(folder);
}

static void test_text(void **state)
{
	uint8_t *shipped;
	size_t n;

	(void)state;
	assert_int_equal(tokenizer_compile(MODEL, &shipped, &n, NULL), 0);
	assert_int_equal(tokenizer_new(shipped, n, NULL, 0, &tokenizer, NULL), 0);
	assert_int_equal(chat_format_compile(MODEL, &section, &n_section, NULL), 0);
	small_tables();
	fail_each("tokenizer", make_tokenizer);
	fail_each("chat", make_chat);
	fail_each("sampler", make_sampler);
	tokenizer_free(tokenizer);
	free(shipped);
	free(section);
	free(tables);
}

/* The daemon in this process, on a thread of its own. */
static void *serve(void *server)
{
	assert_int_equal(server_run(server), 0);
	return NULL;
}

/* Whatever happened to a request: the connection tells, or has ended. */
static void ask_and_ignore(const char *path, struct proto_message *m)
{
	static struct wire_received received;
	struct connection *c;
	bool more = true;

	m->request = 0;
	if (connection_open(path, "test", &c, NULL) < 0)
		return;
	more = connection_send(c, m, NULL) == 0;
	while (more) {
		int r = connection_receive(c, 0, LIVE_TIMEOUT_MS, &received, NULL);

		assert_int_not_equal(r, -ETIMEDOUT);
		more = r == 0 && received.message.op == PROTO_TOKEN;
		if (r == 0)
			wire_received_done(&received);
	}
	connection_free(c);
}

/* A good request, whose answer is there: it has come to no harm. */
static void ask(const char *path, const char *variant)
{
	static struct answer answer;
	struct connection *c;
	struct reason reason;

	assert_int_equal(connection_open(path, "test", &c, &reason), 0);
	live_ask(c, variant, "Tom has", 3, &answer);
	if (answer.status != PROTO_STATUS_OK || answer.n_tokens != 3)
		fail_msg("%s: %s", variant, answer.words);
	connection_free(c);
}

static void fail_requests(const char *path, struct proto_message *m, const char *unload)
{
	long n = 0;
	bool failed;

	do {
		char words[PROTO_MAX_WORDS + 1];
		struct connection *admin;

		if (unload) {
			assert_int_equal(connection_open(unload, "test", &admin, NULL), 0);
			(void)live_order(admin, PROTO_UNLOAD, "blue", words);
			connection_free(admin);
		}
		atomic_store(&countdown, ++n);
		ask_and_ignore(path, m);
		failed = atomic_exchange(&countdown, 0) <= 0;
		ask(path, "base");
	} while (failed && n < MANY);
	assert_true(n > 3);
}

static void test_requests(void **state)
{
	struct proto_message tokenize = {.op = PROTO_TOKENIZE}, list = {.op = PROTO_MODELS},
			     complete = live_complete("base", "Tom has three", 4),
			     cold = live_complete("blue", "Tom has three", 4);
	struct live_daemon places = {.folder = scratch_folder()};
	struct server_options options = {0};
	struct reason reason = {""};
	struct live_store store;
	struct config *config = NULL;
	struct server *server = NULL;
	pthread_t thread;
	char words[PROTO_MAX_WORDS + 1];
	struct connection *admin;

	(void)state;
	spared = true;
	live_store_make(&store);
	places.config = scratch_path(places.folder, "deltad.yaml");
	places.socket = scratch_path(places.folder, "deltad.sock");
	places.admin = scratch_path(places.folder, "admin.sock");
	live_daemon_configure(&places, &store, NULL);
	options.config_path = places.config;
	if (server_read_config(&options, &config, &reason) < 0 ||
		server_new(&options, config, &server, &reason) < 0)
		fail_msg("%s", reason.text);
	assert_int_equal(pthread_create(&thread, NULL, serve, server), 0);
	tokenize.tokenize.variant = proto_str("base");
	tokenize.tokenize.text = proto_str("Tom has three apples and gives one to Ann.");
	complete.complete.sampling.temperature = 1;
	complete.complete.sampling.presence_penalty = 1;
	ask(places.socket, "base");
	ask(places.socket, "blue");
	fail_requests(places.socket, &tokenize, NULL);
	fail_requests(places.socket, &list, NULL);
	fail_requests(places.socket, &complete, NULL);
	fail_requests(places.socket, &cold, places.admin);
	ask(places.socket, "blue");
	assert_int_equal(connection_open(places.admin, "test", &admin, NULL), 0);
	assert_int_equal(live_order(admin, PROTO_DRAIN, NULL, words), PROTO_STATUS_OK);
	connection_free(admin);
	pthread_join(thread, NULL);
	server_free(server);
	live_store_remove(&store);
	scratch_remove(places.folder);
	free(places.config);
	free(places.socket);
	free(places.admin);
	free(places.folder);
	spared = false;
}

static void finish_at_once(struct script *s)
{
	spared = true;
	script_hello(s);
	script_finish(s, script_expect(s, PROTO_COMPLETE)->request, PROTO_FINISH_STOP);
	script_expect_end(s);
}

/* The library has no memory for a stream's last event, after which nothing comes. */
static void test_last_event(void **state)
{
	struct deltad_complete_options options = DELTAD_COMPLETE_INIT;
	struct scripted_daemon *daemon;
	const struct deltad_event *e;
	struct deltad *d;
	uint64_t stream;
	int r;

	(void)state;
	options.variant = "base";
	options.text = "";
	daemon = scripted_daemon_connect(finish_at_once, &d);
	assert_int_equal(deltad_complete(d, &options, &stream), 0);
	atomic_store(&countdown, 1);
	r = deltad_next(d, stream, LIVE_TIMEOUT_MS, &e);
	atomic_store(&countdown, 0);
	assert_int_equal(r, -ENOMEM);
	assert_int_equal(deltad_next(d, stream, 0, &e), -ENOENT);
	deltad_close(d);
	scripted_daemon_done(daemon);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_loading),
		cmocka_unit_test(test_expanding),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_last_event),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
