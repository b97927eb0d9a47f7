#!/bin/sh
# Boots systemd in a container and lets a client start the service through its socket. Needs root, and
# the packages systemd-container and debootstrap; the root is made once and kept.
#   tests/boot/run.sh [ROOT]        (make boot)
set -eu
root=${1:-build/boot-root}
build=${DELTAD_BUILD:-build}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
[ "$(id -u)" = 0 ] || { echo "skipped: booting a container needs root"; exit 77; }

if [ ! -e "$root/.complete" ]; then
	echo "making a Debian root in $root"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,liburing2,libsystemd0,libyaml-0-2,libssl3,libpcre2-8-0,libutf8proc2,libjansson4,libseccomp2,libopenblas0-pthread \
		bookworm "$root" "$mirror" >"$root.log" 2>&1 || { tail -5 "$root.log"; exit 1; }
	touch "$root/.complete"
fi

make -s install DESTDIR="$(realpath "$root")" prefix=/usr BUILD="$build"
rm -f "$root/etc/deltad/deltad.yaml"
install -D -m 644 etc/deltad.yaml "$root/etc/deltad/deltad.yaml"
mkdir -p "$root/var/lib/deltad"
"$build/bin/deltactl" import models/Llama-deltad-16M -o "$root/var/lib/deltad/base.base" --quiet
[ -e "$build/boot-math.delta" ] ||
	"$build/bin/deltactl" compress --base models/Llama-deltad-16M --tuned models/Llama-deltad-16M-math \
		-o "$build/boot-math.delta" --quiet
cp "$build/boot-math.delta" "$root/var/lib/deltad/math.delta"
rm -f "$root/root/boot.log" "$root/root/boot.done"

cat >"$root/root/boot-test.sh" <<'EOF'
#!/bin/sh
# Runs inside, once the system is up.
n=0
check() {
	n=$((n + 1))
	title=$1
	shift
	if "$@" >/root/out 2>&1; then echo "ok $n - $title"; else echo "not ok $n - $title"; fi
	sed 's/^/#   /' /root/out | head -25
}
inactive() { [ "$(systemctl is-active deltad.service)" = inactive ]; }
active() { [ "$(systemctl is-active deltad.service)" = active ]; }
check "the units are fine" systemd-analyze verify deltad.service deltad.socket deltad-admin.socket
check "the user exists" getent passwd deltad
systemctl start deltad.socket deltad-admin.socket
check "the sockets listen and the service does not run yet" inactive
check "the first client starts the service and gets an answer" \
	deltactl run math --max-tokens 64 "Tom has 48 apples and gave 19 of them to Anna. How many apples are left?"
check "the service runs" active
check "status says what it is doing" systemctl status --no-pager deltad.service
check "it reads its configuration again" systemctl reload deltad.service
check "still active after the reload" active
check "an unprivileged stranger gets nothing" sh -c '! setpriv --reuid=65534 --clear-groups deltactl ps'
check "how exposed it is" systemd-analyze security --no-pager deltad.service
check "it stops cleanly" systemctl stop deltad.service
check "what it wrote to the journal" journalctl --no-pager -u deltad.service
check "the next client starts it again" deltactl run math --max-tokens 8 "What is 2 + 2?"
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
