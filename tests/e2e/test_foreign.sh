#!/bin/sh
# Foreign bytes on the command line: the exit code and the words for each kind of refusal, and nothing
# left behind when an import is interrupted.
. tests/e2e/tap.sh

tiny=tests/golden/data/tiny/llama-gqa

# safetensors NAME LENGTH-BYTE HEADER DATA
safetensors() {
	{ printf "\\$2\\0\\0\\0\\0\\0\\0\\0%s" "$3"; printf "%s" "$4"; } >"$work/$1"
}

safetensors good.safetensors 073 '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]      }}' xy
safetensors trailing.safetensors 073 '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]      }}' xyz
safetensors short.safetensors 073 '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]      }}' x
safetensors long.safetensors 377 '{}' ''

check "inspect lists a safetensors file" "$deltactl" inspect "$work/good.safetensors" --json
grep -q '"name":"a","dtype":"U8","shape":\[2\]' "$work/out" && ok "with its tensor" || not_ok "with its tensor"
check_fails 3 'trailing.safetensors.*1 bytes after the last' "bytes behind the data" "$deltactl" inspect "$work/trailing.safetensors"
check_fails 3 'short.safetensors.*past the 1 bytes' "data that is not there" "$deltactl" inspect "$work/short.safetensors"
check_fails 3 'long.safetensors.*header of 255 bytes' "a header that is not there" "$deltactl" inspect "$work/long.safetensors"
check_fails 3 'neither a base image nor a delta file' "a text file" "$deltactl" inspect Makefile
check_fails 1 'nowhere' "a file that is not there" "$deltactl" inspect "$work/nowhere"
to_full_disk() {
	"$deltactl" "$@" >/dev/full
}
check_fails 1 'standard output' "a table that cannot be written" to_full_disk inspect "$work/good.safetensors"
check_fails 1 'standard output' "a document that cannot be written" to_full_disk inspect "$work/good.safetensors" --json
check_fails 1 'cannot print' "one that no buffer holds" to_full_disk inspect $base_model/model.safetensors --json
check_fails 1 'standard output' "words that cannot be written" to_full_disk import --help
check_fails 2 'bf16' "weights of another kind are named" "$deltactl" import $tiny -o "$work/x.base" --weights int3

# A model folder with one thing changed.
changed() { # sed expression
	rm -rf "$work/model"
	cp -r $tiny "$work/model"
	sed -i "$1" "$work/model/config.json"
}
changed 's/"llama"/"gemma2"/'
check_fails 4 "model_type 'gemma2' is not implemented" "an architecture we lack" "$deltactl" import "$work/model" -o "$work/x.base"
changed 's/"hidden_size": 64/"hidden_size": "64"/'
check_fails 3 'hidden_size: found a string' "a wrong type in config.json" "$deltactl" import "$work/model" -o "$work/x.base"
changed 's/"num_hidden_layers": 3/"num_hidden_layers": 4/'
check_fails 3 'model.layers.3.* is missing' "a layer that is not there" "$deltactl" import "$work/model" -o "$work/x.base"
changed 's/"num_hidden_layers": 3/"num_hidden_layers": 2/'
check_fails 4 'model.layers.2.* is not part' "a layer too many" "$deltactl" import "$work/model" -o "$work/x.base"
changed 's/"dtype"/"torch_dtype"/; s/"rope_parameters": {/"rope_theta": 500000.0, "rope_scaling": {/; /"rope_theta": 500000.0,$/d'
check "config.json of an older writer" "$deltactl" import "$work/model" -o "$work/older.base" --quiet
check "config.json of a newer writer" "$deltactl" import $tiny -o "$work/newer.base" --quiet
check "both are the same model" cmp "$work/older.base" "$work/newer.base"
[ "$(ls "$work" | grep -c 'x\.base')" = 0 ] && ok "refusals leave no file" || not_ok "refusals left $(ls "$work")"
check_fails 1 'exists already' "merge replaces nothing" "$deltactl" merge --base $tiny --delta "$work/newer.base" -o "$work/model"
check_fails 5 'base image' "merge wants a delta" "$deltactl" merge --base $tiny --delta "$work/newer.base" -o "$work/merged"
[ -z "$(ls -d "$work"/merged* 2>"$work/err")" ] && ok "a refused merge leaves nothing" || not_ok "a refused merge leaves nothing"
finish
