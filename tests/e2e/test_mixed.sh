#!/bin/sh
# Eight clients at once on three variants of one base: every stream must be token for token the one
# that the same request gets alone, whether greedy or sampled.
. tests/e2e/tap.sh

shared=${DELTAD_SHARED:-../shared}

mkdir "$work/store"
: >"$work/deltad.yaml"
check "import" "$deltactl" import $base_model -o "$work/store/base.base" --quiet
check "compress math" "$deltactl" compress --base $base_model --tuned $math_model -o "$work/store/math.delta" \
	--method delta-come --calibration-tokens 4096 --quiet
if [ -d "$shared/models/tools" ]; then
	check "compress tools" "$deltactl" compress --base $base_model --tuned "$shared/models/tools" \
		-o "$work/store/tools.delta" --method delta-come --calibration-tokens 4096 --quiet
else
	check "compress math at 64x, as there is no $shared/models/tools" "$deltactl" compress --base $base_model \
		--tuned $math_model -o "$work/store/tools.delta" --ratio 64 --method delta-come --calibration-tokens 4096 --quiet
fi
start_daemon "$work/store"
check "load base" "$deltactl" load base

# Request number $1: its variant, its text, and sampling for the odd ones.
ask() {
	case $(($1 % 3)) in
	0) set -- "$1" base --raw "Once upon a time there was a" ;;
	1) set -- "$1" math "Jack has $1 marbles. Paul gives Jack 44 more marbles. How many marbles does Jack have now?" ;;
	2) set -- "$1" tools "User: Please play some music by Alec Benjamin in the kitchen, song number $1." ;;
	esac
	[ $(($1 % 2)) = 0 ] || set -- "$@" --temperature 0.8 --top-p 0.95 --seed "$1"
	number=$1
	shift
	"$deltactl" run "$@" --max-tokens $((24 + 5 * number)) --json | tail -1 |
		sed 's/.*"ids": *\[\([^]]*\)\].*/\1/'
}
for i in 1 2 3 4 5 6 7 8; do
	ask $i >"$work/alone.$i" 2>"$work/err"
	[ -s "$work/alone.$i" ] || not_ok "request $i got no answer: $(cat "$work/err")"
done
for round in 1 2 3; do
	pids=
	for i in 1 2 3 4 5 6 7 8; do
		ask $i >"$work/together.$i" &
		pids="$pids $!"
	done
	wait $pids
	for i in 1 2 3 4 5 6 7 8; do
		if cmp -s "$work/alone.$i" "$work/together.$i"; then
			ok "round $round: request $i, $(tr ',' '\n' <"$work/alone.$i" | wc -l) tokens, as alone"
		else
			not_ok "round $round: request $i differs: $(cat "$work/together.$i") instead of $(cat "$work/alone.$i")"
		fi
	done
done
check "drain" "$deltactl" drain
wait $daemon
check "the daemon ends well" test $? = 0
daemon=
finish
