#!/bin/sh
# Puts the arm64 versions of the libraries that we build and test with into a folder, for a cross
# compiler's --sysroot. Nothing of the system changes: apt-get works on lists and a cache of its own.
#   arm64_root.sh FILE ROOT      FILE has lines "group TAB package TAB reason"
set -eu
root=$(realpath -m "$2")
[ ! -e "$root/done" ] || exit 0
apt=$root/apt
rm -rf "$root"
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"

private_apt() {
	apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
		-o Dir::State="$apt" -o Dir::State::status="$apt/status" \
		-o Dir::Cache="$apt/cache" "$@"
}

packages=$(awk -F '\t' '($1 == "build" || $1 == "check") && $2 ~ /^lib/ && $2 !~ /clang/ { print $2 }' "$1")
private_apt update
# shellcheck disable=SC2086
private_apt install -y --download-only --no-install-recommends libgcc-s1 $packages >/dev/null
for package in "$apt"/cache/archives/*.deb; do
	dpkg-deb -x "$package" "$root"
done
rm -rf "$apt"
: >"$root/done"
