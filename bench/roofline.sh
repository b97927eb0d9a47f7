#!/usr/bin/env bash
# Measures what the machine allows and what each kernel reaches, and draws both as one picture.
#   bench/roofline.sh [--build DIR] [--set SET] [--out FILE-WITHOUT-SUFFIX]
#
# --set is avx2, avx512 or amx; the best that the machine has if not given. One thread; a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build out=bench/results/roofline kernels=
while [ $# -gt 0 ]; do
	case $1 in
	--build) build=$2; shift 2 ;;
	--set) kernels=$2; shift 2 ;;
	--out) out=$2; shift 2 ;;
	*) sed -n '/^#   bench/,/^$/s/^# \{0,3\}//p' "$0" | sed '/^set/,$d'; exit 2 ;;
	esac
done
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
if [ -z "$kernels" ]; then
	kernels=avx2
	grep -q avx512_vnni /proc/cpuinfo && kernels=avx512
	grep -q amx_int8 /proc/cpuinfo && kernels=amx
fi

{
	printf 'what\tset\tname\tn\tbytes\toperations\tseconds\n'
	# Those of the instructions that the set has, and of two widths the wider.
	case $kernels in
	avx2) "$build"/bench/bench_ceilings --tsv | grep -P '\tavx2\t' ;;
	avx512) "$build"/bench/bench_ceilings --tsv | grep -vP '\tamx\t|256 bits' ;;
	*) "$build"/bench/bench_ceilings --tsv | grep -v '256 bits' ;;
	esac
	"$build"/bench/bench_kernels --tsv "$kernels"
} >"$out.tsv.new"
mv "$out.tsv.new" "$out.tsv"
"$build"/bench/roofline "Kernels of the set $kernels, $cpu, one thread" <"$out.tsv" >"$out.svg"
echo "$out.tsv, $out.svg"
