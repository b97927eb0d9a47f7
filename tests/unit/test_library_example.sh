#!/bin/sh
# The example in libdeltad(3) is a program that compiles with pkg-config and runs: installed into a
# folder of its own, built as a user would, and run where there is no daemon. With a daemon it runs in
# tests/e2e.
set -u
build=${DELTAD_BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() { # description, command...
	what=$1
	shift
	if "$@"; then
		echo "ok - $what"
	else
		echo "not ok - $what"
		exit 1
	fi
}

. tests/library_example.sh

check "compiles without warnings" example_build "$build" "$work"
"$work/ask" >"$work/out" 2>&1
check "tells its usage" test $? = 2 -a "$(cat "$work/out")" = "usage: ask VARIANT TEXT"
DELTAD_SOCKET=$work/none "$work/ask" base hello >"$work/out" 2>&1
check "says that there is no daemon" test $? = 1 -a \
	"$(cat "$work/out")" = "ask: no daemon is there, or no such stream is running"
