#include "tests/live_daemon.h"

#include "foreign/import.h"
#include "tests/imported_base.h"
#include "tests/program.h"
#include "tests/random_delta.h"
#include "tests/scratch.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#define MODEL "models/Llama-deltad-16M"
#define CHAT_MODEL "models/Llama-deltad-16M-math"
#define POLL_US 5000

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void live_store_make(struct live_store *s)
{
	_cleanup_(freep) char *base_path = NULL;
	_cleanup_(freep) char *red = NULL;
	_cleanup_(freep) char *blue = NULL;
	struct checkpoint *checkpoint = NULL;
	struct import_report report;
	struct reason reason = {""};
	struct base *base = NULL;
	int fd;

	s->folder = scratch_folder();
	base_path = scratch_path(s->folder, "base.base");
	red = scratch_path(s->folder, "red.delta");
	blue = scratch_path(s->folder, "blue.delta");
	fd = open(base_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	if (checkpoint_open(MODEL, &checkpoint, &reason) < 0 ||
		import_base(checkpoint, WEIGHTS_BF16, fd, NULL, &report, &reason) < 0 ||
		base_open(base_path, &base, NULL, &reason) < 0)
		fail_msg("%s: %s", MODEL, reason.text);
	close(fd);
	checkpoint_free(checkpoint);
	random_delta_file(base, 1, CHAT_MODEL, red);
	random_delta_file(base, 2, NULL, blue);
	base_free(base);
}

void live_store_remove(struct live_store *s)
{
	scratch_remove(s->folder);
	free(s->folder);
}

void live_store_copy(const struct live_store *s, const char *name, const char *other)
{
	char from[PATH_MAX], to[PATH_MAX], bytes[65536];
	int in, out;
	ssize_t n;

	snprintf(from, sizeof(from), "%s/%s.delta", s->folder, name);
	snprintf(to, sizeof(to), "%s/%s.delta", s->folder, other);
	in = open(from, O_RDONLY | O_CLOEXEC);
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(in >= 0 && out >= 0);
	while ((n = read(in, bytes, sizeof(bytes))) > 0)
		assert_int_equal(write(out, bytes, (size_t)n), n);
	assert_int_equal(n, 0);
	close(in);
	close(out);
}

void live_daemon_configure(struct live_daemon *d, const struct live_store *store, const char *yaml)
{
	_cleanup_(freep) char *text = NULL;
	int n = asprintf(&text, "store:\n  folder: %s\nsockets:\n  inference: %s\n  admin: %s\n%s",
		store->folder, d->socket, d->admin, yaml ? yaml : "memory:\n  kv: 32 MiB\n");

	assert_true(n > 0);
	free(scratch_write(d->folder, "deltad.yaml", text, (size_t)n));
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	assert_true(strlen(path) < sizeof(address.sun_path));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	return address;
}

static int bound_socket(const char *path, int type)
{
	struct sockaddr_un address = address_of(path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* The service manager's side. It must read all the time: its socket holds only a few messages, and
 * the daemon would wait for it. */
struct live_manager {
	pthread_t thread;
	pthread_mutex_t lock;
	int socket;
	char *told; /* everything so far, a line each */
};

static void *hear(void *user)
{
	struct live_manager *m = user;
	char bytes[4096];
	ssize_t n;

	while ((n = recv(m->socket, bytes, sizeof(bytes) - 1, 0)) > 0) {
		char *more;

		bytes[n] = '\0';
		pthread_mutex_lock(&m->lock);
		if (asprintf(&more, "%s%s\n", m->told, bytes) > 0) {
			free(m->told);
			m->told = more;
		}
		pthread_mutex_unlock(&m->lock);
	}
	return NULL;
}

static struct live_manager *manager_new(const char *path)
{
	struct live_manager *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	m->socket = bound_socket(path, SOCK_DGRAM);
	m->told = strdup("\n");
	pthread_mutex_init(&m->lock, NULL);
	assert_int_equal(pthread_create(&m->thread, NULL, hear, m), 0);
	return m;
}

static void manager_free(struct live_manager *m)
{
	shutdown(m->socket, SHUT_RDWR);
	pthread_join(m->thread, NULL);
	pthread_mutex_destroy(&m->lock);
	close(m->socket);
	free(m->told);
	free(m);
}

size_t live_daemon_told(const struct live_daemon *d, const char *line)
{
	_cleanup_(freep) char *pattern = NULL;
	size_t n = 0;

	assert_true(asprintf(&pattern, "\n%s", line) > 0);
	pthread_mutex_lock(&d->manager->lock);
	for (const char *at = d->manager->told; (at = strstr(at, pattern)); at++)
		n++;
	pthread_mutex_unlock(&d->manager->lock);
	return n;
}

/* In the child: the descriptors 3 and 4, the environment, the program. */
static void become_daemon(struct live_daemon *d, const struct live_options *options, int sockets[2],
	const char *program)
{
	char number[32];
	int log = open(d->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(log, STDERR_FILENO);
	if (options->pass_sockets) {
		int high[2] = {fcntl(sockets[0], F_DUPFD, 10), fcntl(sockets[1], F_DUPFD, 10)};

		dup2(high[0], 3);
		dup2(high[1], 4);
		close(high[0]);
		close(high[1]);
		snprintf(number, sizeof(number), "%d", getpid());
		setenv("LISTEN_PID", number, 1);
		setenv("LISTEN_FDS", "2", 1);
		setenv("LISTEN_FDNAMES", "inference:admin", 1);
	}
	if (options->watchdog_ms) {
		snprintf(number, sizeof(number), "%d", options->watchdog_ms * 1000);
		setenv("WATCHDOG_USEC", number, 1);
	}
	execl(program, "deltad", "--config", d->config, NULL);
	_exit(127);
}

static pid_t spawn(struct live_daemon *d, const struct live_options *options, int sockets[2])
{
	_cleanup_(freep) char *notify = scratch_path(d->folder, "notify");
	char program[PROGRAM_PATH_MAX];
	pid_t pid;

	program_path("deltad", program);
	setenv("NOTIFY_SOCKET", notify, 1);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		become_daemon(d, options, sockets, program);
	unsetenv("NOTIFY_SOCKET");
	return pid;
}

void live_daemon_start(
	struct live_daemon *d, const struct live_store *store, const struct live_options *options)
{
	static const struct live_options plain;
	_cleanup_(freep) char *notify = NULL;
	int sockets[2] = {-1, -1};

	options = options ? options : &plain;
	*d = (struct live_daemon){
		.folder = scratch_folder(),
		.passed = options->pass_sockets,
	};
	d->config = scratch_path(d->folder, "deltad.yaml");
	d->log = scratch_path(d->folder, "log");
	d->socket = scratch_path(d->folder, "deltad.sock");
	d->admin = scratch_path(d->folder, "admin.sock");
	notify = scratch_path(d->folder, "notify");
	d->manager = manager_new(notify);
	live_daemon_configure(d, store, options->yaml);
	if (options->pass_sockets) {
		sockets[0] = bound_socket(d->socket, SOCK_SEQPACKET);
		sockets[1] = bound_socket(d->admin, SOCK_SEQPACKET);
		assert_int_equal(listen(sockets[0], 16) | listen(sockets[1], 16), 0);
	}
	d->pid = spawn(d, options, sockets);
	closep(&sockets[0]);
	closep(&sockets[1]);
	if (!options->do_not_wait)
		live_daemon_await(d, "READY=1");
}

static void fail_with_log(const struct live_daemon *d, const char *what)
{
	char log[8192];
	FILE *f = fopen(d->log, "re");
	size_t n = f ? fread(log, 1, sizeof(log) - 1, f) : 0;

	log[n] = '\0';
	if (f)
		fclose(f);
	fail_msg("%s; the daemon's log:\n%s", what, log);
}

void live_daemon_await_times(const struct live_daemon *d, const char *line, size_t n)
{
	uint64_t until = now_ms() + LIVE_TIMEOUT_MS;
	int status;

	while (live_daemon_told(d, line) < n) {
		if (now_ms() > until || waitpid(d->pid, &status, WNOHANG) != 0)
			fail_with_log(d, line);
		usleep(POLL_US);
	}
}

void live_daemon_await(const struct live_daemon *d, const char *line)
{
	live_daemon_await_times(d, line, 1);
}

static void release(struct live_daemon *d)
{
	manager_free(d->manager);
	scratch_remove(d->folder);
	free(d->folder);
	free(d->config);
	free(d->log);
	free(d->socket);
	free(d->admin);
}

static int wait_for(const struct live_daemon *d, pid_t pid)
{
	uint64_t until = now_ms() + LIVE_TIMEOUT_MS;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > until)
			fail_with_log(d, "the daemon does not end");
		usleep(POLL_US);
	}
	return status;
}

int live_daemon_wait(struct live_daemon *d)
{
	int status = wait_for(d, d->pid);

	if (!WIFEXITED(status))
		fail_with_log(d, "the daemon was killed");
	/* It removes the sockets that it made, and no others. */
	assert_int_equal(access(d->socket, F_OK) == 0, d->passed);
	assert_int_equal(access(d->admin, F_OK) == 0, d->passed);
	release(d);
	return WEXITSTATUS(status);
}

void live_daemon_kill(struct live_daemon *d)
{
	kill(d->pid, SIGKILL);
	assert_true(WIFSIGNALED(wait_for(d, d->pid)));
}

void live_daemon_restart(struct live_daemon *d)
{
	static const struct live_options plain;
	size_t ready = live_daemon_told(d, "READY=1");

	d->pid = spawn(d, &plain, NULL);
	live_daemon_await_times(d, "READY=1", ready + 1);
}

int live_daemon_run_again(struct live_daemon *d)
{
	static const struct live_options plain;
	int status = wait_for(d, spawn(d, &plain, NULL));

	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

void live_daemon_stop(struct live_daemon *d)
{
	kill(d->pid, SIGTERM);
	assert_int_equal(live_daemon_wait(d), 0);
}

static struct connection *connect_to(const char *path)
{
	struct connection *c;
	struct reason reason = {""};

	if (connection_open(path, "test", &c, &reason) < 0)
		fail_msg("%s: %s", path, reason.text);
	return c;
}

struct connection *live_connect(const struct live_daemon *d)
{
	return connect_to(d->socket);
}

struct connection *live_connect_admin(const struct live_daemon *d)
{
	return connect_to(d->admin);
}

struct proto_message live_complete(const char *variant, const char *prompt, uint32_t max_tokens)
{
	struct proto_message m = {.op = PROTO_COMPLETE};

	m.complete.variant = proto_str(variant);
	m.complete.flags = PROTO_COMPLETE_IGNORE_EOS;
	m.complete.max_tokens = max_tokens;
	m.complete.sampling.top_p = 1;
	m.complete.sampling.repetition_penalty = 1;
	m.complete.prompt = PROTO_PROMPT_TEXT;
	m.complete.text = proto_str(prompt);
	return m;
}

uint64_t live_send(struct connection *c, struct proto_message *m)
{
	struct reason reason = {""};

	if (connection_send(c, m, &reason) < 0)
		fail_msg("send: %s", reason.text);
	return m->request;
}

static void append(char *text, size_t room, struct proto_str more)
{
	size_t n = strlen(text);

	assert_true(more.n < room - n);
	memcpy(text + n, more.bytes, more.n);
	text[n + more.n] = '\0';
}

static void take_done(const struct proto_done *done, struct answer *ret)
{
	assert_int_equal(done->n_generated, ret->n_tokens);
	ret->status = done->status;
	ret->finish = done->finish;
	ret->n_prompt = done->n_prompt;
	ret->load_ns = done->load_ns;
	append(ret->text, sizeof(ret->text), done->text);
	append(ret->stop, sizeof(ret->stop), done->stop);
	append(ret->words, sizeof(ret->words), done->words);
}

/* False: that was the last. */
static bool take_reply(const struct proto_message *m, struct answer *ret)
{
	if (m->op == PROTO_TOKEN) {
		assert_true(ret->n_tokens < array_len(ret->tokens));
		ret->logprobs[ret->n_tokens] = m->token.logprob;
		ret->tokens[ret->n_tokens++] = m->token.token;
		append(ret->text, sizeof(ret->text), m->token.text);
		return true;
	}
	if (m->op == PROTO_DONE) {
		take_done(&m->done, ret);
		return false;
	}
	assert_int_equal(m->op, PROTO_ERROR);
	ret->status = m->error.status;
	append(ret->words, sizeof(ret->words), m->error.words);
	return false;
}

static void receive(struct connection *c, uint64_t request, struct wire_received *received)
{
	struct reason reason = {""};
	int r = connection_receive(c, request, LIVE_TIMEOUT_MS, received, &reason);

	if (r < 0)
		fail_msg("receive: %s (%s)", reason.text, strerror(-r));
}

void live_collect(struct connection *c, uint64_t request, struct answer *ret)
{
	static struct wire_received received;
	bool more = true;

	memset(ret, 0, sizeof(*ret));
	while (more) {
		receive(c, request, &received);
		more = take_reply(&received.message, ret);
		wire_received_done(&received);
	}
}

void live_ask(struct connection *c, const char *variant, const char *prompt, uint32_t max_tokens,
	struct answer *ret)
{
	struct proto_message m = live_complete(variant, prompt, max_tokens);

	live_collect(c, live_send(c, &m), ret);
}

enum proto_status live_order(struct connection *c, enum proto_op op, const char *name,
	char words[static PROTO_MAX_WORDS + 1])
{
	static struct wire_received received;
	struct proto_message m = {.op = op};
	enum proto_status status = PROTO_STATUS_OK;

	if (name)
		m.name.name = proto_str(name);
	receive(c, live_send(c, &m), &received);
	words[0] = '\0';
	if (received.message.op == PROTO_ERROR) {
		status = received.message.error.status;
		append(words, PROTO_MAX_WORDS + 1, received.message.error.words);
	} else if (received.message.op == PROTO_OK) {
		append(words, PROTO_MAX_WORDS + 1, received.message.ok.words);
	}
	wire_received_done(&received);
	return status;
}

uint64_t live_stat(struct connection *admin, const char *name)
{
	static struct wire_received received;
	struct proto_message m = {.op = PROTO_STATS};
	uint64_t value = UINT64_MAX;

	receive(admin, live_send(admin, &m), &received);
	assert_int_equal(received.message.op, PROTO_STATS_REPLY);
	for (uint32_t i = 0; i < received.message.stats_reply.n; i++)
		if (proto_str_equal(received.message.stats_reply.items[i].name, name))
			value = received.message.stats_reply.items[i].value;
	wire_received_done(&received);
	if (value == UINT64_MAX)
		fail_msg("there is no statistic %s", name);
	return value;
}

void live_await_stat(struct connection *admin, const char *name, uint64_t value)
{
	uint64_t until = now_ms() + LIVE_TIMEOUT_MS;

	while (live_stat(admin, name) != value) {
		if (now_ms() > until)
			fail_msg("%s is %llu and does not become %llu", name,
				(unsigned long long)live_stat(admin, name),
				(unsigned long long)value);
		usleep(POLL_US);
	}
}

enum proto_residency live_residency(struct connection *admin, const char *name)
{
	static struct wire_received received;
	enum proto_residency residency = PROTO_RESIDENCY_DISK;
	struct proto_message m = {.op = PROTO_LIST};

	receive(admin, live_send(admin, &m), &received);
	assert_int_equal(received.message.op, PROTO_LIST_REPLY);
	for (uint32_t i = 0; i < received.message.variants.n; i++)
		if (proto_str_equal(received.message.variants.items[i].name, name))
			residency = received.message.variants.items[i].residency;
	wire_received_done(&received);
	return residency;
}
