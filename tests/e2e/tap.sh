# Sourced by the scripted tests: TAP lines, a folder that goes away, and the programs under test.
set -u
build=${DELTAD_BUILD:-build}
deltactl=$PWD/$build/bin/deltactl
deltad=$PWD/$build/bin/deltad
base_model=models/Llama-deltad-16M
math_model=models/Llama-deltad-16M-math
work=$(mktemp -d "${TMPDIR:-/tmp}/deltad-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
n_tests=0
n_failed=0

ok() {
	n_tests=$((n_tests + 1))
	echo "ok $n_tests - $*"
}
not_ok() {
	n_tests=$((n_tests + 1))
	n_failed=$((n_failed + 1))
	echo "not ok $n_tests - $*"
}
# check "what is asserted" COMMAND...
check() {
	title=$1
	shift
	if "$@" >"$work/out" 2>"$work/err"; then
		ok "$title"
	else
		not_ok "$title (exit code $?)"
		sed 's/^/#   /' "$work/out" "$work/err" | tail -20
	fi
}
# check_fails CODE PATTERN "what is asserted" COMMAND...
# The command must end with that exit code and say something that matches.
check_fails() {
	code=$1
	pattern=$2
	title=$3
	shift 3
	"$@" >"$work/out" 2>"$work/err"
	got=$?
	if [ $got = "$code" ] && grep -qiE "$pattern" "$work/err"; then
		ok "$title"
	else
		not_ok "$title (exit code $got, expected $code; message must match /$pattern/)"
		sed 's/^/#   /' "$work/out" "$work/err" | tail -20
	fi
}
finish() {
	echo "1..$n_tests"
	[ $n_failed = 0 ]
	exit $?
}
