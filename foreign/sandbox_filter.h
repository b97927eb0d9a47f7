/*
 * What a sandboxed process loses: everything here is irrevocable and meant for a fresh child.
 */
#pragma once

#include "foreign/sandbox.h"

/* Network, tracing, core dumps, memory past the limit and, where the kernel has Landlock, files
 * outside the writable folder. What the kernel does not grant to this user is left to the filter.
 */
int sandbox_drop(const struct sandbox_limits *limits, struct reason *reason) _must_check_;

/* The system-call filter: what is not allowed raises SIGSYS. */
int sandbox_filter_load(const struct sandbox_limits *limits, struct reason *reason) _must_check_;

/* "socket", or a number if the library does not know it. */
const char *sandbox_syscall_name(int number, char ret[static 32]);
