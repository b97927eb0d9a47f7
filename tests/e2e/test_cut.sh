#!/bin/sh
# Beginnings of delta files: deltactl cut, what other commands make of them, and the daemon serving one
# beside the whole.
. tests/e2e/tap.sh

store=$work/store
mkdir "$store"

check "a base" "$deltactl" import $base_model -o "$store/base.base" -q
check "a delta of three levels" "$deltactl" compress --base $base_model --tuned $math_model \
	--method delta-come --ratio 16 --calibration-tokens 2048 -o "$store/whole.delta" -q
check_fails 5 '3 levels' "it has no fourth" "$deltactl" cut "$store/whole.delta" --levels 4 -o "$work/x"
check_fails 2 'levels' "none is not enough" "$deltactl" cut "$store/whole.delta" --levels 0 -o "$work/x"
check_fails 5 'base.base' "a base is not cut" "$deltactl" cut "$store/base.base" --levels 1 -o "$work/x"
[ ! -e "$work/x" ] && ok "nothing was made" || not_ok "nothing was made"
check "one level" "$deltactl" cut "$store/whole.delta" --levels 1 -o "$store/one.delta"
check "two levels" "$deltactl" cut "$store/whole.delta" --levels 2 -o "$store/two.delta"
check "all levels" "$deltactl" cut "$store/whole.delta" --levels 3 -o "$work/all.delta"
check "all levels are the file" cmp "$store/whole.delta" "$work/all.delta"
check "a cut of a cut" "$deltactl" cut "$store/two.delta" --levels 1 -o "$work/again.delta"
check "is the same" cmp "$store/one.delta" "$work/again.delta"
size() { wc -c <"$1" | tr -d ' '; }
check "cut is a prefix" cmp -n "$(size "$store/two.delta")" "$store/two.delta" "$store/whole.delta"
check "verify accepts the cuts" "$deltactl" verify --base "$store/base.base" "$store/one.delta" "$store/two.delta" -q

# Elsewhere than at the end of a level, a file is damaged.
head -c $(($(size "$store/two.delta") + 4096)) "$store/whole.delta" >"$work/long.delta"
check_fails 3 "$(size "$store/two.delta")" "another length is refused and the nearest told" \
	"$deltactl" verify "$work/long.delta"

# The levels as inspect tells them, each with its size and the KL that was measured.
"$deltactl" inspect "$store/whole.delta" --json -q >"$work/json"
for levels in one two; do
	grep -qE "\"file_bytes\": *$(size "$store/$levels.delta"),\"bits_per_weight\": *[0-9.]+,\"kl\": *[0-9.]+[},]" "$work/json" &&
		ok "inspect tells size and KL of level $levels" || not_ok "inspect tells size and KL of level $levels"
done
"$deltactl" inspect "$store/two.delta" --json -q >"$work/json"
grep -q "\"cut\": *true" "$work/json" && ok "inspect says that it is cut" || not_ok "inspect says that it is cut"
grep -q "\"file_bytes\": *$(size "$store/two.delta")" "$work/json" &&
	ok "inspect knows its size" || not_ok "inspect knows its size"
check "a page of a cut file" "$deltactl" inspect "$store/two.delta" --html "$work/page.html" -q
check "is a page" grep -q '</html>' "$work/page.html"
check_fails 2 'delta' "no page of a base" "$deltactl" inspect "$store/base.base" --html "$work/x.html" -q

# Of method auto, in the order of what components are worth.
check "a delta of auto" "$deltactl" compress --base $base_model --tuned $math_model --ratio 32 --text none \
	--train-steps 0 --calibration-tokens 512 --measure never -o "$store/auto3.delta" -q
check "its first level" "$deltactl" cut "$store/auto3.delta" --levels 1 -o "$store/auto1.delta"
check "its second" "$deltactl" cut "$store/auto3.delta" --levels 2 -o "$store/auto2.delta"
check_fails 5 '3 levels' "it has no fourth" "$deltactl" cut "$store/auto3.delta" --levels 4 -o "$work/x"
"$deltactl" inspect "$store/auto3.delta" --json -q | tr '{' '\n' >"$work/json"
parts=$(grep -cE '"codec": *"factors"' "$work/json")
[ "$parts" -gt 56 ] && ok "some of 56 projections are in several levels" || not_ok "$parts parts"
head -n 12 models/math.jsonl >"$work/tasks"
kl() { # delta: in nanonats
	"$deltactl" eval --base "$store/base.base" --delta "$store/$1.delta" --tuned $math_model --tasks "$work/tasks" \
		--no-score --json -q | sed 's/.*"kl": *\([0-9.e-]*\),.*/\1/' | awk '{ printf "%d\n", 1e9 * $1 }'
}
first=$(kl auto1) second=$(kl auto2) third=$(kl auto3)
[ "$third" -gt 0 ] && [ "$second" -gt "$third" ] && [ "$first" -gt "$second" ] &&
	ok "each level of auto is better" || not_ok "KL of levels of auto: $first $second $third"

# Coarser levels are other models, and the daemon serves them beside each other.
prompt='Tom has 3 apples and buys 4 more. How many apples does he have?'
printf 'memory:\n  kv: 64 MiB\nengine:\n  threads: 1\n' >"$work/deltad.yaml"
start_daemon "$store"
check "the daemon has the base" "$deltactl" load base

# The same levels as a whole file of their own: merged into weights, imported, served as a base.
for levels in one two auto2; do
	"$deltactl" run $levels "$prompt" --raw --max-tokens 24 >"$work/$levels.said" 2>"$work/err"
	check "merge of $levels" "$deltactl" merge --base $base_model --delta "$store/$levels.delta" -o "$work/$levels" -q
	check "import of $levels" "$deltactl" import "$work/$levels" -o "$work/$levels.base" -q
	mkdir "$work/store.$levels"
	mv "$work/$levels.base" "$work/store.$levels/base.base"
done
"$deltactl" run whole "$prompt" --raw --max-tokens 24 >"$work/whole.said" 2>"$work/err"
cmp -s "$work/one.said" "$work/whole.said" && not_ok "one level speaks otherwise than three" ||
	ok "one level speaks otherwise than three"
check "drain" "$deltactl" drain
wait $daemon
daemon=
for levels in one two auto2; do
	start_daemon "$work/store.$levels"
	check "the daemon has the merged $levels" "$deltactl" load base
	"$deltactl" run base "$prompt" --raw --max-tokens 24 >"$work/$levels.merged" 2>"$work/err"
	[ -s "$work/$levels.said" ] && cmp -s "$work/$levels.said" "$work/$levels.merged" &&
		ok "$levels: served as a beginning and merged, the same words" ||
		not_ok "$levels: $(cat "$work/$levels.said") / $(cat "$work/$levels.merged")"
	check "drain" "$deltactl" drain
	wait $daemon
	daemon=
done
finish
