#!/bin/sh
# Every program of bench/, one after the other, each with its own ceiling measured in the same run.
#   bench.sh BUILD
set -eu
echo "$(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1); load $(cut -d' ' -f1-3 /proc/loadavg)"
for program in "$1"/bench/bench_*; do
	case $program in *.d | *.o) continue ;; esac
	printf '\n== %s\n' "${program##*/}"
	"$program"
done
