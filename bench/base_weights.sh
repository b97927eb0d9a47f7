#!/bin/bash
# Is a delta for a base of codes better made against what these serve, or against the original?
#
#   bench/base_weights.sh [options]
#     --build DIR     where bin/deltactl is (build)
#     --models DIR    folders base, math and chat (../shared/models)
#     --tasks DIR     math.jsonl and chat.jsonl (../shared/tasks)
#     --results DIR   base_weights.tsv and base_weights.md (bench/results)
#     --work DIR      base images and deltas, kept (a folder in /tmp)
#
# KL to the fine-tune over the reference answers of the first tasks; nothing is generated. A row that
# is in base_weights.tsv is not made again. Needs jq (make deps-bench).
set -eu -o pipefail
cd "$(dirname "$0")/.."
. bench/rows.sh

build=build models=../shared/models tasks=../shared/tasks results=bench/results
work=${TMPDIR:-/tmp}/base_weights
calibration_tokens=8192

while [ $# -gt 0 ]; do
	case $1 in
	--build | --models | --tasks | --results | --work)
		[ $# -ge 2 ] || usage
		declare "${1#--}=$2"
		shift 2
		;;
	*) usage ;;
	esac
done

judged() { # fine-tune: rows of its tasks file
	case $1 in math) echo 0:40 ;; *) echo 0:24 ;; esac
}

method_options() {
	case $1 in
	k-bit-1) echo --method k-bit --bits 1 ;;
	k-bit-2) echo --method k-bit --bits 2 ;;
	delta-come) echo --method delta-come --ratio 16 ;;
	esac
}

table=$results/base_weights.tsv

have() { # tuned method base against
	[ -e "$table" ] && grep -q "^$1	$2	$3	$4	" "$table"
}

make_delta() { # tuned method weights against file
	[ -e "$5" ] && return
	# shellcheck disable=SC2046 # the options are words
	"$build/bin/deltactl" compress --base "$models/base" --tuned "$models/$1" -o "$5" \
		$(method_options "$2") --base-weights "$3" --against "$4" \
		--calibration-tokens $calibration_tokens --quiet --json >"$5.json"
}

measure() { # tuned method base against delta
	local report
	report=$("$build/bin/deltactl" eval --base "$work/$3.base" --delta "$5" \
		--tuned "$models/$1" --tasks "$tasks/$1.jsonl" --rows "$(judged "$1")" --no-score \
		--quiet --json)
	printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" \
		"$(jq -r .kl <<<"$report")" "$(jq -r .agreement <<<"$report")" >>"$table"
}

row() { # tuned method base against
	local weights=$3 delta
	have "$@" && return
	[ "$4" = served ] || weights=bf16
	delta=$work/$1-$2-$weights.delta
	make_delta "$1" "$2" "$weights" "$4" "$delta"
	measure "$@" "$delta"
}

write_table() {
	cat <<-END
		# Deltas for a base of codes

		KL to the fine-tune in nats, over the reference answers of the first tasks (math $(judged math),
		chat $(judged chat)); the delta made against the original base, and against what the codes
		serve. Made by \`bench/base_weights.sh\`.

		Default: methods that give every weight a code (k-bit, sign) are made against what is served.
		They win much where int4 lost much (chat), and lose little where it lost little (math). All
		other methods are made against the original: rounding noise has full rank and would take
		the components that the change needs.

		| fine-tune | method | bf16 base | int8: original | served | int4: original | served |
		| --- | --- | --- | --- | --- | --- | --- |
	END
	awk -F '\t' '
		{
			key = $1 "\t" $2
			if (!(key in seen)) { seen[key] = 1; keys[++n] = key }
			kl[key, $3, $4] = sprintf("%.4f", $5)
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

mkdir -p "$results" "$work"
for weights in bf16 int8 int4; do
	[ -e "$work/$weights.base" ] || "$build/bin/deltactl" import "$models/base" \
		--weights "$weights" -o "$work/$weights.base" --quiet
done
for method in k-bit-1 delta-come k-bit-2; do
	for tuned in math chat; do
		row $tuned $method bf16 original
		row $tuned $method int8 original
		row $tuned $method int4 original
		row $tuned $method int4 served
		row $tuned $method int8 served
		write_table >"$results/base_weights.md"
	done
done
cat "$results/base_weights.md"
