#!/bin/sh
# deltactl(1) has every command, every option that a command's --help tells, and the exit codes.
set -u
deltactl=${DELTAD_BUILD:-build}/bin/deltactl
manual=man/deltactl.1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

report() { # code, what
	if [ "$1" = 0 ]; then
		echo "ok - $2"
	else
		echo "not ok - $2"
		failed=1
	fi
}

# Options under the heading of a command, and those that several commands share.
manual_options() { # command
	awk -v command="$1" '
		/^\.S[sh] / {
			inside = $0 == ".Ss " command || index($0, ".Ss " command " ") == 1 ||
				$2 ~ /^(Options|Sampling)$/
		}
		inside && /^\.It Fl/ {
			while (match($0, /(Fl|,) -[a-z-]+/)) {
				option = substr($0, RSTART, RLENGTH)
				sub(/^[^-]*/, "-", option)
				print option
				$0 = substr($0, RSTART + RLENGTH)
			}
		}' "$manual" | sort -u
}

"$deltactl" --help | sed -n 's/^  \([a-z]*\)  *.*/\1/p' >"$work/commands"
[ -s "$work/commands" ]
report $? "commands are listed"
while read -r command; do
	grep -qE "^\.Ss $command( |$)" "$manual"
	report $? "the manual has $command"
	"$deltactl" "$command" --help | sed -n '3,$p' | grep -oE -- '--[a-z][a-z-]*' | sort -u >"$work/told"
	manual_options "$command" >"$work/written"
	comm -23 "$work/told" "$work/written" >"$work/missing"
	[ ! -s "$work/missing" ]
	report $? "options of $command: $(tr '\n' ' ' <"$work/missing")"
done <"$work/commands"

sed -n 's/^	EXIT_[A-Z_]* = \([0-9]*\).*/\1/p' client/deltactl/command.h >"$work/told"
sed -n '/^\.Sh EXIT STATUS/,/^\.El/s/^\.It \([0-9]*\)$/\1/p' "$manual" >"$work/written"
cmp -s "$work/told" "$work/written"
report $? "exit codes"
exit $failed
