#!/bin/sh
# deltactl compress on the tiny models: what it refuses leaves the old file and nothing half-made,
# and what it makes does not depend on threads. (Full disks and SIGKILL: test_offline.sh.)
. tests/e2e/tap.sh

tiny=tests/golden/data/tiny
old=$work/made/old.delta
mkdir "$work/made" "$work/cut"
echo old >"$old"

compress() { # fine-tune output [options]
	tuned=$1 output=$2
	shift 2
	"$deltactl" compress --base $tiny/llama-gqa --tuned "$tuned" -o "$output" --quiet "$@"
}
only_old_file() {
	[ "$(ls -A "$work/made")" = old.delta ] && [ "$(cat "$old")" = old ]
}

check_fails 5 'family' 'another architecture is a mismatch' compress $tiny/qwen3 "$old"
check 'it left the old file' only_old_file

cp $tiny/llama-gqa-ft/config.json "$work/cut"
head -c 100000 $tiny/llama-gqa-ft/model.safetensors >"$work/cut/model.safetensors"
check_fails 3 'model.safetensors' 'a truncated checkpoint is bad input' compress "$work/cut" "$old"
check 'it left the old file' only_old_file

check_fails 1 'nowhere' 'a folder that is not there is named' \
	compress $tiny/llama-gqa-ft "$work/nowhere/x.delta"
mkfifo "$work/pipe"
for output in "$work/cut" "$work/pipe"; do
	check_fails 1 'not a regular file' "${output##*/}: only files are replaced" \
		compress $tiny/llama-gqa-ft "$output" --method sign --measure never
done
check_fails 2 "'0'" 'a ratio of nothing is wrong usage' \
	compress $tiny/llama-gqa-ft "$old" --ratio 0
check_fails 2 'ratio is 0.5' 'an impossible ratio is wrong usage' \
	compress $tiny/llama-gqa-ft "$old" --ratio 0.5
check_fails 2 'magic' 'an unknown method is wrong usage' \
	compress $tiny/llama-gqa-ft "$old" --method magic
check_fails 2 'task-rows.*--tasks' 'rows of no tasks are wrong usage' \
	compress $tiny/llama-gqa-ft "$old" --task-rows 0:3
check_fails 1 'as little as max-kl allows' 'a KL that no codes reach' \
	compress $tiny/llama-gqa-ft "$old" --calibration-tokens 2048 --max-kl 1e-9
check_fails 1 'finest codings' 'a KL that no codes reach, block by block' \
	compress $tiny/llama-gqa-ft "$old" --calibration-tokens 2048 --max-kl 1e-9 --memory 100M
check_fails 1 'absent.txt' 'a missing calibration text is named' \
	compress $tiny/llama-gqa-ft "$old" --calibrate "$work/absent.txt"
check 'none of them touched the old file' only_old_file

# A fine-tune whose chat format has a token that its embedding has no row for: said before anything
# runs on it, whatever the text is made of.
cp -r $math_model "$work/wide"
chmod -R u+w "$work/wide"
sed -i '0,/"added_tokens": \[/s//&{"id": 4099, "content": "<|wide|>", "special": true},/' "$work/wide/tokenizer.json"
sed -i "s/'<|im_start|>'/'<|im_start|><|wide|>'/" "$work/wide/tokenizer_config.json"
wide() { # what it is, options
	what=$1
	shift
	check_fails 3 'id 4099.*vocabulary of 4096' "a token outside the vocabulary: $what" \
		"$deltactl" compress --base $base_model --tuned "$work/wide" -o "$old" --quiet \
		--calibration-tokens 512 "$@"
}
head -n 20 models/math.jsonl >"$work/tasks.jsonl"
wide 'in its own words'
wide 'in tasks' --tasks "$work/tasks.jsonl"
wide 'in tasks, block by block' --tasks "$work/tasks.jsonl" --memory 240M
wide 'in calibration by tasks' --tasks "$work/tasks.jsonl" --method k-bit
check 'none of them touched the old file' only_old_file

# SIGTERM lets it clean up behind itself; work that is safe stays for the next time.
"$deltactl" compress --base $tiny/llama-gqa --tuned $tiny/llama-gqa-ft -o "$work/made/new.delta" \
	--quiet --calibration-tokens 4000000 2>/dev/null &
