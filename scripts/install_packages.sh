#!/bin/sh
# Installs the Debian packages that are missing, and says what each is for.
# Arguments: lines "package: reason" from the file given, for the groups named.
#   install_packages.sh FILE GROUP...
set -eu
list=$1
shift
missing=
for group in "$@"; do
	while IFS='	' read -r of package reason; do
		[ "$of" = "$group" ] || continue
		if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
			echo "needs $package: $reason"
			missing="$missing $package"
		fi
	done <"$list"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "this machine has no apt-get; install the above by hand" >&2
	exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "run as root: apt-get install$missing" >&2
		exit 1
	}
	as_root=sudo
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
echo "installed:$missing"
