#include "daemon/server.h"

#include "common/clock.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/request.h"
#include "daemon/session.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define MIB (UINT64_C(1) << 20)
#define STATUS_MS 500
/* Events on their way from the engine for each job, before more messages are allocated. */
#define EVENTS_PER_JOB 4

/* A path of the command line is relative to where the daemon was started. */
static int override_path(struct config *c, const char *key, const char *path, struct reason *reason)
{
	char folder[PATH_MAX], absolute[2 * PATH_MAX];

	if (!path)
		return 0;
	if (path[0] == '/')
		return config_set(c, key, path, reason);
	if (!getcwd(folder, sizeof(folder)))
		return reason_set(reason, -errno, "working folder: %s", strerror(errno));
	snprintf(absolute, sizeof(absolute), "%s/%s", folder, path);
	return config_set(c, key, absolute, reason);
}

int server_read_config(
	const struct server_options *options, struct config **ret, struct reason *reason)
{
	_cleanup_(config_freep) struct config *c = NULL;
	int r;

	r = config_read(options->config_path, &c, reason);
	if (r < 0)
		return r;
	r = override_path(c, "store.folder", options->store_folder, reason);
	if (r >= 0)
		r = override_path(c, "store.base", options->base, reason);
	if (r >= 0)
		r = override_path(c, "sockets.inference", options->inference_socket, reason);
	if (r >= 0)
		r = override_path(c, "sockets.admin", options->admin_socket, reason);
	if (r >= 0)
		r = config_check(c, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(c);
	return 0;
}

/* "base.base" in the store, or a path of the administrator's. */
static int open_base(const struct server *server, int *ret_fd, struct reason *reason)
{
	const char *base = server->config->store_base;
	char path[2 * PATH_MAX];
	int fd;

	if (base[0] == '/')
		snprintf(path, sizeof(path), "%s", base);
	else
		snprintf(path, sizeof(path), "%s/%s", server->config->store_folder, base);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return reason_set(reason, -errno, "base image %s: %s", path, strerror(errno));
	*ret_fd = fd;
	return 0;
}

static int open_delta(const struct server *server, const char *name, int *ret_fd)
{
	int r = catalog_open_delta(server->catalog, name, ret_fd);

	return r > 0 ? -ENOENT : r;
}

/* A file whose header is not believed has its size; loading it will say what is wrong. */
static uint64_t memory_of(int fd, uint64_t file_bytes)
{
	struct format_header header;
	uint64_t sum;

	if (image_peek(fd, &header, NULL) < 0 || !add_u64(file_bytes, header.expanded_bytes, &sum))
		return file_bytes;
	return sum;
}

static int backend_find(
	void *user, const char *name, struct registry_file *ret, struct reason *reason)
{
	struct server *server = user;
	bool is_base = strcmp(name, SERVER_BASE_NAME) == 0;
	_cleanup_(closep) int fd = -1;
	struct stat st;
	int r;

	r = is_base ? open_base(server, &fd, reason) : open_delta(server, name, &fd);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	*ret = (struct registry_file){
		.fd = fd,
		.bytes = (uint64_t)st.st_size,
		.memory_bytes = memory_of(fd, (uint64_t)st.st_size),
		.device = st.st_dev,
		.inode = st.st_ino,
		.modified_ns = (uint64_t)st.st_mtim.tv_sec * UINT64_C(1000000000) +
			       (uint64_t)st.st_mtim.tv_nsec,
		.is_base = is_base,
	};
	(void)take_fd(&fd);
	return 0;
}

static int backend_load(void *user, uint64_t id, const char *name, struct registry_file *file)
{
	struct server *server = user;
	int r;

	r = loader_load(server->loader, id, name, file->fd, file->is_base);
	if (r < 0)
		return r;
	log_info("loading %s, %.1f MiB", name, (double)file->bytes / MIB);
	file->fd = -1;
	return 0;
}

/* The service manager is told at most every STATUS_MS, however much happens. */
static void status_changed(struct server *server)
{
	if (server->status_pending)
		return;
	server->status_pending = loop_timer_set(server->status_timer, STATUS_MS) >= 0;
}

static void show_status(const struct server *server)
{
	struct registry_stats stats;
	uint64_t done, total;

	if (server->draining)
		return;
	if (!server->base) {
		const struct entry *e = registry_find(server->registry, SERVER_BASE_NAME);

		if (loader_progress(server->loader, e->id, &done, &total) && total)
			notify_status("loading the base, %llu of %llu MiB",
				(unsigned long long)(done / MIB),
				(unsigned long long)(total / MIB));
		return;
	}
	registry_stats(server->registry, &stats);
	notify_status("serving the base and %llu deltas, %llu MiB",
		(unsigned long long)stats.n_resident - 1,
		(unsigned long long)(stats.memory_bytes / MIB));
}

static int on_status_timer(void *user)
{
	struct server *server = user;

	server->status_pending = false;
	show_status(server);
	if (!server->base)
		status_changed(server);
	return 0;
}

static void backend_drop(void *user, struct loaded *loaded)
{
	struct server *server = user;

	loader_drop(server->loader, loaded);
	status_changed(server);
}

static void stop_with_error(struct server *server, int error)
{
	server->error = error;
	loop_stop(server->loop);
}

static int start_engine(struct server *server, struct reason *reason)
{
	const struct config *config = server->config;
	const struct loaded *base = server->base->loaded;
	const struct engine_settings settings = {
		.n_threads = (uint32_t)config->engine_threads,
		.max_batch_rows = (uint32_t)config->engine_batch_rows,
		.prompt_chunk = (uint32_t)config->engine_prompt_chunk,
		.max_jobs = (uint32_t)config->engine_jobs,
		.kv_type = (enum kv_type)config->engine_kv_type,
		.kv_bytes = config->memory_kv,
	};
	struct engine_stats stats;
	int r;

	r = engine_new(
		base->model, &settings, events_emit, server->events, &server->engine, reason);
	if (r < 0)
		return r;
	engine_stats(server->engine, &stats);
	server->kv_positions = stats.kv_pages * KV_PAGE_TOKENS;
	return 0;
}

/* The first to be told that the base is there, because nobody could ask before. */
static void on_base_loaded(struct waiter *w, int condition, int error, const struct reason *reason)
{
	struct server *server = container_of(w, struct server, base_waiter);
	struct reason why = {""};
	int r;

	if (condition == REGISTRY_E_FAILED) {
		log_error("the base cannot be loaded: %s", reason->text);
		stop_with_error(server, error);
		return;
	}
	server->base = take_ptr(w->entry);
	r = start_engine(server, &why);
	if (r < 0) {
		log_error("the engine cannot start: %s", why.text[0] ? why.text : strerror(-r));
		stop_with_error(server, r);
		return;
	}
	log_info("ready: kernels %s, room for %llu tokens of keys and values", server->kernels.name,
		(unsigned long long)server->kv_positions);
	if (server->kernels.declined)
		log_warning("slower kernels than the CPU has: %s", server->kernels.declined);
	notify_ready();
	show_status(server);
}

static void tell_io_uring(struct server *server, const struct load_result *result)
{
	const struct image *image = result->loaded ? result->loaded->image : NULL;

	if (image && image->io_uring_refused && !server->io_uring_told) {
		server->io_uring_told = true;
		log_warning("the kernel refuses io_uring (%s): files are read plainly",
			strerror(image->io_uring_refused));
	}
	if (image && image->registration_refused && !server->registration_told) {
		server->registration_told = true;
		log_warning("io_uring may not hold the memory that it reads to (%s): "
			    "files are read more slowly; see RLIMIT_MEMLOCK",
			strerror(image->registration_refused));
	}
}

/* Which pages hold the base says how long it took to fill them, and a little how fast it is read.
 */
static void tell_base_memory(const struct load_result *result)
{
	const struct image *image = result->loaded ? result->loaded->image : NULL;

	if (!image || image->kind != IMAGE_KIND_BASE)
		return;
	log_info("the base takes %.1f MiB, %.0f %% of it in huge pages, on %u memory node%s",
		(double)image->mapped_bytes / MIB,
		100 * (double)image->huge_bytes / (double)image->mapped_bytes, image->n_nodes,
		image->n_nodes == 1 ? "" : "s");
}

static int on_load_result(void *user, uint32_t events)
{
	struct server *server = user;
	struct load_result *result;

	(void)events;
	while ((result = loader_take(server->loader))) {
		if (result->error < 0)
			log_warning("not loaded: %s", result->reason.text);
		tell_io_uring(server, result);
		tell_base_memory(result);
		registry_finish_load(server->registry, result->id, result->error, &result->reason,
			result->loaded, result->loaded ? loaded_memory(result->loaded) : 0);
		free(result);
	}
	status_changed(server);
	return 0;
}

static int on_closed(void *user, uint32_t events)
{
	const struct server *server = user;
	struct closing *closing;

	(void)events;
	while ((closing = closer_take(server->closer)))
		session_on_closed(closing);
	return 0;
}

static int on_engine_event(void *user, uint32_t epoll_events)
{
	struct server *server = user;
	struct engine_event event;

	(void)epoll_events;
	while (events_take(server->events, &event)) {
		struct request *r = jobs_find(server->jobs, event.job);

		if (r)
			request_on_event(r, &event);
	}
	return 0;
}

static void on_connection(void *user, enum proto_socket socket, int fd, const struct peer *peer)
{
	session_new(user, socket, fd, peer);
}

static int on_end_signal(void *user)
{
	server_drain(user);
	return 0;
}

static int on_reload_signal(void *user)
{
	struct reason words;

	/* Told to the log by itself; whoever sent the signal is not there to be told. */
	if (server_reload(user, &words) < 0)
		return 0;
	return 0;
}

void server_apply_limits(struct server *server)
{
	const struct config *c = server->config;

	log_set_level((enum log_level)c->log_level);
	acct_set_limit(server->acct, ACCT_KIND_CONNECTIONS, c->limits_connections_per_user);
	acct_set_limit(server->acct, ACCT_KIND_REQUESTS, c->limits_requests_per_user);
	acct_set_limit(server->acct, ACCT_KIND_QUEUED_BYTES, c->limits_queue_per_user);
	registry_set_budget(server->registry, c->memory_deltas);
}

/* Before the first thread starts, so that no thread but this takes signals. */
static int add_signals(struct server *server)
{
	struct loop *loop = server->loop;
	int r;

	r = loop_add_signal(loop, SIGTERM, on_end_signal, server, &server->on_sigterm);
	if (r >= 0)
		r = loop_add_signal(loop, SIGINT, on_end_signal, server, &server->on_sigint);
	if (r >= 0)
		r = loop_add_signal(loop, SIGHUP, on_reload_signal, server, &server->on_sighup);
	return r;
}

static int add_parts(struct server *server, struct reason *reason)
{
	const struct registry_backend backend = {
		.find = backend_find,
		.load = backend_load,
		.drop = backend_drop,
		.now_ns = clock_ns,
		.user = server,
	};
	const struct config *config = server->config;
	int r;

	r = kernels_select(&server->kernels, getenv("DELTAD_ISA"), reason);
	if (r >= 0)
		r = catalog_new(config->store_folder, &server->catalog, reason);
	if (r >= 0)
		r = acct_new(&server->acct);
	if (r >= 0)
		r = registry_new(&backend, config->memory_deltas, &server->registry);
	if (r >= 0)
		r = loader_new(&server->kernels, &server->loader);
	if (r >= 0)
		r = loop_add_io(server->loop, loader_fd(server->loader), EPOLLIN, on_load_result,
			server, &server->loader_io);
	if (r >= 0)
		r = closer_new(&server->closer);
	if (r >= 0)
		r = loop_add_io(server->loop, closer_fd(server->closer), EPOLLIN, on_closed, server,
			&server->closer_io);
	if (r >= 0)
		r = events_new(config->engine_jobs * EVENTS_PER_JOB, &server->events);
	if (r >= 0)
		r = loop_add_io(server->loop, events_fd(server->events), EPOLLIN, on_engine_event,
			server, &server->events_io);
	if (r >= 0)
		r = jobs_new(config->engine_jobs, &server->jobs);
	if (r >= 0)
		r = loop_add_timer(server->loop, on_status_timer, server, &server->status_timer);
	return r;
}

static int add_listener(struct server *server, enum proto_socket socket, int *passed,
	const char *path, uint64_t mode, struct reason *reason)
{
	struct listener **place = &server->listeners[socket];
	int r;

	if (*passed < 0)
		return listener_new_path(server->loop, socket, path, (mode_t)mode, on_connection,
			server, place, reason);
	r = listener_new_passed(server->loop, socket, *passed, on_connection, server, place);
	if (r >= 0)
		take_fd(passed);
	return r;
}

static int add_listeners(struct server *server, struct reason *reason)
{
	const struct config *c = server->config;
	struct notify_sockets passed = {-1, -1};
	int r;

	r = notify_take_sockets(&passed, reason);
	if (r < 0)
		return r;
	r = add_listener(server, PROTO_SOCKET_INFERENCE, &passed.inference, c->sockets_inference,
		c->sockets_inference_mode, reason);
	if (r >= 0)
		r = add_listener(server, PROTO_SOCKET_ADMIN, &passed.admin, c->sockets_admin,
			c->sockets_admin_mode, reason);
	closep(&passed.inference);
	closep(&passed.admin);
	return r;
}

static int begin_base(struct server *server, struct reason *reason)
{
	struct entry *ignored;
	int r;

	server->base_waiter.ready = on_base_loaded;
	r = registry_acquire(
		server->registry, SERVER_BASE_NAME, false, &server->base_waiter, &ignored, reason);
	if (r != REGISTRY_E_WAIT)
		return r < 0 ? r : -ENOENT;
	status_changed(server);
	return 0;
}

int server_new(const struct server_options *options, struct config *config, struct server **ret,
	struct reason *reason)
{
	_cleanup_(server_freep) struct server *server = calloc(1, sizeof(*server));
	int r;

	if (!server) {
		config_free(config);
		return -ENOMEM;
	}
	server->options = *options;
	server->config = config;
	server->started_ns = clock_ns();
	r = loop_new(&server->loop);
	if (r >= 0)
		r = add_signals(server);
	if (r >= 0)
		r = add_parts(server, reason);
	if (r < 0)
		return r;
	server_apply_limits(server);
	r = add_listeners(server, reason);
	if (r >= 0)
		r = server_start_watchdog(server);
	if (r >= 0)
		r = begin_base(server, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(server);
	return 0;
}

int server_run(struct server *server)
{
	int r = loop_run(server->loop);

	if (r < 0)
		log_error("the loop failed: %s", strerror(-r));
	return r < 0 ? r : server->error;
}

/* Those that the closer has not closed yet are its own afterwards. */
static void close_sessions(struct server *server)
{
	if (!server->loop)
		return;
	for (struct session *s = server->sessions; s; s = s->next)
		session_close(s, "the daemon ends");
	loop_run_deferred(server->loop);
	if (server->closer)
		on_closed(server, EPOLLIN);
	for (struct session *s = server->sessions; s; s = s->next)
		charge_release(&s->connection);
}

/* The engine's last events end its jobs; tokens among them come too late to be sent. */
static void end_jobs(struct server *server)
{
	struct engine_event event;

	server->engine = engine_free(server->engine);
	while (server->events && events_take(server->events, &event)) {
		struct request *r = jobs_find(server->jobs, event.job);

		if (r && event.kind == ENGINE_EVENT_FINISHED)
			request_on_event(r, &event);
	}
}

/* Requests end before what they hold: first the engine, whose last events end its jobs. */
struct server *server_free(struct server *server)
{
	if (!server)
		return NULL;
	for (size_t i = 0; i < array_len(server->listeners); i++)
		listener_free(server->listeners[i]);
	end_jobs(server);
	close_sessions(server);
	if (server->base)
		registry_release(server->registry, server->base);
	else if (server->registry)
		registry_forget(server->registry, &server->base_waiter);
	registry_free(server->registry);
	loop_source_free(server->loader_io);
	loop_source_free(server->closer_io);
	loop_source_free(server->events_io);
	loop_source_free(server->status_timer);
	loop_source_free(server->drain_timer);
	loop_source_free(server->watchdog_timer);
	loop_source_free(server->on_sigterm);
	loop_source_free(server->on_sigint);
	loop_source_free(server->on_sighup);
	loader_free(server->loader);
	closer_free(server->closer);
	events_free(server->events);
	jobs_free(server->jobs);
	acct_free(server->acct);
	catalog_free(server->catalog);
	free(server->received);
	loop_free(server->loop);
	config_free(server->config);
	free(server);
	return NULL;
}

struct wire_received *server_message_buffer(struct server *server)
{
	if (!server->received)
		server->received = malloc(sizeof(*server->received));
	return server->received;
}

void server_add_session(struct server *server, struct session *s)
{
	s->next = server->sessions;
	if (s->next)
		s->next->previous = s;
	server->sessions = s;
	server->n_sessions++;
}

void server_remove_session(struct server *server, struct session *s)
{
	if (s->next)
		s->next->previous = s->previous;
	if (s->previous)
		s->previous->next = s->next;
	else
		server->sessions = s->next;
	server->n_sessions--;
	server_check_drained(server);
}

uint64_t server_kv_positions(const struct server *server)
{
	return server->kv_positions;
}
