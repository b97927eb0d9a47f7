#!/bin/bash
# Prompt and decode rates of random models of known shapes, for each way to store weights, with deltas
# of each codec, many variants at once, and long contexts.
#
#   bench/rates.sh --work DIR [options]
#     --work DIR      models and deltas: for 1.1b 5 GB, for 7b 31 GB, and as much again while they are made
#     --build DIR     where bin/deltactl and bench/write_model are (build)
#     --results DIR   rates.tsv and rates.md (bench/results)
#     --shapes LIST   1.1b, 7b (both)
#     --blocks N      of a model, instead of all
#     --weights LIST  bf16, int8, int4 (all)
#     --threads LIST  0 is as many as the process may use (0)
#     --parts LIST    base, codecs, batches, depth, depth-int8 (all; the last has such keys and values);
#                     batches-CODEC-BITS has variants of that kind, batches those of sign-1
#     --variants N    of which each row of a batch has one (8)
#     --repeats N     of each test (5)
#     --peer PATH     llama-bench of llama.cpp: in part base it runs after each repeat of ours
#     --gguf DIR      for it: SHAPE-BLOCKS-TYPE.gguf, of types bf16, q8_0 and q4_0; BLOCKS may be all
#     --keep          the model folders too, to convert them for the peer
#     --list          the runs that would be made, and nothing else
#
# A run that is in rates.tsv is not made again: what was interrupted goes on, and a run is made
# afresh by deleting its lines. Weights and codes are random: rates do not depend on what they say.
set -eu -o pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
. bench/rows.sh

build=build results=bench/results shapes=1.1b,7b blocks=all weights=bf16,int8,int4 threads=0
parts=base,codecs,batches,depth,depth-int8 variants=8 repeats=5 work='' peer='' gguf='' keep=no list=no
codecs='sign-1 k-bit-1 dropout-1 dropout-0.5 low-rank-1 low-rank-0.5 delta-come-1 delta-come-0.5'
positions=16512

while [ $# -gt 0 ]; do
	case $1 in
	--work | --build | --results | --shapes | --blocks | --weights | --threads | --parts | --variants | \
		--repeats | --peer | --gguf)
		[ $# -ge 2 ] || usage
		declare "${1#--}=$2"
		shift
		;;
	--keep) keep=yes ;;
	--list) list=yes ;;
	*) usage ;;
	esac
	shift
done
[ -n "$work" ] || usage
[ -z "$peer" ] || [ -n "$gguf" ] || usage
tsv=$results/rates.tsv
deltactl=$build/bin/deltactl

columns='shape blocks weights asked_threads part engine threads test rows depth on tokens_per_second least
	most weight_bytes_per_token kv_bytes_per_token read_bytes_per_second'

