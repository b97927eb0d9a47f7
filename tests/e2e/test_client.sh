#!/bin/sh
# deltactl and the library's example with a real daemon on the real base: every command that asks it,
# with its exit codes.
. tests/e2e/tap.sh
. tests/library_example.sh

check_fails 6 'no daemon' 'run without a daemon' "$deltactl" run base hello
check_fails 6 'admin.sock' 'ps without a daemon' "$deltactl" ps

cat >"$work/deltad.yaml" <<YAML
memory:
  kv: 64 MiB
engine:
  threads: 1
YAML

serve() { # model folder
	rm -rf "$work/store"
	mkdir "$work/store"
	check "import $1" "$deltactl" import "$1" -o "$work/store/base.base" -q
	start_daemon "$work/store"
	check 'load waits for the base' "$deltactl" load base
}
end_by_drain() {
	check 'drain' "$deltactl" drain
	wait $daemon
	check 'the daemon ends well' test $? = 0
	daemon=
}
said() { # command: keeps what it prints
	"$@" >"$work/said"
}
says() { # pattern
	grep -qE "$1" "$work/said"
}
prompt='The capital of'
ask() {
	"$deltactl" run base "$prompt" --raw --max-tokens 12 "$@"
}

serve "$base_model"
check 'models' said "$deltactl" models
check 'models names the base' says '^base \(base\) +resident'
check 'models --json' said "$deltactl" models --json
check 'models --json is right' says '^\[\{"name":"base","state":"resident","base":true'

check 'run' said ask
cp "$work/said" "$work/answer"
check 'an answer came' says '[a-z]'
check 'run again' said ask
check 'the answer is the same' cmp "$work/said" "$work/answer"
check 'run with one token a line' said ask --json --logprobs 2
tail -1 "$work/said" >"$work/last"
check 'a line for each token and one at the end' test "$(wc -l <"$work/said")" = 13
check 'the last line has the counts' grep -q '"finish":"length".*"generated_tokens":12' "$work/last"
check 'another seed, another answer' sh -c '"$1" run base "$2" --raw --max-tokens 12 \
	--temperature 1.5 --seed 7 >"$3/seven" && ! cmp -s "$3/seven" "$3/answer"' sh "$deltactl" "$prompt" "$work"
word=$(tr -s ' \n' '\n' <"$work/answer" | grep -E '^[a-z]{2,}$' | tail -1)
check 'a stop string' said ask --stop "$word"
check 'the answer ends before it' sh -c '! grep -qF -- "$1" "$2"' sh "$word" "$work/said"
check 'a prompt from standard input' said sh -c 'printf %s "$1" | "$2" run base - --raw --max-tokens 12' \
	sh "$prompt" "$deltactl"
check 'gives the same answer' cmp "$work/said" "$work/answer"

check_fails 7 'nosuch' 'an unknown variant' "$deltactl" run nosuch hello
check_fails 7 'temperature' 'a setting out of range' ask --temperature -1
check_fails 7 'context' 'an answer longer than the context' ask --max-tokens 100000
check_fails 2 'not a value' 'a setting that is no number' ask --top-k many
check_fails 2 'exclude' 'options that exclude each other' ask --system you
check_fails 2 'usage' 'no text' "$deltactl" run base
check_fails 7 'chat' 'chat with a base that has no chat format' \
	sh -c 'echo hello | "$1" chat base' sh "$deltactl"

check 'list' said "$deltactl" list
check 'list has the base' says '^base +resident'

echo junk >"$work/store/broken.delta"
check_fails 7 'broken: ' 'a file that is no delta is not loaded' "$deltactl" load broken
check 'list says why' sh -c '"$1" list | grep -q "^broken *failed .*header"' sh "$deltactl"
rm "$work/store/broken.delta"
check 'and forgets it with its file' sh -c '! "$1" list | grep broken' sh "$deltactl"
check_fails 2 "option '--wat'" 'an option that is none' "$deltactl" list --wat

check 'ps' said "$deltactl" ps
check 'ps counts requests' says '^base +resident +[0-9.]+ MB +0 +[1-9]'
check 'show' said "$deltactl" show base
check 'show tells the context' says '^context +1024$'
check 'show --json' said "$deltactl" show base --json
check 'a base has no certificate' says '"certificate":null'
check_fails 7 'nosuch' 'show of an unknown variant' "$deltactl" show nosuch
check 'stats --json' said "$deltactl" stats --json
check 'stats counts tokens' says '"generated_tokens":[1-9]'
check 'top prints once where there is no terminal' said "$deltactl" top
check 'top has the base' says '^base '
check_fails 7 'base' 'the base cannot be unloaded' "$deltactl" unload base
check_fails 7 'nosuch' 'a variant that is not there cannot be pinned' "$deltactl" pin nosuch
check_fails 7 'administration socket' 'the inference socket does not administrate' \
	"$deltactl" ps --socket "$DELTAD_SOCKET"
check 'reload' said "$deltactl" reload

check 'the example of the manual builds' example_build "$build" "$work"
check 'the example runs' said "$work/ask" base "$prompt"
check 'and begins its answer as deltactl does' sh -c \
	'test "$(head -c 20 "$1")" = "$(head -c 20 "$2")"' sh "$work/said" "$work/answer"
check_fails 1 'no variant' 'the example tells a refusal' "$work/ask" nosuch hello

end_by_drain
check_fails 6 '' 'and is gone' "$deltactl" ps

# The fine-tune as a base of its own: it has a chat format.
serve "$math_model"
question='Tom has 3 apples and buys 4 more. How many apples does he have?'
check 'run asks for a chat' said "$deltactl" run base "$question" --max-tokens 40
cp "$work/said" "$work/answer"
check 'not for a continuation' sh -c '! "$1" run base "$2" --raw --max-tokens 40 | cmp -s - "$3"' \
	sh "$deltactl" "$question" "$work/answer"
check 'chat with lines from a pipe' said sh -c \
	'printf "%s\n/reset\n\n%s\n/quit\nnever\n" "$2" "$2" | "$1" chat base --max-tokens 40' \
	sh "$deltactl" "$question"
check 'each turn is answered, and reset forgets' sh -c 'cat "$1" "$1" | cmp -s - "$2"' \
	sh "$work/answer" "$work/said"
prompt_tokens() {
	"$deltactl" stats --json | sed 's/.*"prompt_tokens":\([0-9]*\).*/\1/'
}
before=$(prompt_tokens)
check 'a conversation of two turns' sh -c \
	'printf "%s\n%s\n" "$2" "$2" | "$1" chat base --max-tokens 40' sh "$deltactl" "$question"
together=$(($(prompt_tokens) - before))
before=$(prompt_tokens)
check 'and two of one turn' sh -c \
	'printf "%s\n/reset\n%s\n" "$2" "$2" | "$1" chat base --max-tokens 40' sh "$deltactl" "$question"
apart=$(($(prompt_tokens) - before))
check "the second turn has the first in its prompt ($together tokens, not $apart)" \
	test "$together" -gt "$apart"
end_by_drain
finish
