#!/bin/sh
# The numbers of deltad-protocol(7) are those of client/proto.h: operations, statuses, limits.
set -u
manual=man/deltad-protocol.7
header=client/proto.h
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# Members "PROTO_NAME = N" of an enum, without the prefix.
enum_of() { # enum prefix
	awk -v enum="$1" -v prefix="$2" '
		$0 ~ "^enum " enum " \\{" { inside = 1; next }
		inside && /^};/ { exit }
		inside && match($0, prefix "[A-Z_]+ = [0-9]+") {
			split(substr($0, RSTART, RLENGTH), part, " = ")
			print substr(part[1], length(prefix) + 1), part[2]
		}' "$header" | sort
}

# Rows ".It Li NAME Ta N" of a section.
rows_of() { # section
	awk -v section="$1" '
		/^\.S[sh] / { inside = ($0 == ".Ss " section); next }
		inside && $1 == ".It" && $2 == "Li" { print $3, $5 }' "$manual" | sort
}

limits_of() {
	sed -n 's/^#define PROTO_\(MAX_[A-Z_]*\) \([^/]*\).*/\1 \2/p' "$header" |
		while read -r name value; do
			case $value in
			PROTO_*) ;; # another limit's alias
			*) echo "$name $(($(echo "$value" | sed 's/\([0-9]\)u/\1/g')))" ;;
			esac
		done | sort
}

compare() { # what
	if [ -s "$work/header" ] && diff "$work/header" "$work/manual" >"$work/diff"; then
		echo "ok - $1 ($(wc -l <"$work/header"))"
	else
		echo "not ok - $1: < $header, > $manual"
		cat "$work/diff"
		failed=1
	fi
}

enum_of proto_op PROTO_ >"$work/header"
rows_of Operations >"$work/manual"
compare operations
enum_of proto_status PROTO_STATUS_ >"$work/header"
rows_of Statuses >"$work/manual"
compare statuses
limits_of >"$work/header"
rows_of Limits >"$work/manual"
compare limits
exit $failed
