#!/bin/sh
# The daemon's command line, the files that are installed with it, and the units.
. tests/e2e/tap.sh

check "--help" "$deltad" --help
check "--version" "$deltad" --version
check_fails 2 'Usage' "an unknown option is a wrong call" "$deltad" --no-such-option
check_fails 2 'unexpected argument' "so is an argument" "$deltad" serve
check_fails 3 'No such file' "a configuration that is not there" "$deltad" --config "$work/absent.yaml"
printf 'store:\n  foldr: /srv\n' >"$work/wrong.yaml"
check_fails 3 'line 2: unknown key store.foldr; the nearest known one is store.folder' \
	"an unknown key" "$deltad" --config "$work/wrong.yaml" --check-config

check "the installed configuration is right" "$deltad" --config etc/deltad.yaml --check-config
"$deltad" --config etc/deltad.yaml --check-config >"$work/effective.yaml"
"$deltad" --config "$work/effective.yaml" --check-config >"$work/again.yaml"
check "what is printed reads back to the same" cmp "$work/effective.yaml" "$work/again.yaml"

"$deltad" --config etc/deltad.yaml --check-config --store "$work" --base x.base \
	--socket "$work/s" --admin-socket "$work/a" >"$work/own.yaml"
check "options outrank the file" grep -q "folder: \"$work\"" "$work/own.yaml"
check "a relative path is one from here" grep -qF "base: \"$PWD/x.base\"" "$work/own.yaml"
check "sockets of one's own" grep -q "inference: \"$work/s\"" "$work/own.yaml"

if command -v systemd-analyze >/dev/null; then
	mkdir "$work/units"
	for unit in systemd/*.service systemd/*.socket; do
		sed -e "s|@s*bindir@|$(dirname "$deltad")|g" -e "s|@sysconfdir@|/etc|g" "$unit" \
			>"$work/units/${unit##*/}"
	done
	for unit in "$work"/units/*; do
		SYSTEMD_UNIT_PATH=$work/units: systemd-analyze verify --man=no "$unit" >"$work/said" 2>&1
		code=$?
		# It also talks about units of the machine that are not ours.
		if [ $code = 0 ] && ! grep -q deltad "$work/said"; then
			ok "systemd-analyze accepts ${unit##*/}"
		else
			not_ok "systemd-analyze accepts ${unit##*/}"
			sed 's/^/#   /' "$work/said"
		fi
	done
else
	echo "skipped: systemd-analyze is not here"
fi
finish
