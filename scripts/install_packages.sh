#!/bin/sh
# Installs the Debian packages that are missing, and says what each is for. With --ask it only says how.
# FILE has lines "group TAB package TAB reason".
#   install_packages.sh [--ask] FILE GROUP...
set -eu
ask=
if [ "$1" = --ask ]; then
	ask=yes
	shift
fi
list=$1
shift
# Elsewhere than on Debian the compiler says what is missing.
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	[ -n "$ask" ] || echo "no apt-get here: $list names what must be installed" >&2
	exit 0
fi
missing=
for group in "$@"; do
	while IFS='	' read -r of package reason; do
		[ "$of" = "$group" ] || continue
		if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
			[ -n "$missing" ] || echo "missing packages:"
			printf '  %-22s %s\n' "$package" "$reason"
			missing="$missing $package"
		fi
	done <"$list"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	as_root=sudo
	command -v sudo >/dev/null || ask=yes
fi
if [ -n "$ask" ]; then
	echo "install them as root:  apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
echo "installing them with apt-get"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { $as_root apt-get update -qq &&
	$as_root apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -20 "$log" >&2
	exit 1
fi
