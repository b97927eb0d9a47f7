/*
 * The service manager's watchdog is fed only while work goes on: the loop runs, or this would not
 * be called, and the engine has made a step lately or has nothing to do.
 */
#include "common/clock.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/server.h"

#define NS_PER_MS UINT64_C(1000000)
/* notify_watchdog_ms() is half of what the service manager allows. */
#define PATIENCE 2

static bool engine_is_alive(struct server *server, uint64_t patience_ns)
{
	uint64_t now = clock_ns();
	struct engine_stats stats;

	if (!server->engine)
		return true;
	engine_stats(server->engine, &stats);
	if (stats.idle) {
		server->idle_ns = now;
		return true;
	}
	return now - max_u64(min_u64(stats.last_step_ns, now), server->idle_ns) <= patience_ns;
}

static int on_watchdog_timer(void *user)
{
	struct server *server = user;
	uint64_t period_ms = notify_watchdog_ms();
	bool alive = engine_is_alive(server, PATIENCE * period_ms * NS_PER_MS);

	if (alive)
		notify_watchdog();
	else if (!server->stuck)
		log_error("the engine makes no progress");
	server->stuck = !alive;
	return loop_timer_set(server->watchdog_timer, period_ms);
}

int server_start_watchdog(struct server *server)
{
	uint64_t period_ms = notify_watchdog_ms();
	int r;

	if (!period_ms)
		return 0;
	r = loop_add_timer(server->loop, on_watchdog_timer, server, &server->watchdog_timer);
	if (r < 0)
		return r;
	return loop_timer_set(server->watchdog_timer, period_ms);
}
