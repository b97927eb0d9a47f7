#!/bin/sh
# What compressing a 7B pair takes: a pair of its shape but of N_BLOCKS blocks is made and compressed;
# time for 32 blocks is that of a block, times 32, and what is outside the blocks once more. Memory
# does not grow with blocks: one is in work at a time.
#   scale.sh BUILD [N_BLOCKS [CALIBRATION_TOKENS]]      about 2 GB of disk and 1 GB for each block
set -eu
build=$1 n_blocks=${2:-1} tokens=${3:-32768}
limit=$((8 << 30))
work=$(mktemp -d "${TMPDIR:-/var/tmp}/deltad-scale.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$build/bench/write_pair" "$work" "$n_blocks"
value() { # KEY
	sed "s/.*\"$1\":\([^,}]*\).*/\1/" "$work/report"
}
for method in delta-come k-bit; do
	"$build/bin/deltactl" compress --base "$work/base" --tuned "$work/tuned" --method $method --json \
		-o "$work/pair.delta" --calibration-tokens "$tokens" --measure never >"$work/report"
	peak=$(value peak_bytes)
	awk -v method=$method -v n="$n_blocks" -v tokens="$tokens" -v seconds="$(value seconds)" \
		-v peak="$peak" -v error="$(value activation_error)" -v ratio="$(value projection_ratio)" 'BEGIN {
		printf "%s: %d blocks, %d tokens: %.0f s, %.0f s a block (reading and digests of the rest in it),", \
			method, n, tokens, seconds, seconds / n
		printf " at most %.2f GiB of memory; ratio %.2f, activation error %.3f\n", peak / 2^30, ratio, error
		printf "  32 blocks by multiplication: %.1f h\n", 32 * seconds / n / 3600 }'
	if [ "$peak" -gt "$limit" ]; then
		echo "  above 8 GiB"
		exit 1
	fi
done
