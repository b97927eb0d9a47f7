#!/bin/sh
# What the compiler does not check: lengths, banned calls, marks of unfinished work.
set -u
cd "$(dirname "$0")/.."
sources=$(git ls-files '*.c' '*.h')
failed=0

report() { # title, findings
	[ -z "$2" ] && return
	echo "$1"
	echo "$2" | head -20 | sed 's/^/  /'
	failed=1
}

# A function begins with '{' in the first column and ends with '}' there.
report 'functions over 100 lines:' "$(awk '
	FNR == 1 { start = 0 }
	/^{/ { start = FNR; name = last }
	/^}/ { if (start && FNR - start > 100) print FILENAME ": " FNR - start " lines: " name; start = 0 }
	{ last = $0 }' $sources)"
report 'files over 600 lines:' "$(wc -l $sources | awk '$2 != "total" && $1 > 600 { print $2 ": " $1 }')"
report 'lines over 100 columns (tabs count 8):' "$(for f in $sources; do
	expand -t 8 "$f" | awk -v f="$f" 'length($0) > 100 { print f ":" FNR }'
done)"
report 'banned calls:' "$(grep -nE '\<(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|alloca|gets)\(' $sources)"
report 'descriptors without close-on-exec:' "$(grep -nE '\<(open|openat)\(.*O_(RDONLY|WRONLY|RDWR)' $sources | grep -v CLOEXEC)"
report 'exit() outside a main:' "$(grep -nE '\<_?exit\(' $sources |
	grep -vE '^(daemon/main\.c|client/deltactl/|foreign/sandbox|tests/|bench/)')"
report 'unfinished work:' "$(grep -nE '\<(TODO|FIXME|XXX|HACK)\>' $sources)"
report 'line comments:' "$(grep -nE '(^|[[:space:];])//[^/]' $sources | grep -vE '://|"[^"]*//')"
report 'headers without #pragma once:' "$(for f in $sources; do
	case $f in *.h) grep -q '^#pragma once' "$f" || echo "$f" ;; esac
done)"
[ $failed = 0 ] && echo "style: lengths, banned calls and marks are fine"
exit $failed
