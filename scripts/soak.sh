#!/bin/sh
# Many clients against one daemon for a while: they ask, vanish in mid-stream, cancel, load, unload
# and pin at random. Every answer that is finished must equal the one given to a client alone, the
# daemon must live, and its descriptors and memory must return to where they began.
#   soak.sh BUILD SECONDS
set -eu
bin=$PWD/$1/bin
seconds=$2
export PATH="$bin:$PATH"
work=$(mktemp -d "${TMPDIR:-/tmp}/deltad-soak.XXXXXX")
daemon=
finish() {
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
export DELTAD_SOCKET=$work/deltad.sock DELTAD_ADMIN_SOCKET=$work/admin.sock

mkdir "$work/store" "$work/reference" "$work/wrong"
deltactl import models/Llama-deltad-16M -o "$work/store/base.base" --quiet
for ratio in 8 16 32; do
	deltactl compress --base models/Llama-deltad-16M --tuned models/Llama-deltad-16M-math --method delta-come --ratio $ratio \
		-o "$work/store/math$ratio.delta" --calibration-tokens 4096 --quiet >"$work/compress.log"
done
# Room for two of the three deltas, so that asking for all of them evicts.
largest=$(stat -c %s "$work/store/math8.delta")
cat >"$work/deltad.yaml" <<EOF
store:
  folder: $work/store
sockets:
  inference: $DELTAD_SOCKET
  admin: $DELTAD_ADMIN_SOCKET
memory:
  deltas: $((largest * 5 / 2))
  kv: 256 MiB
EOF
deltad --config "$work/deltad.yaml" >"$work/deltad.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
	deltactl ps >/dev/null 2>&1 && break
	sleep 0.1
done

ask() { # variant, question number
	text=$(sed -n "$2p" models/math.jsonl | sed 's/^{"prompt": "\([^"]*\)".*/\1/')
	if [ "$1" = base ]; then
		deltactl run base --raw --max-tokens 24 "$text"
	else
		deltactl run "$1" --max-tokens 32 "$text"
	fi
}
for variant in base math8 math16 math32; do
	for question in 1 2 3 4 5; do
		ask $variant $question >"$work/reference/$variant.$question"
	done
done
descriptors() { ls /proc/$daemon/fd | wc -l; }
resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' /proc/$daemon/status; }
fds_before=$(descriptors)
rss_before=$(resident)

# One client: a pseudo-random walk of its own seed until the time is over.
client() {
	seed=$1
	served=0
	while [ "$(date +%s)" -lt "$end" ]; do
		seed=$(((seed * 1103515245 + 12345) % 2147483648))
		pick=$((seed / 65536 % 16))
		question=$((seed / 1048576 % 5 + 1))
		case $((pick % 4)) in 0) variant=base ;; 1) variant=math8 ;; 2) variant=math16 ;; 3) variant=math32 ;; esac
		case $pick in
		13) timeout -s KILL 0.1 deltactl run $variant --max-tokens 64 "Tom has 3 apples." >/dev/null 2>&1 || true ;;
		14) deltactl unload math16 >/dev/null 2>&1 || true ;;
		15) deltactl load math32 >/dev/null 2>&1 || true ;;
		*)
			if ask $variant $question >"$work/answer.$1" 2>"$work/error.$1"; then
				cmp -s "$work/answer.$1" "$work/reference/$variant.$question" ||
					cp "$work/answer.$1" "$work/wrong/$variant.$question.$1"
				served=$((served + 1))
			fi
			;;
		esac
	done
	echo $served >"$work/served.$1"
}
end=$(($(date +%s) + seconds))
pids=
for i in 1 2 3 4 5 6 7 8; do
	client $i &
	pids="$pids $!"
done
wait $pids
total=$(cat "$work"/served.* | awk '{ n += $1 } END { print n }')

sleep 2
kill -0 $daemon 2>/dev/null || { tail -20 "$work/deltad.log"; echo 'not ok - the daemon died'; exit 1; }
failed=0
judge() { # condition, words
	if [ "$1" ]; then echo "ok - $2"; else
		echo "not ok - $2"
		failed=1
	fi
}
judge "$([ "$total" -gt 0 ] && echo y)" "$total answers served in $seconds s"
judge "$([ -z "$(ls "$work/wrong")" ] && echo y)" "every answer equals the one given alone"
judge "$([ "$(descriptors)" -le "$fds_before" ] && echo y)" "descriptors: $fds_before before, $(descriptors) after"
judge "$([ "$(resident)" -le $((rss_before + 32768)) ] && echo y)" "resident memory: $rss_before kB before, $(resident) kB after"
kill -TERM $daemon
wait $daemon && judge y "the daemon drained and ended" || judge "" "the daemon drained and ended"
daemon=
exit $failed
