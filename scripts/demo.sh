#!/bin/sh
# The whole way once: a real base and a real full fine-tune, an answer through the daemon. Works in a
# folder of its own and leaves nothing behind.
#   demo.sh BUILD
set -eu
bin=$1/bin
base_model=models/Llama-deltad-16M
tuned_model=models/Llama-deltad-16M-math
question=${QUESTION:-"Tom has 48 apples and gave 19 of them to Anna. How many apples are left?"}

work=$(mktemp -d "${TMPDIR:-/tmp}/deltad-demo.XXXXXX")
daemon=
finish() {
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	[ -z "$daemon" ] || wait "$daemon" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
size() { stat -c %s "$1"; }

export PATH="$PWD/$bin:$PATH"
store=$work/store
mkdir "$store"
export DELTAD_SOCKET=$work/deltad.sock DELTAD_ADMIN_SOCKET=$work/admin.sock

say "1. A Hugging Face folder becomes a base image"
run deltactl import $base_model -o "$work/base.base"

say "2. A full fine-tune of it becomes a delta, the projections at 1/16"
run deltactl compress --base $base_model --tuned $tuned_model --ratio 16 -o "$store/math.delta"

say "3. The daemon starts"
cat >"$work/deltad.yaml" <<EOF
store:
  folder: $store
  base: $work/base.base
sockets:
  inference: $DELTAD_SOCKET
  admin: $DELTAD_ADMIN_SOCKET
EOF
printf '$ deltad --config deltad.yaml &\n'
deltad --config "$work/deltad.yaml" >"$work/deltad.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
	deltactl ps 2>/dev/null | grep -q '^base .*resident' && break
	kill -0 $daemon 2>/dev/null || { cat "$work/deltad.log"; exit 1; }
	sleep 0.1
done
run deltactl list

say "4. The same question to the base and to the fine-tune"
printf 'Q: %s\n\n' "$question"
printf '%s\n' "--- base ---"
deltactl run base --raw --max-tokens 48 --stats "$question"
printf '%s\n' "--- math (loaded by this very request) ---"
deltactl run math --max-tokens 64 --stats "$question"

say "5. What it took"
run deltactl ps
tuned=$(size $tuned_model/model.safetensors)
delta=$(size "$store/math.delta")
printf 'fine-tune: %s bytes; as a delta: %s bytes, %s times smaller (embedding kept exact)\n' "$tuned" "$delta" \
	"$(awk "BEGIN { printf \"%.1f\", $tuned / $delta }")"

say "6. The daemon stops"
kill -TERM $daemon
wait $daemon
daemon=
printf 'deltad ended by itself with exit code 0; nothing is left in %s\n' "$work"
