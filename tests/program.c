#include "tests/program.h"

#include "common/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_ARGUMENTS 62u

void program_path(const char *name, char ret[static PROGRAM_PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", ret, PATH_MAX);

	assert_true(n > 0);
	ret[n] = '\0';
	for (int i = 0; i < 3; i++)
		*strrchr(ret, '/') = '\0';
	snprintf(ret + strlen(ret), PROGRAM_PATH_MAX - PATH_MAX, "/bin/%s", name);
}

static char *text_of(int fd)
{
	struct stat st;
	char *text;

	assert_int_equal(fstat(fd, &st), 0);
	text = calloc(1, (size_t)st.st_size + 1);
	assert_non_null(text);
	assert_int_equal(pread(fd, text, (size_t)st.st_size, 0), st.st_size);
	return text;
}

/* In the child. */
static void become_deltactl(
	const char *program, const char *const *arguments, int output, int messages)
{
	char *argv[MAX_ARGUMENTS + 2] = {NULL};

	argv[0] = strdup("deltactl");
	for (size_t i = 0; i < MAX_ARGUMENTS && arguments[i]; i++)
		argv[i + 1] = strdup(arguments[i]);
	dup2(output, STDOUT_FILENO);
	dup2(messages, STDERR_FILENO);
	execv(program, argv);
	_exit(127);
}

char *program_deltactl(const char *const *arguments)
{
	_cleanup_(closep) int output = memfd_create("output", MFD_CLOEXEC);
	_cleanup_(closep) int messages = memfd_create("messages", MFD_CLOEXEC);
	char program[PROGRAM_PATH_MAX];
	int status;
	pid_t pid;

	assert_true(output >= 0 && messages >= 0);
	program_path("deltactl", program);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		become_deltactl(program, arguments, output, messages);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		_cleanup_(freep) char *said = text_of(messages);

		fail_msg("deltactl %s: status %#x: %s", arguments[0], (unsigned)status, said);
	}
	return text_of(output);
}
