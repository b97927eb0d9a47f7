#!/bin/sh
# A LoRA adapter from its folder to answers: compressed, verified, merged, and served as the merged
# model is. And what compress --adapter refuses.
. tests/e2e/tap.sh

adapter=tests/golden/data/adapter

compress() { # output [options]
	output=$1
	shift
	"$deltactl" compress --base $base_model -o "$output" --quiet "$@"
}
mkdir "$work/store" "$work/dora"
: >"$work/deltad.yaml"

check_fails 2 'exclude' "an adapter and a fine-tune" compress "$work/x.delta" --adapter $adapter --tuned $math_model
check_fails 2 'exclude' "an adapter and a method" compress "$work/x.delta" --adapter $adapter --method sign
check_fails 2 'ratio' "an adapter has its size" compress "$work/x.delta" --adapter $adapter --ratio 16
check_fails 2 'adapter' "lora is not for fine-tunes" compress "$work/x.delta" --tuned $math_model --method lora
check_fails 1 'adapter_config.json' "a folder without an adapter" compress "$work/x.delta" --adapter $math_model
sed 's/"use_dora": false/"use_dora": true/' $adapter/adapter_config.json >"$work/dora/adapter_config.json"
cp $adapter/adapter_model.safetensors "$work/dora"
check_fails 4 'adapter_config.json: DoRA' "DoRA is refused by name" compress "$work/x.delta" --adapter "$work/dora"
head -c 20000 $adapter/adapter_model.safetensors >"$work/dora/adapter_model.safetensors"
cp $adapter/adapter_config.json "$work/dora"
check_fails 3 'adapter_model.safetensors' "a file that was cut" compress "$work/x.delta" --adapter "$work/dora"
check_fails 5 'lora_A' "another model's adapter" "$deltactl" compress --base tests/golden/data/tiny/llama-gqa \
	--adapter $adapter -o "$work/x.delta" --quiet
check "none of them left a file" test ! -e "$work/x.delta"

check "import" "$deltactl" import $base_model -o "$work/store/base.base" --quiet
check "compress" compress "$work/store/lora.delta" --adapter $adapter --json
cp "$work/out" "$work/report"
check "all factors are stored in fp16" grep -q '"fp16_factors": *7[.,}]' "$work/report"
check "verify" "$deltactl" verify "$work/store/lora.delta" --base "$work/store/base.base"
check "merge" "$deltactl" merge --base $base_model --delta "$work/store/lora.delta" -o "$work/merged" --quiet
head -n 40 models/math.jsonl >"$work/tasks.jsonl"
check "tasks are read with the base's tokenizer" compress "$work/of_tasks.delta" --adapter $adapter \
	--tasks "$work/tasks.jsonl" --calibration-tokens 512
cp "$work/out" "$work/report"
check "and measured on" grep -q 'on tasks' "$work/report"
check "the merged folder is the fine-tune that the file names" "$deltactl" eval --base "$work/store/base.base" \
	--delta "$work/store/lora.delta" --tuned "$work/merged" --tasks "$work/tasks.jsonl" --rows 0:4 --no-score
check "and becomes a base" "$deltactl" import "$work/merged" -o "$work/merged.base" --quiet

ask() { # model
	"$deltactl" run "$1" --raw --max-tokens 24 --json "Once upon a time there was a" | tail -1 |
		sed 's/.*"ids": *\[\([^]]*\)\].*/\1/'
}
start_daemon "$work/store" --base "$work/store/base.base"
ask lora >"$work/of_lora"
ask base >"$work/of_base"
kill $daemon
wait $daemon
start_daemon "$work/store" --base "$work/merged.base"
ask base >"$work/of_merged"
check "base and adapter answer" test -s "$work/of_lora"
check "as the merged model does" cmp "$work/of_lora" "$work/of_merged"
check "and not as the base does" sh -c "! cmp -s '$work/of_lora' '$work/of_base'"
finish
