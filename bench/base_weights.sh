#!/bin/bash
# Is a delta for a base of codes better made against what these serve, or against the original?
#
#   bench/base_weights.sh [options]
#     --build DIR     where bin/deltactl is (build)
#     --models DIR    folders base, math and chat (../shared/models)
#     --tasks DIR     math.jsonl and chat.jsonl (../shared/tasks)
#     --results DIR   base_weights.tsv and base_weights.md (bench/results)
#     --threads N     of a row (all processors); rows are made one after the other
#     --only KEY=A,B  rows with these values only: tuned, method, weights, against; repeatable
#     --list          the rows that would be made, and nothing else
#
# KL to the fine-tune over the reference answers of the first tasks; nothing is generated. A row that
# is in base_weights.tsv is not made again: what was interrupted goes on, and a row is made afresh by
# deleting its line.
set -eu -o pipefail
cd "$(dirname "$0")/.."
. bench/rows.sh

build=build models=../shared/models tasks=../shared/tasks results=bench/results
threads=$(nproc) list=no
only=()

judged() { # fine-tune: the first so many tasks
	case $1 in math) echo 40 ;; *) echo 24 ;; esac
}

method_options() { # method, fine-tune
	case $1 in
	k-bit-*) echo --method k-bit --bits "${1#k-bit-}" --calibration-tokens 8192 ;;
	delta-come) echo --method delta-come --ratio 16 --calibration-tokens 8192 ;;
	auto) echo --method auto --ratio 16 --tasks "$work/$2.jsonl" ;;
	esac
}

# One line a row: fine-tune, method, weights, against.
rows() {
	local method tuned
	for method in k-bit-1 k-bit-2 delta-come auto; do
		for tuned in math chat; do
			printf '%s\n' "bf16 original" "int8 original" "int8 served" \
				"int4 original" "int4 served" | sed "s/^/$tuned $method /"
		done
	done
}

# The rows that are asked for and not made yet.
needed() {
	rows | rows_wanted tuned method weights against | rows_missing "$table" 4
}

# One made against the original fits every base.
make_delta() { # tuned method weights against file
	# shellcheck disable=SC2046 # the options are words
	"$build/bin/deltactl" compress --base "$models/base" --tuned "$models/$1" -o "$5.new" \
		--embedding exact $(method_options "$2" "$1") --base-weights "$3" --against "$4" \
		--threads "$threads" --measure never --quiet
	mv "$5.new" "$5"
}

make_row() { # tuned method weights against
	local delta=$work/$1-$2-original.delta
	if [ "$4" = served ]; then
		delta=$work/$1-$2-$3.delta
		[ -e "$delta" ] || make_delta "$1" "$2" "$3" served "$delta" || return
	else
		[ -e "$delta" ] || make_delta "$1" "$2" bf16 original "$delta" || return
	fi
	"$build/bin/deltactl" eval --base "$work/$3.base" --delta "$delta" --tuned "$models/$1" \
		--tasks "$tasks/$1.jsonl" --rows "0:$(judged "$1")" --threads "$threads" --no-score \
		--quiet --json >"$work/eval" || return
	printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$(field "$work/eval" kl)" \
		"$(field "$work/eval" agreement)" >>"$table"
	echo "made $*: KL $(tail -n 1 "$table" | cut -f 5)"
}

render() {
	cat <<-END
		# Deltas for a base of codes

		KL to the fine-tune in nats, over the reference answers of the first tasks ($(judged math) of math,
		$(judged chat) of chat); the delta made against the original base, and against what the codes
		serve. Made by \`bench/base_weights.sh\`.

		Default: against what int4 serves, whatever the method: what 4 bits lose is worth repairing.
		Rounding to 8 bits is noise of full rank that would take what the change needs, so that only
		methods that give every weight a code (k-bit, sign) lead from what int8 serves. An adapter leads
		from the original.

		| fine-tune | method | bf16 base | int8: original | served | int4: original | served |
		| --- | --- | --- | --- | --- | --- | --- |
	END
	awk -F '\t' '
		NR == 1 { next }
		{
			key = $1 "\t" $2
			if (!(key in seen)) { seen[key] = 1; keys[++n] = key }
			kl[key, $3, $4] = sprintf("%.5f", $5)
		}
		function at(k, b, a) { return (k, b, a) in kl ? kl[k, b, a] : "-" }
		END {
			for (i = 1; i <= n; i++) {
				k = keys[i]
				split(k, name, "\t")
				printf "| %s | %s | %s | %s | %s | %s | %s |\n", name[1], name[2],
					at(k, "bf16", "original"), at(k, "int8", "original"),
					at(k, "int8", "served"), at(k, "int4", "original"),
					at(k, "int4", "served")
			}
		}' "$table"
}

rows_options "$@"
table=$results/base_weights.tsv
work=$build/base_weights

if [ $list = yes ]; then
	needed
	exit
fi
mkdir -p "$results" "$work"
[ -f "$table" ] || printf 'tuned\tmethod\tweights\tagainst\tkl\tagreement\n' >"$table"
for weights in bf16 int8 int4; do
	[ -e "$work/$weights.base" ] || "$build/bin/deltactl" import "$models/base" \
		--weights "$weights" -o "$work/$weights.base" --quiet
done
for tuned in math chat; do
	tail -n +$(($(judged $tuned) + 1)) "$tasks/$tuned.jsonl" >"$work/$tuned.jsonl"
done
make_rows base_weights
