#!/bin/sh
# Boots systemd in a container and lets a client start the service through its socket. Needs root, and
# the packages systemd-container and debootstrap; the root is made once and kept.
#   tests/boot/run.sh [ROOT]        (make boot)
set -eu
root=${1:-build/boot-root}
build=${DELTAD_BUILD:-build}
[ "$(id -u)" = 0 ] || { echo "skipped: booting a container needs root"; exit 77; }

# The programs are those of this machine, and so must the libraries be.
grep -q '^VERSION_CODENAME=bookworm' /etc/os-release || { echo "skipped: the container is a Debian 12, this is not"; exit 77; }
command -v systemd-nspawn >/dev/null || { echo "skipped: needs systemd-nspawn"; exit 77; }

if [ ! -e "$root/.complete" ]; then
	echo "making a Debian root in $root, takes a minute or two"
	rm -rf "$root"
	mkdir -p "$(dirname "$root")"
	libraries=liburing2,libsystemd0,libyaml-0-2,libssl3,libpcre2-8-0,libutf8proc2,libjansson4,libseccomp2,libopenblas0-pthread
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,$libraries \
		bookworm "$root" ${DEBIAN_MIRROR:-} >"$root.log" 2>&1 || { tail -5 "$root.log"; exit 1; }
	touch "$root/.complete"
fi

make -s install DESTDIR="$(realpath "$root")" prefix=/usr BUILD="$build"
rm -f "$root/etc/deltad/deltad.yaml"
install -D -m 644 etc/deltad.yaml "$root/etc/deltad/deltad.yaml"
mkdir -p "$root/var/lib/deltad"
"$build/bin/deltactl" import models/Llama-deltad-16M -o "$root/var/lib/deltad/base.base" --quiet
# Made once: how good it is is not what this test asks.
if [ ! -e "$root/var/lib/deltad/math.delta" ]; then
	echo "compressing a fine-tune, takes half a minute on two cores"
	"$build/bin/deltactl" compress --base models/Llama-deltad-16M --tuned models/Llama-deltad-16M-math \
		--method delta-come -o "$root/var/lib/deltad/math.delta" --quiet >"$root.log"
fi
rm -rf "$root/root/boot.log" "$root/root/boot.done" "$root"/var/log/journal/*

cat >"$root/root/boot-test.sh" <<'EOF'
#!/bin/sh
# Runs inside, once the system is up.
n=0
check() { # title, command
	n=$((n + 1))
	title=$1
	shift
	if "$@" >/root/out 2>&1; then echo "ok $n - $title"; else echo "not ok $n - $title"; fi
	sed 's/^/#   /' /root/out | head -25
}
is() { state=$(systemctl is-active deltad.service); [ "$state" = "$1" ] || { echo "$state"; false; }; }
fails() { # exit code, command
	expected=$1
	shift
	code=0
	"$@" || code=$?
	[ $code = "$expected" ] || { echo "exit code $code, expected $expected"; false; }
}
as() { # user and groups, command
	who=$1
	shift
	setpriv --reuid=nobody --regid=nogroup $who "$@"
}
answers() { deltactl run math --max-tokens 64 "Tom has 48 apples and gave 19 of them to Anna. How many apples are left?"; }
status_tells() {
	systemctl status --no-pager deltad.service | tee /root/status
	grep -q 'Status: ".*[0-9]' /root/status
}
said() { journalctl --no-pager -o cat -u deltad.service | grep "$1"; }

check "systemd finds nothing to say against the units" \
	systemd-analyze verify --man=no deltad.service deltad.socket deltad-admin.socket
check "the service's user is there" getent passwd deltad
check "the group of administrators too" getent group deltad-admin
check "the sockets are enabled" systemctl enable --quiet deltad.socket deltad-admin.socket
check "and started" systemctl start deltad.socket deltad-admin.socket
check "the service does not run yet" is inactive
check "the first client starts it and gets an answer" sh -c "$(sed -n '/^answers()/s/answers() { \(.*\); }/\1/p' /root/boot-test.sh) | tee /dev/stderr | grep -q '####'"
check "the service runs" is active
check "systemctl status says what it is doing" status_tells
check "it reads its configuration again" systemctl reload deltad.service
cp /etc/deltad/deltad.yaml /root/good.yaml
echo 'nonsense: 1' >>/etc/deltad/deltad.yaml
check "a broken configuration fails the reload" fails 1 systemctl reload deltad.service
check "and its words are in the journal" said "stays as it was"
cp /root/good.yaml /etc/deltad/deltad.yaml
check "the service goes on" is active
check "a stranger may not ask" fails 6 as --clear-groups deltactl models
check "a stranger may not administrate" fails 6 as --clear-groups deltactl ps
check "who is in the group deltad may ask" as --groups=deltad deltactl models
check "but not administrate" fails 6 as --groups=deltad deltactl ps
check "who is in the group deltad-admin may administrate" as --groups=deltad-admin deltactl ps
check "it stops" systemctl stop deltad.service
check "cleanly" sh -c '[ "$(systemctl show -P Result deltad.service)" = success ]'
check "the journal has the whole story" sh -c 'journalctl --no-pager -o cat -u deltad.service >/root/story; cat /root/story; for words in "loading base" "ready:" "asks to reload" "ending:"; do grep -q "$words" /root/story || exit 1; done'
check "the next client starts it again" deltactl run math --max-tokens 8 "What is 2 + 2?"
check "drained, it ends by itself" deltactl drain
check "how exposed it is, 0 to 10" sh -c 'systemd-analyze security --no-pager deltad.service | tail -1'
check "no unit has failed" sh -c '[ -z "$(systemctl --failed --plain --no-legend | tee /dev/stderr)" ]'
echo "1..$n"
EOF
cat >"$root/etc/systemd/system/boot-test.service" <<'EOF'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sh /root/boot-test.sh >/root/boot.log 2>&1; touch /root/boot.done; systemctl poweroff --no-block'
[Install]
WantedBy=multi-user.target
EOF
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../boot-test.service "$root/etc/systemd/system/multi-user.target.wants/boot-test.service"
timeout 180 systemd-nspawn -q -D "$root" -b --keep-unit --register=no --console=passive \
	</dev/null >"$root/boot-console.log" 2>&1 || true
[ -e "$root/root/boot.done" ] || { tail -20 "$root/boot-console.log"; echo "not ok - the container did not finish"; exit 1; }
cat "$root/root/boot.log"
! grep -q '^not ok' "$root/root/boot.log"
