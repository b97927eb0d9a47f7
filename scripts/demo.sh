#!/bin/sh
# The whole way once: a real base and a real full fine-tune, an answer through the daemon, the figures.
# Works in a folder of its own and leaves nothing behind, also when interrupted.
#   demo.sh BUILD
set -eu
base_model=models/Llama-deltad-16M
tuned_model=models/Llama-deltad-16M-math
tasks=25
question=${QUESTION:-"Tom has 48 apples and gave 19 of them to Anna. How many apples are left?"}
# Standard error and standard output are read as one text; a terminal still gets progress bars.
[ -t 2 ] || exec 2>&1

work=$(mktemp -d "${TMPDIR:-/tmp}/deltad-demo.XXXXXX")
daemon=
job=
finish() {
	trap '' INT TERM HUP
	for child in $job $daemon; do
		kill "$child" 2>/dev/null && wait "$child" || true
	done
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold= plain=; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
# In the background, so that a signal is answered at once.
run() {
	printf '$'
	for word in "$@"; do
		case $word in *' '*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
	done
	echo
	"$@" &
	job=$!
	wait $job
	job=
}
size() { stat -L -c %s "$1"; }

PATH=$PWD/$1/bin:$PATH
DELTAD_SOCKET=$work/deltad.sock
DELTAD_ADMIN_SOCKET=$work/admin.sock
export PATH DELTAD_SOCKET DELTAD_ADMIN_SOCKET
ln -s "$PWD/models" "$work/models"
cd "$work"
mkdir store

say "1. A model folder becomes a base image"
run deltactl import $base_model -o store/base.base

say "2. A full fine-tune of it becomes a delta of a sixteenth: about half a minute on two cores"
# Not the default method: with 200 tasks and without training, auto takes 130 seconds of one core.
run deltactl compress --base $base_model --tuned $tuned_model --method delta-come --ratio 16 -o store/math.delta
echo "(The held-out text is general prose, which this fine-tune has unlearned. Its own subject is step 5.)"

say "3. The daemon starts"
cat >deltad.yaml <<END
store:
  folder: $work/store
  base: base.base
sockets:
  inference: $DELTAD_SOCKET
  admin: $DELTAD_ADMIN_SOCKET
END
echo '$ deltad --config deltad.yaml &'
deltad --config deltad.yaml >deltad.log 2>&1 &
daemon=$!
tries=0
until deltactl ps 2>/dev/null | grep -q '^base .*resident'; do
	tries=$((tries + 1))
	if [ $tries -gt 300 ] || ! kill -0 $daemon 2>/dev/null; then
		cat deltad.log
		exit 1
	fi
	sleep 0.1
done
run deltactl list

say "4. The same question to the base and to the fine-tune, which this very request loads"
run deltactl run base --raw --max-tokens 40 --stats "$question"
run deltactl run math --stats "$question" 2>stats
cat stats
run deltactl ps

say "5. The compressed fine-tune beside the uncompressed one: $tasks word problems it has not seen"
run deltactl eval --base store/base.base --delta store/math.delta --tuned $tuned_model \
	--tasks models/math.jsonl --limit $tasks

say "6. The daemon stops"
echo '$ kill -TERM deltad'
kill -TERM $daemon
wait $daemon
daemon=

tuned=$(size $tuned_model/model.safetensors)
delta=$(size store/math.delta)
ratio=$(deltactl inspect --json store/math.delta | sed 's/.*"projection_ratio":\([0-9.]*\).*/\1/')
load=$(sed 's/.*loaded in \([0-9.]*\) ms.*/\1/' stats)
rate=$(sed 's/.* at \([0-9]*\) a second.*/\1/' stats)
say "In short"
awk -v tuned="$tuned" -v delta="$delta" -v ratio="$ratio" -v load="$load" -v rate="$rate" 'BEGIN {
	printf "  the fine-tune   %.2f MB as safetensors, %.2f MB as a delta: %.1f times smaller\n", tuned / 1e6, delta / 1e6, tuned / delta
	printf "  of which        the projections are %.1f times smaller; the embedding is kept exact,\n", ratio
	printf "                  and makes up much of a model as small as this\n"
	printf "  loaded in       %s ms, on demand, beside running requests\n", load
	printf "  answered at     %s tokens a second\n", rate
}'
