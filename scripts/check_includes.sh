#!/bin/sh
# Checks who may include whom. The table is the architecture: a folder may include the folders listed
# after it, itself always; and some system headers belong to one file each.
set -u
cd "$(dirname "$0")/.."

allowed() {
	case $1 in
	common) echo common ;;
	kernels | kernels/*) echo common kernels kernels/ref kernels/avx2 kernels/avx512 kernels/amx ;;
	store) echo common kernels store ;;
	engine) echo common kernels store engine ;;
	foreign) echo common kernels store engine foreign ;;
	compress) echo common kernels store engine foreign compress ;;
	client) echo common client ;;
	client/deltactl) echo common kernels store engine foreign compress client client/deltactl ;;
	daemon) echo common kernels store engine client daemon ;;
	*) echo "" ;;
	esac
}

# header pattern : files that may include it
owners='
^liburing\.h$:store/ring.c
^openssl/:common/digest.c
^yaml\.h$:daemon/config.c daemon/config_yaml.c
^systemd/:daemon/loop.c daemon/notify.c daemon/log.c daemon/loop.h
^seccomp\.h$:foreign/sandbox.c foreign/sandbox_filter.c
^jansson\.h$:foreign/ compress/ client/deltactl/
^pcre2\.h$:engine/ foreign/adapter_config.c
^utf8proc\.h$:engine/ foreign/
^(cblas|lapacke|f77blas)\.h$:kernels/blas.c
'

failed=0
complain() {
	echo "$1"
	failed=1
}

for file in $(git ls-files '*.c' '*.h' | grep -v -e '^tests/' -e '^bench/' -e '^man/'); do
	folder=$(dirname "$file")
	allow=" $(allowed "$folder") "
	[ "$allow" != "  " ] || complain "$file: folder $folder is not in the table of scripts/check_includes.sh"
	for header in $(sed -n 's/^#[ \t]*include[ \t]*"\([^"]*\)".*/\1/p' "$file"); do
		[ -f "$header" ] || complain "$file: includes \"$header\", which is not a path from the root"
		case $allow in
		*" $(dirname "$header") "*) ;;
		*) complain "$file: $folder may not include $header" ;;
		esac
	done
	for header in $(sed -n 's/^#[ \t]*include[ \t]*<\([^>]*\)>.*/\1/p' "$file"); do
		for rule in $owners; do
			pattern=${rule%%:*}
			echo "$header" | grep -qE "$pattern" || continue
			holders=$(echo "$owners" | grep -F "$pattern:" | cut -d: -f2)
			match=no
			for holder in $holders; do
				case $file in "$holder"*) match=yes ;; esac
			done
			[ $match = yes ] || complain "$file: <$header> belongs to $holders"
		done
	done
done
[ $failed = 0 ] && echo "includes: every folder keeps to the table"
exit $failed