# One line a run: shape, blocks, weights, threads, part.
runs() {
	local s w t p
	for s in ${shapes//,/ }; do
		for w in ${weights//,/ }; do
			for t in ${threads//,/ }; do
				for p in ${parts//,/ }; do
					echo "$s $blocks $w $t $p"
				done
			done
		done
	done
}

# Base images of a shape, all of them, from one model; "$work/SHAPE-BLOCKS" begins their names.
make_bases() { # shape
	local at=$work/$1-$blocks count=() w
	for w in ${weights//,/ }; do
		[ -f "$at-$w.base" ] && continue
		if [ ! -f "$at.model/done" ]; then
			[ "$blocks" = all ] || count=(--blocks "$blocks")
			rm -rf "$at.model"
			mkdir "$at.model"
			"$build/bench/write_model" --shape "$1" "${count[@]}" --positions $positions "$at.model"
			touch "$at.model/done"
		fi
		"$deltactl" import "$at.model/base" --weights "$w" -o "$at-$w.base" --quiet
	done
	[ $keep = yes ] || rm -rf "$at.model"
}

batch_codec() { # part
	[ "$1" = batches ] && echo sign-1 || echo "${1#batches-}"
}

# Those that the parts need.
part_codecs() {
	local p
	for p in ${parts//,/ }; do
		case $p in
		codecs) tr ' ' '\n' <<<"$codecs" ;;
		batches*) batch_codec "$p" ;;
		esac
	done | sort -u
}

# They fit every image of the model.
make_deltas() { # shape
	local at=$work/$1-$blocks codec
	for codec in $(part_codecs); do
		[ -f "$at-$codec.delta" ] || "$build/bench/write_delta" "$at-${weights##*,}.base" \
			"${codec%-*}" "${codec##*-}" "$at-$codec.delta"
	done
}

# The lines of a run from our JSON, whose keys are in a known order.
our_lines() { # key of the run
	tr '{' '\n' | awk -v run="$1" '
		function value(key) {
			if (!match($0, "\"" key "\":(\"[^\"]*\"|[^,}]*)")) return ""
			text = substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
			gsub(/"/, "", text)
			return text
		}
		/"kernels":/ { kernels = value("kernels"); threads = value("threads") }
		/"test":/ {
			match($0, /"deltas":\[[^]]*\]/)
			n = split(substr($0, RSTART + 10, RLENGTH - 11), paths, ",")
			on = "base"
			if (n > 0) {
				on = paths[1]
				gsub(/.*\/|"|\.delta/, "", on)
				sub(/^[^-]*-[^-]*-/, "", on)
				if (n > 1) on = n " x " on
			}
			test = value("test")
			if (test == "prompt") test = test " " value("tokens")
			printf "%s\t%s\t%s\t%s\t%s\t%s\t%s", run, kernels, threads, test, value("rows"), value("depth"), on
			n = split("tokens_per_second least most weight_bytes_per_token kv_bytes_per_token read_bytes_per_second", keys, " ")
			for (i = 1; i <= n; i++) printf "\t%s", value(keys[i])
			print ""
		}'
}

# Likewise of one repeat of llama-bench -o json: an object a test.
peer_lines() { # key of the run
	tr -d ' \n' | sed 's/},{/}\n{/g' | awk -v run="$1" '
		function value(key) {
			if (!match($0, "\"" key "\":(\"[^\"]*\"|[^,}]*)")) return ""
			text = substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
			gsub(/"/, "", text)
			return text
		}
		/"avg_ts":/ {
			test = value("n_prompt") > 0 ? "prompt " value("n_prompt") : "decode"
			printf "%s\tllama.cpp %s\t%s\t%s\t1\t0\tbase", run, value("build_commit"), value("n_threads"), test
			for (i = 0; i < 3; i++) printf "\t%s", value("avg_ts")
			print "\t\t\t"
			n_tests++
		}
		END { exit n_tests == 0 }'
}

run_peer() { # shape weights threads
	local -A types=([bf16]=bf16 [int8]=q8_0 [int4]=q4_0)
	"$peer" -m "$gguf/$1-$blocks-${types[$2]}.gguf" -t "$3" -p 512 -n 32 -r 1 -o json
}

# The lines of all repeats of a run become one a test: the median of the rates and of what memory
# gave, and the least and the most of the rates.
repeats_lines() {
	awk -F '\t' -v OFS='\t' -v CONVFMT=%.17g '
		function median(values, name, n,    sorted, i, k, swap) {
			for (i = 1; i <= n; i++) {
				sorted[i] = values[name, i]
				for (k = i; k > 1 && sorted[k] + 0 < sorted[k - 1] + 0; k--) {
					swap = sorted[k]; sorted[k] = sorted[k - 1]; sorted[k - 1] = swap
				}
			}
			least = sorted[1]; most = sorted[n]
			return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
		}
		{
			name = $6 FS $8
			if (!(name in line)) order[++n_tests] = name
			line[name] = $0
			rates[name, ++n_repeats[name]] = $12
			memory[name, n_repeats[name]] = $17
		}
		END {
			for (i = 1; i <= n_tests; i++) {
				name = order[i]
				$0 = line[name]
				if ($17 != "") $17 = median(memory, name, n_repeats[name])
				$12 = median(rates, name, n_repeats[name]); $13 = least; $14 = most
				print
			}
		}'
}

measure() { # shape weights threads part repeats
	local at=$work/$1-$blocks options=() codec i
	case $4 in
	base) options=(--prompt 512) ;;
	codecs)
		options=(--prompt 0)
		for codec in $codecs; do options+=(--delta "$at-$codec.delta"); done
		;;
	batches*)
		options=(--prompt 0 --batch "1,2,4,8,16,32")
		for ((i = 0; i < variants; i++)); do options+=(--delta "$at-$(batch_codec "$4").delta"); done
		;;
	depth) options=(--prompt 0 --depth "512,4096,16384") ;;
	depth-int8) options=(--prompt 0 --depth "512,4096,16384" --kv int8) ;;
	*) usage ;;
	esac
	"$deltactl" bench --base "$at-$2.base" --threads "$3" --repeats "$5" "${options[@]}" --json --quiet
}

# Both take turns, so that what else the machine does is shared out among them, and with as many
# threads.
measure_beside_peer() { # key of the run, shape weights threads
	local i ours
	for ((i = 0; i < repeats; i++)); do
		ours=$(measure "$2" "$3" "$4" base 1 | our_lines "$1")
		printf '%s\n' "$ours"
		run_peer "$2" "$3" "$(cut -f 7 <<<"$ours" | sort -u)" | peer_lines "$1"
	done
}

