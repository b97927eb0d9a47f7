# shellcheck shell=bash
# What the scripts that make a table row by row share; sourced by them. A row is named by its first
# columns: in rows to be made a line of words, in the table fields between tabs.

# The options, from the head of the script.
usage() {
	sed -n '/^#   bench/,/^$/s/^# \{0,3\}//p' "$0" | sed '/^set/,$d'
	exit 2
}

# Those of the input that obey all KEY=A,B of the array `only`; the arguments name the columns.
rows_wanted() { # column...
	awk -v only="${only[*]-}" -v columns="$*" '
		BEGIN {
			n_columns = split(columns, names, " ")
			n = split(only, rules, " ")
		}
		{
			for (i = 1; i <= n; i++) {
				key = value = rules[i]
				sub(/=.*/, "", key); sub(/^[^=]*=/, "", value)
				for (f = 1; f <= n_columns; f++)
					if (names[f] == key && index("," value ",", "," $f ",") == 0) next
			}
			print
		}'
}

# Those of the input that the table does not have.
rows_missing() { # table, columns that name a row
	[ -e "$1" ] || { cat; return; }
	awk -F '\t' -v n="$2" '
		FILENAME == ARGV[1] {
			name = $1
			for (f = 2; f <= n; f++) name = name " " $f
			done[name] = 1
			next
		}
		!($0 in done)' "$1" -
}

# A value of a report of deltactl.
field() { # file of one JSON object, key; a method's own figures come last and may be called the same
	grep -o "\"$2\": *[-+.0-9a-z]*" "$1" | sed 's/.*: *//; q'
}

# The options of a script whose rows are made one after the other.
# shellcheck disable=SC2034 # they are the script's
rows_options() {
	while [ $# -gt 0 ]; do
		case $1 in
		--build | --models | --tasks | --results | --threads)
			[ $# -ge 2 ] || usage
			declare -g "${1#--}=$2" && shift
			;;
		--only)
			[ $# -ge 2 ] || usage
			only+=("$2") && shift
			;;
		--list) list=yes ;;
		*) usage ;;
		esac
		shift
	done
}

# Makes what is needed, and the page of the table.
make_rows() { # name of the page
	local row status=0
	while read -r row; do
		# shellcheck disable=SC2086 # a row is words
		make_row $row </dev/null || { echo "FAILED $row" >&2; status=1; }
	done < <(needed)
	# shellcheck disable=SC2154 # the script's
	render >"$results/$1.md.new"
	mv "$results/$1.md.new" "$results/$1.md"
	echo "$results/$1.md"
	return $status
}
