#!/bin/sh
# deltactl score on a tiny model: what it prints, that threads and company change nothing, and what
# it says to bad ids.
. tests/e2e/tap.sh

base=$work/tiny.base
check "import" "$deltactl" import tests/golden/data/tiny/llama-gqa -o "$base" --quiet

score() {
	"$deltactl" score --base "$base" --ids "$@"
}
numbers() { # KEY LINE FILE: how many numbers the array of that name has
	sed -n "$2p" "$3" | grep -o "\"$1\":\[[^]]*\]" | grep -o '[-0-9.e]*' | grep -c '[0-9]'
}

printf '[1, 5, 9]\n\n[7]\n[%s3]\n' "$(yes '2,' | head -n 199 | tr -d '\n')" >"$work/ids"
check "three lines are scored" score "$work/ids" --greedy 4 --ignore-eos --last-logits --json
cp "$work/out" "$work/all"
check "an object a line" test "$(wc -l <"$work/all")" = 3
check "a log-probability a token from the second" test "$(numbers logprobs 1 "$work/all")" = 2
check "none for a single token" test "$(numbers logprobs 2 "$work/all")" = 0
check "199 for 200 tokens" test "$(numbers logprobs 3 "$work/all")" = 199
check "as many greedy tokens as asked" test "$(numbers greedy 2 "$work/all")" = 4
check "a logit for each token of the vocabulary" test "$(numbers last_logits 1 "$work/all")" = 320

sed -n 1p "$work/ids" >"$work/first"
check "the first line alone, from standard input, on one thread" \
	sh -c "'$deltactl' score --base '$base' --ids - --greedy 4 --ignore-eos --last-logits --json \
		--threads 1 <'$work/first'"
cp "$work/out" "$work/alone"
sed -n 1p "$work/all" >"$work/expected"
check "gives the same bytes" cmp "$work/alone" "$work/expected"
check "without --json a line to read" score "$work/first"
cp "$work/out" "$work/line"
check "with tokens and perplexity" grep -q '^line 1: 3 tokens, .*perplexity' "$work/line"

printf '[1, 2]\n[3, 320]\n' >"$work/bad"
check_fails 3 'line 2: value 2 .* below 320' "an id past the vocabulary" score "$work/bad"
cp "$work/out" "$work/printed"
check "and nothing was printed before" test ! -s "$work/printed"
printf '[1, -2]\n' >"$work/bad"
check_fails 3 'line 1: value 2' "a negative id" score "$work/bad"
printf '[1, 2.5]\n' >"$work/bad"
check_fails 3 'line 1: value 2' "a fraction" score "$work/bad"
printf '{"a": 1}\n' >"$work/bad"
check_fails 3 'line 1: expected an array' "an object" score "$work/bad"
printf '[]\n' >"$work/bad"
check_fails 3 'line 1: expected an array' "no ids" score "$work/bad"
printf '[1, 2\n' >"$work/bad"
check_fails 3 'line 1: ' "half an array" score "$work/bad"
printf '[%s3]\n' "$(yes '2,' | head -n 512 | tr -d '\n')" >"$work/bad"
check_fails 3 '513 ids, at most 512' "more ids than the model takes" score "$work/bad"
head -c 100000 /dev/zero | tr '\0' ' ' >"$work/bad"
check_fails 3 'longer than' "a line without end" score "$work/bad"
check_fails 1 '512 tokens in all' "more greedy tokens than the model takes" score "$work/first" --greedy 512
check_fails 1 'No such file' "a missing file" score "$work/none"
check_fails 2 'needs --json' "logits without --json" score "$work/first" --last-logits
check_fails 2 'are needed' "no base" "$deltactl" score --ids "$work/first"
check_fails 4 'mmx' "a kernel set that does not exist" env DELTAD_ISA=mmx "$deltactl" score \
	--base "$base" --ids "$work/first"

finish
