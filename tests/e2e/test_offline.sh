#!/bin/sh
# The offline commands from end to end on the shipped models: import, compress, inspect, verify,
# merge, score, eval; and what happens when the disk is full, the process is killed, a file is broken.
. tests/e2e/tap.sh

base=$work/base.base
delta=$work/math.delta

check "import makes a base image" "$deltactl" import $base_model -o "$base" --quiet
check "import is deterministic: first" "$deltactl" import $base_model -o "$work/again.base" --quiet
check "import is deterministic: same bytes" cmp "$base" "$work/again.base"
check "compress makes a delta" "$deltactl" compress --base $base_model --tuned $math_model --method delta-come --ratio 16 \
	--calibration-tokens 4096 -o "$delta" --quiet
check "inspect prints the base" "$deltactl" inspect "$base"
check "inspect prints the delta" "$deltactl" inspect "$delta"
check "inspect prints a model folder" "$deltactl" inspect $base_model
check "inspect prints a safetensors file" "$deltactl" inspect $base_model/model.safetensors
check "verify accepts both, with the self-test" "$deltactl" verify --base "$base" "$base" "$delta"
check "merge writes a model folder" "$deltactl" merge --base $base_model --delta "$delta" -o "$work/merged"
check "the merged folder imports" "$deltactl" import "$work/merged" -o "$work/merged.base" --quiet

# Of a lossless delta merge makes the fine-tune again: weights, tokenizer, chat format and tokens that
# end a text come out as the same image.
check "compress without loss" "$deltactl" compress --base $base_model --tuned $math_model --method lossless \
	--calibration-tokens 512 -o "$work/lossless.delta" --quiet
check "merge it" "$deltactl" merge --base $base_model --delta "$work/lossless.delta" -o "$work/exact"
grep -q 'chat template is written anew' "$work/out" && ok "merge says so of the template" || not_ok "merge says so of the template"
cmp -s "$work/exact/model.safetensors" $math_model/model.safetensors && ok "the weights are the fine-tune's" || not_ok "the weights are the fine-tune's"
check "import it" "$deltactl" import "$work/exact" -o "$work/exact.base" --quiet
check "import the fine-tune itself" "$deltactl" import $math_model -o "$work/math.base" --quiet
check "both are the same image" cmp "$work/exact.base" "$work/math.base"
names() { tr ',' '\n' <"$1/tokenizer_config.json" | grep -o '"[a-z]*_token": *"[^"]*"' | tr -d ' ' | sort; }
[ "$(names "$work/exact")" = "$(names $math_model)" ] && ok "its tokens have the fine-tune's names" || not_ok "names are $(names "$work/exact")"
rm -f "$work/exact.base" "$work/math.base"

# The delta applied while computing and the merged weights are the same model, but for bf16 rounding
# of the merged ones.
echo '[0,2,417,268,202,745,354,224,25,21,19,1340,224,28,26,24,34,3,202,2,609,623,202]' >"$work/ids"
"$deltactl" score --base "$base" --delta "$delta" --ids "$work/ids" --greedy 16 --json >"$work/served.json"
"$deltactl" score --base "$work/merged.base" --ids "$work/ids" --greedy 16 --json >"$work/merged.json"
greedy() { sed 's/.*"greedy": *\[\([^]]*\)\].*/\1/' "$1" | tr -d ' '; }
if [ -n "$(greedy "$work/served.json")" ] && [ "$(greedy "$work/served.json")" = "$(greedy "$work/merged.json")" ]; then
	ok "served and merged continue alike: $(greedy "$work/served.json")"
else
	not_ok "served $(greedy "$work/served.json") and merged $(greedy "$work/merged.json") differ"
fi

check "eval gives the figures" "$deltactl" eval --base "$base" --delta "$delta" --tuned $math_model \
	--tasks models/math.jsonl --limit 12 --json --quiet
for key in kl agreement score tuned_score file_bytes ratio tokens; do
	grep -q "\"$key\":" "$work/out" && ok "eval reports $key" || not_ok "eval reports $key"
done

check "eval measures a base without a delta" "$deltactl" eval --base "$base" --tuned $base_model \
	--tasks models/math.jsonl --limit 2 --no-score --json --quiet
grep -q '"delta": *null.*"kl": *0\.0[,}]' "$work/out" && ok "which is the model that it was imported from" ||
	not_ok "a base in bf16 says $(cat "$work/out")"

