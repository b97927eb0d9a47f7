#!/bin/sh
# Runs test programs one after the other, prints a line for each, the output of those that fail, and
# closes with "N passed, N failed". A program counts its own tests (cmocka's summary, or TAP-like
# "ok"/"not ok" lines); one without either counts as one test. Exit code 77 means skipped.
#   tests/run.sh PROGRAM...
set -u
limit=${TEST_TIMEOUT:-300}
passed=0
failed=0
skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

count() { # pattern
	grep -cE "$1" "$log"
}

for program in "$@"; do
	begin=$(date +%s)
	timeout -k 10 "$limit" "$program" >"$log" 2>&1 </dev/null
	code=$?
	took=$(($(date +%s) - begin))
	ok=$(($(count '^\[       OK \]') + $(count '^ok ')))
	bad=$(($(count '^\[  FAILED  \] [a-z]' ) + $(count '^not ok ')))
	skip=$(($(count '^\[  SKIPPED \] [a-z]') + $(count '^skipped: ')))
	if [ $code = 77 ]; then
		skipped=$((skipped + 1))
		echo "skip  $program ($(head -1 "$log"))"
		continue
	fi
	if [ $code = 0 ]; then
		[ $((ok + skip)) -gt 0 ] || ok=1
		passed=$((passed + ok))
		skipped=$((skipped + skip))
		echo "ok    $program: $ok tests, $took s$([ $skip = 0 ] || echo ", $skip skipped")"
		grep '^skipped: ' "$log" | sed 's/^/      /'
	else
		[ $bad -gt 0 ] || bad=1
		passed=$((passed + ok))
		failed=$((failed + bad))
		[ $code = 124 ] && echo "      (stopped after $limit s)"
		echo "FAIL  $program: exit code $code, $took s"
		tail -n 60 "$log" | sed 's/^/      /'
	fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