# The lines of a run are added together.
make_run() { # shape blocks weights threads part
	local key lines
	key=$(printf '%s\t%s\t%s\t%s\t%s' "$@")
	echo "$*" >&2
	if [ "$5" = base ] && [ -n "$peer" ]; then
		lines=$(measure_beside_peer "$key" "$1" "$3" "$4" | repeats_lines)
	else
		lines=$(measure "$1" "$3" "$4" "$5" "$repeats" | our_lines "$key")
	fi
	printf '%s\n' "$lines" >>"$tsv"
}

# Our rates on the base alone beside those of llama.cpp in the same run, if there are any.
render_peer() {
	awk -F '\t' '
		$5 != "base" || $11 != "base" { next }
		{
			name = $1 ($2 == "all" ? "" : " of " $2 " blocks") " | " $3 " | " $7 " | " $8
			rate = sprintf("%.2f | %.2f..%.2f", $12, $13, $14)
		}
		$6 !~ /^llama/ { ours[name] = $12; our_rate[name] = $6 " | " rate; next }
		name in ours {
			rows = rows sprintf("| %s | %s | %s | %.2f |\n", name, our_rate[name], rate, ours[name] / $12)
			peers[$6] = 1
		}
		END {
			if (rows == "") exit
			for (peer in peers) names = names (names == "" ? "" : ", ") peer
			print "\n## Beside " names "\n"
			print "Each repeat of ours is followed by one of llama-bench, with as many threads and its defaults"
			print "otherwise; beside bf16, int8 and int4 it has bf16, q8_0 and q4_0. The last column is our rate over its.\n"
			print "| shape | weights | threads | test | kernels | tokens/s | least..most | llama.cpp | least..most | times |"
			print "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
			printf "%s", rows
		}' "$tsv"
}

render() {
	echo '# Rates'
	echo
	# shellcheck disable=SC2016
	echo 'Made by `bench/rates.sh`, whose head tells how, on random weights of these shapes. Tokens a second'
	echo 'of all rows together, medians; what a token reads of weights, keys and values, its rate, and its share'
	echo 'of what memory gave the same threads between the repeats. The last column is the rate over that of'
	echo 'the base alone in the same run.'
	render_peer
	awk -F '\t' '
		NR == 1 { next }
		{
			table = $1 " " ($2 == "all" ? "" : "of " $2 " blocks ") $3 ", " $7 " threads"
			if (!(table in seen)) { seen[table] = 1; order[++n_tables] = table }
			run = $1 FS $2 FS $3 FS $4 FS $5 FS $8 FS $9 FS $10
			if ($6 ~ /^llama/) next
			if ($11 == "base") base[run] = $12
			name = $8 ($9 > 1 ? " x" $9 : "") ($10 > 0 ? " at " $10 : "") ($5 == "depth-int8" ? ", int8 KV" : "")
			bytes = $15 + $16
			line = sprintf("| %s | %s | %s | %.2f | %.2f..%.2f |", name, $11, $6, $12, $13, $14)
			line = line sprintf(" %.1f | %.2f | %.0f %% |", bytes / 1e6, bytes * $12 / 1e9, 100 * bytes * $12 / $17)
			line = line (run in base && $11 != "base" ? sprintf(" %.2f |", $12 / base[run]) : " |")
			lines[table] = lines[table] line "\n"
		}
		END {
			for (i = 1; i <= n_tables; i++) {
				print "\n## " order[i] "\n"
				print "| test | on | kernels | tokens/s | least..most | MB/token | GB/s | share | over base |"
				print "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
				printf "%s", lines[order[i]]
			}
		}' "$tsv"
}

if [ $list = yes ]; then
	runs | rows_missing "$tsv" 5
	exit
fi
mkdir -p "$results" "$work"
[ -f "$tsv" ] || printf '%s' "$columns" | tr -s '\n\t ' '\t' | sed '$s/$/\n/' >"$tsv"
for shape in ${shapes//,/ }; do
	todo=$(runs | rows_missing "$tsv" 5 | awk -v shape="$shape" '$1 == shape')
	[ -n "$todo" ] || continue
	make_bases "$shape"
	make_deltas "$shape"
	while read -r run; do
		# shellcheck disable=SC2086
		make_run $run </dev/null
	done <<<"$todo"
done
render >"$results/rates.md.new"
mv "$results/rates.md.new" "$results/rates.md"
echo "$results/rates.md"
