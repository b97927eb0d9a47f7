#!/bin/sh
# A compression that is killed again and again ends with the bytes of one that was let alone.
. tests/e2e/tap.sh

tiny=tests/golden/data/tiny/mistral-window
mkdir "$work/made"

compress() { # NAME [options]: into $work/made/NAME
	name=$1
	shift
	"$deltactl" compress --base $tiny --tuned $tiny-ft -o "$work/made/$name" --quiet \
		--calibration-tokens 16384 "$@"
}
compress_for() { # MILLISECONDS NAME [options]: killed after that time
	seconds=$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))
	name=$2
	shift 2
	timeout -s KILL "$seconds" "$deltactl" compress --base $tiny --tuned $tiny-ft \
		-o "$work/made/$name" --quiet --calibration-tokens 16384 "$@" >"$work/out" 2>&1
}
same() { cmp "$work/made/whole.delta" "$work/made/$1"; }
told() { # KEY: its value in what was printed last
	sed "s/.*\"$1\":\([^,]*\),.*/\1/" "$work/out"
}

# Longer and longer lives, so that it ends.
kill_until_done() { # FIRST-LIFE STEP METHOD [and options], in milliseconds
	life=$1 kills=0
	while ! compress_for "$life" killed.delta --method $3; do
		kills=$((kills + 1)) life=$((life + $2))
		[ $kills -lt 60 ] || break
	done
	check "$3, killed $kills times, makes the same bytes" same killed.delta
	[ $kills -ge 2 ] && ok 'it was killed' || not_ok "it was killed $kills times"
	[ -e "$work/made/killed.delta.partial" ] && not_ok 'its work is still there' || ok 'its work is gone'
	rm -f "$work/made/killed.delta"
}
for method in delta-come deltadq; do
	check "$method undisturbed" compress whole.delta --method $method
	kill_until_done 100 30 $method
	kill_until_done 150 55 $method
done

# One block at a time, for models above the limit.
by_blocks='auto --memory 30M'
check "$by_blocks undisturbed" compress whole.delta --method $by_blocks --json
[ "$(told made)" = '"block-by-block"' ] && ok 'it is made by blocks' || not_ok 'it is made at once'
kill_until_done 300 100 "$by_blocks"

# A partial file with a block in it, to spoil copies of: header, two slots and inputs of the windows
# stand before the log; 8000 bytes of that are the first block and more. A block counts from when its
# own header is written, which happens last: until then zeros stand where the 56 bytes of it belong.
block_counts() { # FILE
	[ -n "$(od -An -v -tx1 -j "$log" -N 56 "$1" | tr -d ' 0\n')" ]
}
compress whole.delta --method delta-come >"$work/out"
life=150
log=0
until [ -s "$work/saved" ] || [ $life -gt 3000 ]; do
	rm -f "$work"/made/part.delta*
	compress_for $life part.delta --method delta-come && break
	partial=$work/made/part.delta.partial
	[ -s "$partial" ] && [ $log = 0 ] && log=$(stat -c %s "$partial")
	[ -s "$partial" ] && [ "$(stat -c %s "$partial")" -gt $((log + 8000)) ] && block_counts "$partial" &&
		cp "$partial" "$work/saved"
	life=$((life + 20))
done
[ -s "$work/saved" ] && ok 'some blocks are safe' || not_ok 'no run was killed between blocks'

go_on() { # [options]: from the partial file in place
	compress part.delta --method delta-come --json "$@"
}
flip_byte() { # OFFSET
	byte=$(od -An -tu1 -j "$1" -N1 "$work/saved")
	printf "$(printf '\\%03o' $((255 - byte)))" |
		dd of="$work/made/part.delta.partial" bs=1 seek="$1" conv=notrunc 2>"$work/err"
}
take_copy() {
	rm -f "$work"/made/part.delta*
	cp "$work/saved" "$work/made/part.delta.partial"
}
take_copy
check 'a copy of the work is gone on with' go_on
[ "$(told resumed_blocks)" -ge 1 ] && ok 'its blocks are taken' || not_ok 'its blocks are not taken'
check 'same bytes' same part.delta

take_copy
check '--no-resume' go_on --no-resume
[ "$(told resumed_blocks)" = 0 ] && ok 'begins anew' || not_ok 'does not begin anew'
[ "$(told began_anew)" = false ] && ok 'as it was told to' || not_ok 'and calls the file foreign'
check 'same bytes' same part.delta

take_copy
check 'work of other settings' go_on --ratio 8
[ "$(told began_anew)" = true ] && ok 'is refused with a word' || not_ok 'is not refused'

slot=$(((log - 4096) / (64 + 64 + 160) * 64))
for at in 20 100 $((4096 + 1000)) $((4096 + slot / 2 + 1000)) $((log + 20)) $((log + 3000)); do
	take_copy
	flip_byte "$at"
	check "a byte is wrong at $at" go_on
	check 'same bytes' same part.delta
done
take_copy
truncate -s $((log + 200)) "$work/made/part.delta.partial"
check 'the end of the log is missing' go_on
check 'same bytes' same part.delta

take_copy
flock "$work/made/part.delta.partial" sleep 2 &
sleep 0.3
check 'one that is about to end is waited for' go_on
check 'same bytes' same part.delta
wait

take_copy
flock "$work/made/part.delta.partial" sleep 20 &
sleep 0.3
check_fails 1 'at work' 'nobody works on it at the same time' go_on
wait
finish
