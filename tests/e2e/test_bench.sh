#!/bin/sh
# deltactl bench on a tiny model: a row for each test, and what it says to bad calls. What the rates
# are is no matter here.
. tests/e2e/tap.sh

base=$work/tiny.base
delta=$work/tiny.delta
tiny=tests/golden/data/tiny/llama-gqa
check "import" "$deltactl" import $tiny -o "$base" --quiet
check "compress" "$deltactl" compress --base $tiny --tuned $tiny-ft --method sign --measure never \
	-o "$delta" --quiet

bench() {
	"$deltactl" bench --base "$base" --repeats 2 --generate 2 "$@"
}
row() { # PATTERN: one row of the table begins so, and has rates
	check "a row for $1" sh -c "grep -cE '^$1  +(bf16|int8|int4)  +[a-z0-9]+  +[0-9]+  +[0-9.]+  ' \
		'$work/table' | grep -qx 1"
}

check "the default tests but for the prompt's length" bench --prompt 64
cp "$work/out" "$work/table"
check "are two rows and a head" test "$(wc -l <"$work/table")" = 3
row 'prompt 64  +base'
row 'decode x1  +base'

check "all kinds of tests" bench --prompt 5,40 --batch 1,3 --depth 0,100 --delta "$delta" --chunk 7 --kv int8
cp "$work/out" "$work/table"
check "are nine rows and a head" test "$(wc -l <"$work/table")" = 11
for test in 'prompt 5' 'prompt 40' 'decode x1' 'decode at 100'; do
	row "$test  +base"
	row "$test  +tiny.delta"
done
row 'decode x3  +base'
row 'decode x3  +tiny.delta'
check "kernels are chosen" env DELTAD_ISA=ref "$deltactl" bench --base "$base" --prompt 0 --generate 1 \
	--repeats 1 --threads 1
cp "$work/out" "$work/table"
check "and named" grep -qE ' bf16 +ref +1 ' "$work/table"

check_fails 2 'base is needed' "no base" "$deltactl" bench
check_fails 2 'unexpected argument' "an argument too many" bench more
check_fails 2 'measure nothing' "nothing to measure" bench --prompt 0 --generate 0
check_fails 2 "prompt 513: .*512 tokens" "a prompt longer than the context" bench --prompt 513
check_fails 2 'depth 511 .*512 tokens' "depth that leaves no room" bench --prompt 0 --depth 511
check_fails 2 'generate 513: .*512 tokens' "more tokens than the context" bench --prompt 0 --generate 513
check_fails 2 "'1,,2' .*--batch" "a list with a hole" bench --batch 1,,2
check_fails 2 "'4,' .*--batch" "a list with an end missing" bench --batch 4,
check_fails 2 "'0' .*--batch" "no rows" bench --batch 0
check_fails 2 "'-1' .*--depth" "a negative depth" bench --depth -1
check_fails 2 'not what --prompt takes' "a list too long" bench --prompt 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
check_fails 2 "'0' .*--repeats" "no repeats" bench --repeats 0
check_fails 2 "'int3' .*--kv" "an unknown type" bench --kv=int3
check_fails 1 'No such file' "a missing base" "$deltactl" bench --base "$work/none"
check_fails 1 'none.delta.*No such file' "a missing delta, named" bench --prompt 0 --delta "$work/none.delta"
check_fails 5 'expected a delta' "a base in place of a delta" bench --prompt 0 --delta "$base"
check "a base of another model" "$deltactl" import tests/golden/data/tiny/llama-mha-tied -o "$work/other.base" -q
check_fails 5 'tiny.delta.*made for' "a delta of another base" "$deltactl" bench --base "$work/other.base" \
	--delta "$delta"
check_fails 4 'mmx' "a kernel set that does not exist" env DELTAD_ISA=mmx "$deltactl" bench --base "$base"

finish