check "eval keeps keys and values as it is told" "$deltactl" eval --base "$base" --tuned $base_model \
	--tasks models/math.jsonl --limit 2 --no-score --kv int8 --json --quiet
sed -n 's/.*"kl": *\([-+.e0-9]*\).*/\1/p' "$work/out" | awk '{ found = $1 > 0 && $1 < .01 } END { exit !found }' &&
	ok "which costs a little" || not_ok "keys and values in int8 cost $(cat "$work/out")"
check_fails 2 "'int9': expected f32, bf16 or int8" "eval names a bad --kv" "$deltactl" eval --base "$base" \
	--tuned $base_model --tasks models/math.jsonl --kv int9

# Broken and foreign files.
head -c 100000 "$delta" >"$work/short.delta"
check_fails 3 'short.delta' "verify names a truncated delta" "$deltactl" verify "$work/short.delta"
cp "$delta" "$work/flipped.delta"
printf '\377\377\377\377' | dd of="$work/flipped.delta" bs=1 seek=200000 conv=notrunc 2>"$work/dd"
cmp -s "$delta" "$work/flipped.delta" && not_ok "the flip changed the file"
check_fails 3 'flipped.delta.*(digest|chunk)' "verify finds a flipped byte" "$deltactl" verify "$work/flipped.delta"
check "a base of another model" "$deltactl" import tests/golden/data/tiny/llama-gqa -o "$work/other.base" --quiet
check_fails 5 'base' "a delta of another base is a mismatch" "$deltactl" verify --base "$work/other.base" "$delta"
check_fails 5 'base' "score refuses it too" "$deltactl" score --base "$work/other.base" --delta "$delta" --ids "$work/ids"
check_fails 3 'nonsense' "a file of noise is refused by name" sh -c "head -c 8192 /dev/urandom >$work/nonsense; $deltactl inspect $work/nonsense"
check_fails 2 'usage' "a wrong call says how it should be" "$deltactl" import
check_fails 1 'nowhere' "a missing folder is named" "$deltactl" import "$work/nowhere" -o "$work/x.base"

# A disk that fills up: a file system of one megabyte in a mount namespace of our own.
full_disk() {
	unshare -rm sh -c "mount -t tmpfs -o size=1m none $work/small && $deltactl $1 -o $work/small/out --quiet; code=\$?
		ls -A $work/small >$work/left; exit \$code"
}
mkdir "$work/small"
if unshare -rm true 2>"$work/err"; then
	check_fails 1 'space' "a full disk while importing is said" full_disk "import $base_model"
	[ -s "$work/left" ] && not_ok "import left $(cat "$work/left")" || ok "import left nothing on the full disk"
	check_fails 1 'space' "a full disk while compressing is said" full_disk "compress --base $base_model --tuned $math_model --calibration-tokens 4096"
	[ -s "$work/left" ] && not_ok "compress left $(cat "$work/left")" || ok "compress left nothing on the full disk"
else
	echo "skipped: full disk (no mount namespaces here)"
fi

# SIGKILL at moments spread over a whole run, the writing and renaming at its end included: the file
# is the old one or a complete new one.
old_or_new() { # SECONDS COMPRESS-ARGUMENTS...
	after=$1
	shift
	cp "$base" "$work/keep.delta"
	setsid "$deltactl" compress "$@" -o "$work/keep.delta" --quiet >"$work/out" &
	victim=$!
	sleep "$after"
	kill -KILL $victim 2>"$work/err"
	wait $victim 2>"$work/err"
	sleep 0.1
	# Dead but not yet reaped by process 1 counts as gone.
	if ps -o stat= -s $victim | grep -q '^[^Z]'; then
		not_ok "killed after $after s: its reader outlived it"
		pkill -KILL -s $victim
	elif cmp -s "$base" "$work/keep.delta"; then
		ok "killed after $after s: the old file is untouched, the reader gone"
	elif "$deltactl" verify "$work/keep.delta" >"$work/out" 2>&1; then
		ok "killed after $after s: the new file is complete, the reader gone"
	else
		not_ok "killed after $after s: the file is neither old nor new"
	fi
}
for after in 0.1 0.5 1.2; do
	old_or_new $after --base $base_model --tuned $math_model --method delta-come
done
tiny=tests/golden/data/tiny/llama-gqa
for after in 0.05 0.10 0.13 0.16 0.18 0.20 0.22 0.24 0.27 0.30 0.40 0.60; do
	old_or_new $after --base $tiny --tuned $tiny-ft --method delta-come --calibration-tokens 512
done
finish
