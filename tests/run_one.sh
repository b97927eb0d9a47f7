#!/bin/sh
# Runs one test program and prints a line of it, or its last lines if it fails. It counts its own
# tests (cmocka's summary, or TAP-like "ok"/"not ok" lines); one without either counts as one test.
# Exit code 77 means skipped. How many passed, failed and were skipped is added to RESULTS.
#   tests/run_one.sh RESULTS PROGRAM
set -u
results=$1 program=$2
limit=${TEST_TIMEOUT:-300}
log=$(mktemp)
trap 'rm -f "$log" "$log.told"' EXIT

count() { # pattern
	grep -cE "$1" "$log"
}

begin=$(date +%s)
timeout -k 10 "$limit" "$program" >"$log" 2>&1 </dev/null
code=$?
took=$(($(date +%s) - begin))
ok=$(($(count '^\[       OK \]') + $(count '^ok ')))
bad=$(($(count '^\[  FAILED  \] [a-z]') + $(count '^not ok ')))
skip=$(($(count '^\[  SKIPPED \] [a-z]') + $(count '^skipped: ')))
if [ $code = 77 ]; then
	ok=0 bad=0 skip=1
	echo "skip  $program ($(head -1 "$log"))"
elif [ $code = 0 ]; then
	bad=0
	[ $((ok + skip)) -gt 0 ] || ok=1
	echo "ok    $program: $ok tests, $took s$([ $skip = 0 ] || echo ", $skip skipped")"
	grep '^skipped: ' "$log" | sed 's/^/      /'
else
	skip=0
	[ $bad -gt 0 ] || bad=1
	[ $code = 124 ] && echo "      (stopped after $limit s)"
	echo "FAIL  $program: exit code $code, $took s"
	tail -n 60 "$log" | sed 's/^/      /'
fi >"$log.told"
cat "$log.told"
echo "$ok $bad $skip" >>"$results"
