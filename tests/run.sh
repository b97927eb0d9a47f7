#!/bin/sh
# Runs test programs, prints a line for each and the output of those that fail, and closes with
# "N passed, N failed, N skipped".
#   tests/run.sh [--jobs N] PROGRAM... [--alone PROGRAM...]
# N of them at a time (1); those behind --alone, whose own timing matters, one by one after the others.
set -u
jobs=1
[ "${1:-}" != --jobs ] || { jobs=$2 && shift 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/results"

list=$work/together
: >"$work/together"
: >"$work/alone"
for program in "$@"; do
	[ "$program" = --alone ] && list=$work/alone && continue
	echo "$program" >>"$list"
done
xargs -r -n 1 -P "$jobs" tests/run_one.sh "$work/results" <"$work/together"
xargs -r -n 1 tests/run_one.sh "$work/results" <"$work/alone"

awk -v expected="$(cat "$work/together" "$work/alone" | wc -l)" '
	{ passed += $1; failed += $2; skipped += $3 }
	END {
		if (NR != expected)
			printf "%d programs of %d told no result\n", expected - NR, expected
		printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
		exit failed > 0 || NR != expected
	}' "$work/results"
