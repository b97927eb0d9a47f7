#!/bin/bash
# What compressing a 7B pair takes: a pair of its shape but of few blocks is made and compressed.
#
#   bench/scale.sh [options]
#     --build DIR     where bin/deltactl and bench/write_model are (build)
#     --blocks N      of the pair (2)
#     --tokens N      of calibration (32768)
#     --methods LIST  of --method (auto,delta-come,k-bit)
#     --work DIR      pair and deltas (a folder in /var/tmp): 1.5 GB, and 1 GB for each block
#     --kill          end each run by SIGKILL in its second block, and go on
#
# A block takes the seconds of the whole run over the number of blocks: reading and digests of what
# is outside the blocks are in it. 32 blocks are that times 32. Memory does not grow with blocks,
# one is in work at a time; more than 8 GiB is a failure. Processor seconds are told as well: on a
# machine that has other work they say more.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. bench/rows.sh

build=build blocks=2 tokens=32768 methods=auto,delta-come,k-bit kill=no work=
limit=$((8 << 30))

while [ $# -gt 0 ]; do
	case $1 in
	--build | --blocks | --tokens | --methods | --work)
		[ $# -ge 2 ] || usage
		declare "${1#--}=$2"
		shift
		;;
	--kill) kill=yes ;;
	*) usage ;;
	esac
	shift
done
made=$(mktemp -d "${work:-${TMPDIR:-/var/tmp}}/deltad-scale.XXXXXX")
trap 'rm -rf "$made"' EXIT

value() { # KEY
	sed -n "s/.*\"$1\": *\([-+.0-9a-z]*\).*/\1/p" "$made/report"
}

compress() { # method
	"$build/bin/deltactl" compress --base "$made/base" --tuned "$made/tuned" --method "$1" \
		--json -o "$made/pair.delta" --calibration-tokens "$tokens" --ratio 16 \
		>"$made/report" 2>"$made/log" || { cat "$made/log" >&2; return 1; }
}

# Lets the first block be done and a part of the second, and ends the run there.
interrupt() { # method
	local pid
	set -m
	compress "$1" 2>/dev/null &
	pid=$!
	set +m
	until grep -q ' 1 of ' "$made/log" 2>/dev/null; do
		kill -0 $pid 2>/dev/null || break
		sleep 1
	done
	sleep 5
	# The work is done in a process of its own, behind a sandbox: all of the job's are ended.
	kill -KILL -- -$pid || true
	wait $pid || true
}

tell() { # method, processor seconds
	awk -v method="$1" -v cpu="$2" -v n="$blocks" -v tokens="$tokens" \
		-v seconds="$(value seconds)" -v peak="$(value peak_bytes)" \
		-v error="$(value activation_error)" -v ratio="$(value projection_ratio)" \
		-v resumed="$(value resumed_blocks)" 'BEGIN {
		made = n - resumed
		printf "%s: %d blocks of %d, %d tokens: %.0f s, %.0f s a block (%.0f of processors)\n",
			method, made, n, tokens, seconds, seconds / made, cpu / made
		printf "  at most %.2f GiB of memory; ratio %.2f, activation error %.3f\n",
			peak / 2^30, ratio, error
		printf "  32 blocks, by multiplication: %.1f h (%.1f of processors)\n",
			32 * seconds / made / 3600, 32 * cpu / made / 3600
	}'
}

"$build/bench/write_model" --blocks "$blocks" --tuned "$made"
TIMEFORMAT='%U %S'
for method in ${methods//,/ }; do
	[ $kill = no ] || interrupt "$method"
	cpu=$( { time compress "$method"; } 2>&1 | awk '{ print $1 + $2 }')
	tell "$method" "$cpu"
	if [ "$(value peak_bytes)" -gt "$limit" ]; then
		echo "  above 8 GiB"
		exit 1
	fi
done
