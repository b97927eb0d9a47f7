#!/bin/sh
# deltactl eval: an answer ends where the chat format says, whatever the model's files list as the
# end of a text.
. tests/e2e/tap.sh

head -n 8 models/math.jsonl >"$work/tasks"
judge() { # end-of-text ids
	rm -rf "$work/model"
	cp -r $math_model "$work/model"
	chmod -R u+w "$work/model"
	echo "{\"bos_token_id\": 0, \"eos_token_id\": $1}" >"$work/model/generation_config.json"
	"$deltactl" import "$work/model" -o "$work/model.base" --quiet >"$work/log" &&
		"$deltactl" eval --base "$work/model.base" --tuned "$work/model" --tasks "$work/tasks" \
			--json --quiet >"$work/judged"
}
value() {
	sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p" "$work/judged"
}
for ends in '[3, 1]' '[1]' '[1, 3]'; do
	check "ends are $ends" judge "$ends"
	check "tasks are solved: $(value score)" test "$(value score)" = 1.0
	check "the end of a turn is expected: perplexity $(value perplexity)" \
		awk "BEGIN { exit !($(value perplexity) < 1.01) }"
done
finish