pid=$!
sleep 0.5
kill -TERM $pid
wait $pid
rm -f "$work/made/new.delta.partial"
check 'terminated, it leaves nothing else behind' only_old_file

check 'one thread makes a delta' compress $tiny/llama-gqa-ft "$work/one.delta" --json --threads 1 \
	--calibration-tokens 2048
"$deltactl" inspect --json "$work/one.delta" >"$work/inspected"
check 'three threads make one' compress $tiny/llama-gqa-ft "$work/three.delta" --threads 3 \
	--calibration-tokens 2048
check 'the method is auto where none is said' grep -q '"method": *"auto"' "$work/inspected"
check 'the bytes are the same' cmp "$work/one.delta" "$work/three.delta"

# On a terminal each stage is shown when it begins: by what it counts, and bytes only of files.
on_terminal() { # options
	script -qec "$deltactl compress --base $tiny/llama-gqa --tuned $tiny/llama-gqa-ft -o $work/shown.delta \
		--calibration-tokens 2048 $*" "$work/terminal" && tr '\r' '\n' <"$work/terminal" >>"$work/shown"
}
check 'stages of auto' on_terminal --train-steps 2 --embedding auto
check 'stages of auto, block by block' on_terminal --memory 100M
check 'stages of k-bit' on_terminal --method k-bit --ratio 8
check 'stages of deltadq' on_terminal --method deltadq --claimed-ratio 32 --group-search first-layer
for stage in sensing 'sensing the embedding' 'reading forward' coding 'choosing widths' compressing distilling; do
	check "$stage: a share and a count" grep -qE "$stage .*[0-9] %  [0-9]+ of [0-9]+ [a-z]+" "$work/shown"
done
check 'allocating: trials' grep -qE 'allocating: [0-9]+ trials' "$work/shown"
check 'all that is counted is told' sh -c '! grep " parts" "$1"' sh "$work/shown"

# Tasks are read as base and delta will be served: by the base's tokenizer where the fine-tune's
# folder has none.
mkdir "$work/no_tokenizer"
cp $math_model/* "$work/no_tokenizer"
rm "$work/no_tokenizer/tokenizer.json"
head -n 40 models/math.jsonl >"$work/tasks"
of_tasks() { # fine-tune output
	"$deltactl" compress --base $base_model --tuned "$1" -o "$2" --quiet --method sign --tasks "$work/tasks" \
		--calibration-tokens 1024 --measure never
}
check 'tasks for a fine-tune with a tokenizer' of_tasks $math_model "$work/with.delta"
check 'and for one without' of_tasks "$work/no_tokenizer" "$work/without.delta"
check 'give the same bytes' cmp "$work/with.delta" "$work/without.delta"

# What a delta leads from, for a base that serves codes.
against() { # what is expected, options
	expected=$1
	shift
	"$deltactl" compress --base $tiny/llama-gqa --tuned $tiny/llama-gqa-ft -o "$work/against.delta" \
		--measure never --calibration-tokens 1024 --json --quiet "$@" >"$work/against" &&
		grep -q "\"against\": *\"$expected\"" "$work/against"
}
check 'low-rank leads from the original of int8' against original --method low-rank --base-weights int8
check 'and from what int4 serves' against served --method low-rank --base-weights int4
check 'sign leads from what int8 serves' against served --method sign --base-weights int8
check 'unless it is told otherwise' against original --method sign --base-weights int4 --against original

# Every bit of the fine-tune, from what 4 bits left of the base.
head -n 4 models/math.jsonl >"$work/few"
check 'a base of 4 bits' "$deltactl" import $base_model --weights int4 -o "$work/int4.base" --quiet
check 'a base of bf16' "$deltactl" import $base_model -o "$work/bf16.base" --quiet
check 'lossless against 4 bits' "$deltactl" compress --base $base_model --tuned $math_model \
	--method lossless --base-weights int4 --measure never --quiet -o "$work/exact.delta"
on_base() { # base
	"$deltactl" eval --base "$work/$1.base" --delta "$work/exact.delta" --tuned $math_model \
		--tasks "$work/few" --no-score --json --quiet
}
on_base int4 >"$work/exact" 2>&1
check 'as the fine-tune does, bit for bit' grep -qE '"kl": *0(\.0)?,' "$work/exact"
check_fails 5 'made for the base' 'another base is a mismatch' on_base bf16
finish
