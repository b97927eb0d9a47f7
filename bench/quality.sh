#!/bin/bash
# What every method is worth at every size, on fine-tunes with tasks: one table.
#
#   bench/quality.sh [options]
#     --build DIR     where bin/deltactl is (build)
#     --models DIR    folders base, and one for each fine-tune (../shared/models)
#     --tasks DIR     FINE-TUNE.jsonl for each (../shared/tasks)
#     --results DIR   quality.tsv and quality.md (bench/results)
#     --jobs N        rows made at a time (1); the CPUs are shared out among them
#     --only KEY=A,B  rows with these values only: tuned, method, text, embedding, size; repeatable
#     --score         generate answers too, a minute or two more for a row; a row that has no score
#                     is made again
#     --list          the rows that would be made, and nothing else
#
# A row that is in quality.tsv is not made again: what was interrupted goes on, and a row is made
# afresh by deleting its line. Rows are judged on the first tasks of a file and never calibrated on
# them. Text "generic" is what deltactl carries, as the papers calibrate; "task" is the rest of the
# tasks file; "own-words" and "none" are --text of auto.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. bench/rows.sh

build=build models=../shared/models tasks=../shared/tasks results=bench/results jobs=1
score=no list=no one=
only=()

fine_tunes='math tools chat'
judged() { # fine-tune: the first so many tasks
	case $1 in math) echo 300 ;; *) echo 150 ;; esac
}

# method, text, embedding, sizes: rN is --ratio N, bN is --bits N, fN is --file-ratio N, kN is
# --keep N, - none.
ratios='r8 r16 r32 r64 r128'
plan() {
	cat <<-END
		delta-come generic exact $ratios
		delta-come task exact r8 r16
		delta-come-solved generic exact r16
		delta-come-whitened generic exact r16
		deltadq generic exact $ratios
		deltadq task exact r16 r32 r64 r128
		k-bit generic exact r8 r14
		k-bit generic exact b1 b2 b3
		k-bit task exact b1 b2
		sign generic exact -
		sign-row generic exact -
		low-rank generic exact $ratios
		low-rank-whitened generic exact r16
		low-rank+k-bit generic exact $ratios
		sparse generic exact $ratios
		auto task exact $ratios
		auto task auto f10 f12 f13 f20 k0.99
		auto own-words exact r16
		auto generic exact r16
		auto none exact r16
		lossless generic exact -
		zero generic exact -
	END
}

# One line a row: fine-tune, method, text, embedding, size.
rows() {
	plan | while read -r method text embedding sizes; do
		for tuned in $fine_tunes; do
			for size in $sizes; do
				echo "$tuned $method $text $embedding $size"
			done
		done
	done
}

# The rows of the table that need not be made again.
made() {
	[ ! -f "$results/quality.tsv" ] || awk -F '\t' -v score="$score" 'score == "no" || $14 != "null"' "$results/quality.tsv"
}

# The rows that are asked for and not made yet.
needed() {
	rows | rows_wanted tuned method text embedding size | rows_missing <(made) 5
}

columns='tuned method text embedding size projection_ratio projection_bytes file_bytes file_ratio
	embedding_bytes kl kl_error agreement score tuned_score base_score perplexity tuned_perplexity
	seconds'

# Makes one row and prints its line.
make_row() { # fine-tune method text embedding size
	local work deltactl=$build/bin/deltactl n key value line
	local -a size=() text=() judge=(--no-score)

	work=$(mktemp -d "${TMPDIR:-/tmp}/deltad-quality.XXXXXX")
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	n=$(judged "$1")
	[ $score = no ] || judge=()
	case $5 in
	r*) size=(--ratio "${5#r}") ;;
	b*) size=(--bits "${5#b}") ;;
	f*) size=(--file-ratio "${5#f}") ;;
	k*) size=(--keep "${5#k}") ;;
	esac
	if [ "$3" = task ]; then
		tail -n +$((n + 1)) "$tasks/$1.jsonl" >"$work/other.jsonl"
		text=(--tasks "$work/other.jsonl")
	elif [ "$2" = auto ]; then
		text=(--text "$3")
	fi
	"$deltactl" compress --base "$models/base" --tuned "$models/$1" --method "$2" \
		--embedding "$4" "${size[@]}" "${text[@]}" --threads "$threads" --json --quiet \
		-o "$work/x.delta" >"$work/compress"
	"$deltactl" eval --base "$base" --delta "$work/x.delta" --tuned "$models/$1" \
		--tasks "$tasks/$1.jsonl" --rows "0:$n" --threads "$threads" "${judge[@]}" --json --quiet \
		>"$work/eval"
	line="$1	$2	$3	$4	$5"
	for key in ${columns#*size}; do
		value=$(field "$work/compress" "$key")
		case $key in
		kl | kl_error | agreement | score | tuned_score | base_score | perplexity | tuned_perplexity)
			value=$(field "$work/eval" "$key")
			;;
		esac
		[ -n "$value" ] || { echo "quality: $line: no $key" >&2; return 1; }
		line="$line	$value"
	done
	echo "$line"
}

