# Sourced by the scripted tests: TAP lines, a folder that goes away, the programs under test,
# and a daemon of the script's own.
set -u
build=${DELTAD_BUILD:-build}
deltactl=$PWD/$build/bin/deltactl
deltad=$PWD/$build/bin/deltad
base_model=models/Llama-deltad-16M
math_model=models/Llama-deltad-16M-math
work=$(mktemp -d "${TMPDIR:-/tmp}/deltad-test.XXXXXX")
DELTAD_SOCKET=$work/run.sock
DELTAD_ADMIN_SOCKET=$work/admin.sock
export DELTAD_SOCKET DELTAD_ADMIN_SOCKET
daemon=
trap '[ -z "$daemon" ] || kill $daemon 2>/dev/null; rm -rf "$work"' EXIT
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
# start_daemon STORE [OPTION...]: in the background, as $daemon, with the configuration that is in
# $work/deltad.yaml; returns when it answers. It ends with the script.
start_daemon() {
	store_folder=$1
	shift
	"$deltad" --config "$work/deltad.yaml" --store "$store_folder" --socket "$DELTAD_SOCKET" \
		--admin-socket "$DELTAD_ADMIN_SOCKET" "$@" 2>"$work/log" &
	daemon=$!
	tries=0
	until "$deltactl" ps >/dev/null 2>&1 || [ $tries = 100 ]; do
		sleep 0.1
		tries=$((tries + 1))
	done
}
finish() {
	echo "1..$n_tests"
	[ $n_failed = 0 ]
	exit $?
}
