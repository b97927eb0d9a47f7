#!/bin/sh
# Runs every fuzzer for the given time on a copy of its corpus; a crash leaves its input beside.
#   fuzz.sh FOLDER SECONDS NAME...
set -eu
folder=$1
seconds=$2
shift 2
failed=0
for name in "$@"; do
	seeds=tests/fuzz/corpus/${name#fuzz_}
	work=$folder/corpus/$name
	mkdir -p "$work" "$folder/crashes"
	if "$folder/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
		-artifact_prefix="$folder/crashes/$name-" "$work" "$seeds" >"$folder/$name.log" 2>&1; then
		runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/$name.log")
		covered=$(grep -o 'cov: [0-9]*' "$folder/$name.log" | tail -1)
		echo "ok - $name: $runs inputs in $seconds s, $covered edges"
	else
		echo "not ok - $name: see $folder/$name.log and $folder/crashes"
		failed=1
	fi
done
exit $failed