# One line, instead of an older one of the same row, if there is one.
write_line() { # line
	local table=$results/quality.tsv
	cut -f 1-5 <<<"$1" | awk 'NR == FNR { row = $0; next } index($0, row "\t") != 1' - "$table" >"$table.new"
	echo "$1" >>"$table.new"
	mv "$table.new" "$table"
}

# Rows of several jobs do not mix.
add_row() {
	local line
	if line=$(make_row "$@"); then
		(flock 9 && write_line "$line") 9>"$build/quality/lock"
		echo "made $*: KL $(echo "$line" | cut -f 11)"
	else
		echo "FAILED $*" >&2
		return 1
	fi
}

render() {
	awk -F '\t' -v order="$fine_tunes" '
		function number(text, format) { return text == "null" ? "" : sprintf(format, text) }
		NR == 1 { next }
		{
			size = $5
			sub(/^r/, "ratio ", size); sub(/^b/, "bits ", size)
			sub(/^f/, "file ratio ", size); sub(/^k/, "keep ", size)
			key = substr($5, 1, 1) == "r" ? 1000 + substr($5, 2) : 0
			lines[$1] = lines[$1] sprintf("%04d %.9f\t| %s | %s | %s | %s | %.2f | %.3f | %.2f | %.5f &plusmn; %.5f | %.4f | %s | %.0f |\n",
				key, $11, size, $2, $3, $4, $6, $8 / 1e6, $9, $11, $12, $13,
				number($14, "%.3f"), $19)
			best[$1] = $15
		}
		END {
			print "# Every method at every size\n"
			print "Made by `bench/quality.sh`, whose head tells how. Projections: 16-bit bytes over all bytes of"
			print "their payloads and records. KL to the fine-tune, nats a token, teacher-forced on reference"
			print "answers that nothing was calibrated on, with its standard error. A score is the share of right"
			print "answers, for chat the perplexity of the reference answers. Seconds were taken on several machines, some busy.\n"
			n = split(order, names, " ")
			for (i = 1; i <= n; i++) {
				if (lines[names[i]] == "") continue
				print "## " names[i] (best[names[i]] == "null" ? "" : " (the fine-tune scores " sprintf("%.3f", best[names[i]]) ")") "\n"
				print "| asked | method | text | embedding | projections, times smaller | file, MB | times smaller | KL | agreement | score | seconds |"
				print "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
				sorter = "sort -k 1,1n -k 2,2n | cut -f 2-"
				printf "%s", lines[names[i]] | sorter
				close(sorter)
				print ""
			}
		}' "$results/quality.tsv"
}

while [ $# -gt 0 ]; do
	case $1 in
	--build) build=$2 && shift ;;
	--models) models=$2 && shift ;;
	--tasks) tasks=$2 && shift ;;
	--results) results=$2 && shift ;;
	--jobs) jobs=$2 && shift ;;
	--only) only+=("$2") && shift ;;
	--score) score=yes ;;
	--list) list=yes ;;
	--row) one=$2 && shift ;;
	*) usage ;;
	esac
	shift
done
threads=$(($(nproc) / jobs))
[ "$threads" -gt 0 ] || threads=1
base=$build/quality/base.base

if [ -n "$one" ]; then
	# shellcheck disable=SC2086
	add_row $one
	exit
fi
if [ $list = yes ]; then
	needed
	exit
fi
mkdir -p "$results" "$build/quality"
[ -f "$results/quality.tsv" ] || printf '%s' "$columns" | tr -s '\n\t ' '\t' | sed '$s/$/\n/' >"$results/quality.tsv"
[ -f "$base" ] || "$build/bin/deltactl" import "$models/base" -o "$base" --quiet
status=0
again=(--build "$build" --models "$models" --tasks "$tasks" --results "$results" --jobs "$jobs")
[ $score = no ] || again+=(--score)
needed | tr '\n' '\0' |
	xargs -0 -r -n 1 -P "$jobs" bench/quality.sh "${again[@]}" --row || status=1
render >"$results/quality.md.new"
mv "$results/quality.md.new" "$results/quality.md"
echo "$results/quality.md"
exit $status
