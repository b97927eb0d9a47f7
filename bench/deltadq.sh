#!/bin/bash
# DeltaDQ: what its sizes mean, and what the columns of a group are worth.
#
#   bench/deltadq.sh [options]
#     --build DIR     where bin/deltactl is (build)
#     --models DIR    folders base, and one for each fine-tune (../shared/models)
#     --tasks DIR     FINE-TUNE.jsonl for each (../shared/tasks)
#     --results DIR   deltadq.tsv and deltadq.md (bench/results)
#     --threads N     of a row (all processors); rows are made one after the other
#     --only KEY=A,B  rows with these values only: tuned, way, size, group; repeatable
#     --list          the rows that would be made, and nothing else
#
# A row that is in deltadq.tsv is not made again: what was interrupted goes on, and a row is made
# afresh by deleting its line. All are calibrated on the text that deltactl carries and judged on the
# first tasks of a file. Needs jq (make deps-bench).
set -eu -o pipefail
cd "$(dirname "$0")/.."
. bench/rows.sh

build=build models=../shared/models tasks=../shared/tasks results=bench/results
threads=$(nproc) list=no
only=()

fine_tunes=math,tools,chat
judged() { # fine-tune: the first so many tasks
	case $1 in math) echo 300 ;; *) echo 150 ;; esac
}

# Fine-tunes, way, size, groups. counted: all bytes make the ratio. claimed: what the paper counts makes it.
# paper: likewise, with the paper's grid, factor, group and one seed.
plan() {
	local size tuned
	for size in 16 32 64 128 512; do
		tuned=math
		[ $size != 32 ] || tuned=$fine_tunes
		echo "$tuned counted $size each-tensor"
		echo "$tuned claimed $size each-tensor"
		echo "$tuned paper $size first-layer"
	done
	echo math claimed 32 first-layer 16 64 row
}

# One line a row: fine-tune, way, size, group.
rows() {
	plan | while read -r tunes way size groups; do
		for tuned in ${tunes//,/ }; do
			for group in $groups; do
				echo "$tuned $way $size $group"
			done
		done
	done
}

# The rows that are asked for and not made yet.
needed() {
	rows | rows_wanted tuned way size group | rows_missing "$table" 4
}

size_options() { # way size group
	case $1 in
	counted) echo --ratio "$2" ;;
	claimed) echo --claimed-ratio "$2" ;;
	paper) echo --claimed-ratio "$2" --grid min-max --rescale alpha --seeds 1 ;;
	esac
	case $3 in
	each-tensor) ;;
	first-layer) echo --group-search first-layer ;;
	row) echo --group 32768 ;;
	*) echo --group "$3" ;;
	esac
}

# After the four that name a row; bytes are those of the projections.
columns='claimed_ratio alpha code_bits original_bytes file_bytes memory_bytes entropy_bytes
	entropy_stored_places sparse_row_bytes kl kl_error agreement seconds'

made='[(.figures | .claimed_ratio, .alpha, .code_bits), .projection_original_bytes,
	(.figures | .file_bytes, .memory_bytes, .entropy_bytes, .entropy_stored_places, .sparse_row_bytes)]'

make_row() { # tuned way size group
	local work=$build/deltadq n

	n=$(judged "$1")
	# shellcheck disable=SC2046 # the options are words
	"$build/bin/deltactl" compress --base "$models/base" --tuned "$models/$1" --method deltadq \
		--embedding exact $(size_options "$2" "$3" "$4") --threads "$threads" --measure never \
		--json --quiet -o "$work/x.delta" >"$work/compress" || return
	"$build/bin/deltactl" eval --base "$work/base.base" --delta "$work/x.delta" \
		--tuned "$models/$1" --tasks "$tasks/$1.jsonl" --rows "0:$n" --threads "$threads" \
		--no-score --json --quiet >"$work/eval" || return
	jq -r -s --arg row "$*" "(\$row | split(\" \")) + (.[0] | $made) +
		(.[1] | [.kl, .kl_error, .agreement]) + [.[0].seconds] | @tsv" \
		"$work/compress" "$work/eval" >>"$table" || return
	echo "made $*: KL $(tail -n 1 "$table" | cut -f 14)"
}

render() {
	cat <<-'END'
		# DeltaDQ: what its sizes mean

		Made by `bench/deltadq.sh`, whose head tells how. Times smaller, of the projections alone: what the
		paper counts, alpha * 16 / (bits - log2 parts); the file's bytes, everything counted; bytes in
		memory, where places are written out beside the payload; the entropy of the codes, with places
		free as from a seed, and with places at the least they cost where they are stored; the paper's
		layout, parts as sparse rows. KL to the fine-tune in nats a token, with its standard error.

		`counted` is `--ratio`: survivors, code width and groups that lose least in that many bytes.
		`claimed` is `--claimed-ratio`, with the best grid and factor and the best of 4 seeds. `paper`
		is the same with the paper's grid, factor, group and a single seed.

	END
	awk -F '\t' -v order="$fine_tunes" '
		NR == 1 { next }
		{
			key = ($2 == "counted" ? 1 : $2 == "claimed" ? 2 : 3) * 10000 + $3
			lines[$1] = lines[$1] sprintf("%d %.9f\t| %s | %s | %s | %.0f | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.5f &plusmn; %.5f | %.4f |\n",
				key, $14, $2, $3, $4, $5, $6, $8 / $9, $8 / $10, $8 / $11,
				$8 / $12, $8 / $13, $14, $15, $16)
		}
		END {
			n = split(order, names, ",")
			for (i = 1; i <= n; i++) {
				if (lines[names[i]] == "") continue
				print "## " names[i] "\n"
				print "| way | asked | group | claimed | alpha | file | memory | entropy | with places | sparse rows | KL | agreement |"
				print "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
				sorter = "sort -k 1,1n -k 2,2n | cut -f 2-"
				printf "%s", lines[names[i]] | sorter
				close(sorter)
				print ""
			}
		}' "$table"
}

rows_options "$@"
table=$results/deltadq.tsv

if [ $list = yes ]; then
	needed
	exit
fi
mkdir -p "$results" "$build/deltadq"
[ -f "$table" ] || printf 'tuned way size group %s' "$columns" | tr -s '\n\t ' '\t' | sed '$s/$/\n/' >"$table"
[ -f "$build/deltadq/base.base" ] ||
	"$build/bin/deltactl" import "$models/base" -o "$build/deltadq/base.base" --quiet
make_rows deltadq
