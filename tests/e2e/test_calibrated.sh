#!/bin/sh
# deltactl import --calibrate: codes that know of a text serve the model better than codes that do
# not, whatever the number of threads; and what it refuses leaves nothing behind.
. tests/e2e/tap.sh

mkdir "$work/made"
import() { # image [options]
	image=$1
	shift
	"$deltactl" import $base_model --weights int4 -o "$image" --quiet "$@"
}
# Tasks to judge by, and the others as text to calibrate on. The base guesses at every token of an
# answer; the fine-tune is so sure of them that what codes lose there is a matter of luck.
head -n 40 models/math.jsonl >"$work/tasks"
tail -n +101 models/math.jsonl | sed 's/", "/\n/g; s/\\n/\n/g; s/$/\n/' >"$work/text"

check 'each number by itself' import "$work/plain.base"
check 'with the text in mind' import "$work/made/one.base" --calibrate="$work/text" \
	--calibration-tokens 4096 --threads 1
check 'with three threads' import "$work/made/three.base" --calibrate="$work/text" \
	--calibration-tokens 4096 --threads 3
check 'the same bytes' cmp "$work/made/one.base" "$work/made/three.base"
same_size() {
	[ "$(wc -c <"$work/made/one.base")" = "$(wc -c <"$work/plain.base")" ]
}
check 'no byte more than without' same_size

value() { # base field
	"$deltactl" eval --base "$1" --tuned $base_model --tasks "$work/tasks" --no-score --json \
		--quiet | sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p"
}
less() { # field share floor: of what is lost above the floor by itself
	one=$(value "$work/made/one.base" "$1") plain=$(value "$work/plain.base" "$1")
	echo "$1 $one, each number by itself $plain"
	awk -v one="$one" -v plain="$plain" -v share="$2" -v floor="$3" \
		'BEGIN { exit !(one - floor < share * (plain - floor)) }'
}
tuned=$(value "$work/plain.base" tuned_perplexity)
check 'a smaller KL' less kl 0.7 0
check 'a lower perplexity' less perplexity 0.7 "$tuned"
rm "$work/made/three.base"

only_one() {
	[ "$(ls -A "$work/made")" = one.base ]
}
check_fails 2 'codes.*--weights' 'nothing to round' "$deltactl" import $base_model \
	--calibrate -o "$work/made/x.base"
check_fails 2 "'many'" 'tokens that are no number' import "$work/made/x.base" --calibrate \
	--calibration-tokens many
check_fails 1 'absent.txt' 'a text that is not there' import "$work/made/x.base" \
	--calibrate="$work/absent.txt"
printf 'one \377\376 two\n' >"$work/broken.txt"
check_fails 3 'broken.txt.*UTF-8' 'a text that is none' import "$work/made/x.base" \
	--calibrate="$work/broken.txt"
: >"$work/empty.txt"
check_fails 3 'empty.txt.*0 tokens' 'a text of nothing' import "$work/made/x.base" \
	--calibrate="$work/empty.txt"
cp -r $base_model "$work/mute"
chmod -R u+w "$work/mute"
rm "$work/mute/tokenizer.json"
check_fails 1 'mute has no tokenizer.json' 'a model that reads no text' "$deltactl" import \
	"$work/mute" --weights int4 --calibrate -o "$work/made/x.base"
check 'and nothing is left of them' only_one
finish
