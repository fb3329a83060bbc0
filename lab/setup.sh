#!/usr/bin/env bash
# Makes the laboratory: the real guests and peers that the tests in tests/real talk to.
#
#   lab/setup.sh            installs what is missing from Debian, fetches and builds the rest into .lab/
#
# Run it as often as you like: what is there and current is left alone. It says what it installs.
# The system keeps its package sources; the second QEMU comes through a private apt configuration
# and is only unpacked, never installed. PORTCULLIS_LAB names another place for .lab/.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
lab=${PORTCULLIS_LAB:-$root/.lab}
mkdir -p "$lab"
exec 9>"$lab/setup.lock"
flock 9

say() { printf 'lab: %s\n' "$*"; }
die() { printf 'lab: %s\n' "$*" >&2; exit 1; }

# ---- Packages of this Debian ---------------------------------------------------------------

declare -A needs=(
    [qemu-system-x86]=/usr/bin/qemu-system-x86_64
    [busybox-static]=/bin/busybox
    [libvirt-daemon-driver-qemu]=/usr/bin/virt-qemu-run
    [ethtool]=/usr/sbin/ethtool
    [dpdk-dev]=/usr/bin/dpdk-testpmd
    [librte-net-virtio23]=/usr/lib/x86_64-linux-gnu/librte_net_virtio.so.23
    [librte-net-vhost23]=/usr/lib/x86_64-linux-gnu/librte_net_vhost.so.23
    [librte-mempool-ring23]=/usr/lib/x86_64-linux-gnu/librte_mempool_ring.so.23
    [g++]=/usr/bin/g++
    [libc6-dev]=/usr/lib/x86_64-linux-gnu/libc.a
    [iproute2]=/usr/bin/ip
    [nftables]=/usr/sbin/nft
    [thc-ipv6]=/usr/bin/atk6-fake_router26
    [ipv6toolkit]=/usr/sbin/na6
    [yersinia]=/usr/bin/yersinia
    [dsniff]=/usr/sbin/arpspoof
    [hping3]=/usr/sbin/hping3
    [nmap]=/usr/bin/nmap
    [python3-scapy]=/usr/lib/python3/dist-packages/scapy/__init__.py
)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "needs root for: $*; run it once as root, or install the packages by hand"; fi
}

updated=
refresh_lists() {
    [ -n "$updated" ] && return
    as_root apt-get update -q >"$lab/apt-update.log" 2>&1 || die "apt-get update failed; see $lab/apt-update.log"
    updated=yes
}

missing=()
for package in "${!needs[@]}"; do
    [ -e "${needs[$package]}" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || die "missing: ${missing[*]}; this script knows only Debian's packages"
    say "installs from Debian: ${missing[*]}"
    refresh_lists
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        "${missing[@]}" >"$lab/apt-install.log" 2>&1 || die "apt-get install failed; see $lab/apt-install.log"
    for package in "${missing[@]}"; do
        [ -e "${needs[$package]}" ] || die "package $package did not bring ${needs[$package]}"
    done
fi

# ---- The guests' kernel: unpacked, not installed ---------------------------------------------

if [ ! -e "$lab/kernel/.complete" ]; then
    refresh_lists
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || die "no kernel behind linux-image-cloud-amd64 in the package lists"
    say "fetches the guests' kernel: $package"
    rm -rf "$lab/kernel" && mkdir -p "$lab/kernel/deb"
    (cd "$lab/kernel/deb" && apt-get -q -o APT::Sandbox::User=root download "$package") >"$lab/apt-kernel.log" 2>&1 ||
        die "apt-get download $package failed; see $lab/apt-kernel.log"
    dpkg -x "$lab"/kernel/deb/*.deb "$lab/kernel"
    rm -rf "$lab/kernel/deb"
    cp "$lab"/kernel/boot/vmlinuz-* "$lab/kernel/vmlinuz"
    touch "$lab/kernel/.complete"
fi

# ---- QEMU 10 from the backports, beside Debian's own 7.2 -------------------------------------

# This machine's own Debian source for suite $1 with $2 in its place and of type $3, in both notations, as the only source of a
# private apt configuration.
debian_source() {
    local file source=$lab/apt/source
    {
        for file in /etc/apt/sources.list.d/*.sources; do
            [ -e "$file" ] || continue
            awk -v suite="$1" -v other="$2" -v type="$3" 'BEGIN { RS = ""; ORS = "\n\n" }
                $0 ~ "(^|\n)Suites:([^\n]* )?" suite "( |\n|$)" {
                    sub(/(^|\n)Suites:[^\n]*/, "\nSuites: " other); sub(/(^|\n)Types:[^\n]*/, "\nTypes: " type)
                    sub(/^\n/, ""); print; exit
                }' "$file"
        done
        for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
            [ -e "$file" ] || continue
            sed -nE "s/^deb ((\[[^]]*\] )?[^ ]+) $1 (.*)\$/$3 \1 $2 \3/p" "$file" | head -n 1
        done
    } >"$source"
    [ -s "$source" ] || die "found no Debian source for $1 in /etc/apt to derive another from"
    case $(head -c 3 "$source") in
        deb) mv "$source" "$lab/apt/parts/debian.list" ;;
        *) mv "$source" "$lab/apt/parts/debian.sources" ;;
    esac
}

if [ ! -e "$lab/qemu10/.complete" ]; then
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ "$suite" = bookworm ] || die "the laboratory's second QEMU is known for Debian 12 only, this is '$suite'"
    rm -rf "$lab/apt" "$lab/qemu10"
    mkdir -p "$lab/apt/parts" "$lab/apt/lists/partial" "$lab/apt/cache/archives/partial" "$lab/qemu10/deb"
    debian_source "$suite" "$suite-backports" deb
    printf 'Package: *\nPin: release a=%s-backports\nPin-Priority: 100\n' "$suite" >"$lab/apt/preferences"
    private=(-q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$lab/apt/parts"
        -o "Dir::Etc::preferences=$lab/apt/preferences" -o "Dir::State::lists=$lab/apt/lists"
        -o "Dir::Cache=$lab/apt/cache" -o APT::Sandbox::User=root)
    say "fetches QEMU 10 from $suite-backports (unpacked into .lab, not installed)"
    (apt-get "${private[@]}" update && cd "$lab/qemu10/deb" &&
        apt-get "${private[@]}" download "qemu-system-x86/$suite-backports" \
            "qemu-system-common/$suite-backports" "qemu-system-data/$suite-backports" \
            "seabios/$suite-backports") >"$lab/apt-qemu10.log" 2>&1 ||
        die "fetching QEMU 10 failed; see $lab/apt-qemu10.log"
    for deb in "$lab"/qemu10/deb/*.deb; do dpkg -x "$deb" "$lab/qemu10"; done
    rm -rf "$lab/qemu10/deb" "$lab/apt"
    absent=$(ldd "$lab/qemu10/usr/bin/qemu-system-x86_64" | sed -n 's/ => not found//p' | tr -s '\n\t ' ' ')
    [ -z "$absent" ] || die "QEMU 10 misses libraries:$absent"
    touch "$lab/qemu10/.complete"
fi

# ---- Captures of the wild: what tcpdump is tested with ------------------------------------------

if [ ! -e "$lab/captures/.complete" ]; then
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    rm -rf "$lab/apt" "$lab/captures"
    mkdir -p "$lab/apt/parts" "$lab/apt/lists/partial" "$lab/apt/cache/archives/partial" "$lab/captures"
    debian_source "$suite" "$suite" deb-src
    private_apt=(-q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$lab/apt/parts"
        -o "Dir::State::lists=$lab/apt/lists" -o "Dir::Cache=$lab/apt/cache" -o APT::Sandbox::User=root)
    say "fetches tcpdump's captures from the source of $suite's package"
    (apt-get "${private_apt[@]}" update && cd "$lab/captures" &&
        apt-get "${private_apt[@]}" source --download-only tcpdump) >"$lab/apt-captures.log" 2>&1 ||
        die "fetching tcpdump's source failed; see $lab/apt-captures.log"
    tar -xzf "$lab"/captures/tcpdump_*.orig.tar.gz -C "$lab/captures" --strip-components=2 --wildcards '*/tests/*.pcap*'
    rm -rf "$lab"/captures/tcpdump_* "$lab/apt"
    touch "$lab/captures/.complete"
fi

# ---- The agent and the initial ram disk ------------------------------------------------------

inputs=$(cat "$root"/lab/agent/Cargo.* "$root"/lab/agent/src/*.rs "$root"/lab/init "$0" "$lab/kernel/.complete" \
    | sha256sum | cut -d' ' -f1)
if [ "$(cat "$lab/initramfs.inputs" 2>/dev/null || true)" != "$inputs" ] || [ ! -e "$lab/initramfs.cpio.gz" ] ||
    [ ! -e "$lab/bridge.cpio.gz" ]; then
    say "builds the guests' agent and ram disk"
    RUSTFLAGS="-C target-feature=+crt-static" CARGO_TARGET_DIR="$lab/agent-target" \
        cargo build -q --release --locked --manifest-path "$root/lab/agent/Cargo.toml" 9>&-
    disk=$lab/initramfs
    rm -rf "$disk"
    mkdir -p "$disk"/{bin,sbin,dev,proc,sys,tmp,etc,lib64,modules}
    cp "$(readlink -f /bin/busybox)" "$disk/bin/busybox"
    cp "$lab/agent-target/release/lab-agent" "$disk/bin/lab"
    cp "$root/lab/init" "$disk/init"
    chmod +x "$disk/init"
    cp /usr/sbin/ethtool "$disk/sbin/ethtool"
    ldd /usr/sbin/ethtool | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$disk$(dirname "$library")"
        cp -L "$library" "$disk$library"
    done
    # In the order of their dependencies; 8021q and what it needs serve the guests' own VLANs.
    order=0
    for module in failover net_failover virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci \
        virtio_net mrp llc stp garp 8021q; do
        order=$((order + 1))
        file=$(find "$lab"/kernel/lib/modules -name "$module.ko" | head -n 1)
        [ -n "$file" ] || continue # built into this kernel
        cp "$file" "$disk/modules/$(printf %02d $order)-$module.ko"
    done
    (cd "$disk" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$lab/initramfs.tmp"
    mv "$lab/initramfs.tmp" "$lab/initramfs.cpio.gz"

    # What turns a guest into the kernel's bridge, in a second archive behind the first (the kernel unpacks one after the other):
    # this machine's kernel need not have connection tracking for bridges, the guests' has.
    addition=$lab/bridge
    rm -rf "$addition"
    mkdir -p "$addition"/{sbin,modules}
    order=40
    for module in libcrc32c bridge nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack nf_conntrack_bridge nfnetlink nf_tables \
        nft_ct nft_meta_bridge nft_reject nf_reject_ipv4 nf_reject_ipv6 nft_reject_bridge; do
        order=$((order + 1))
        file=$(find "$lab"/kernel/lib/modules -name "$module.ko" | head -n 1)
        [ -n "$file" ] || continue # built into this kernel
        cp "$file" "$addition/modules/$order-$module.ko"
    done
    for program in nft ip bridge; do
        cp -L "/usr/sbin/$program" "$addition/sbin/$program"
        ldd "/usr/sbin/$program" | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "$addition$(dirname "$library")"
            cp -L "$library" "$addition$library"
        done
    done
    (cd "$addition" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) | cat "$lab/initramfs.cpio.gz" - >"$lab/bridge.tmp"
    mv "$lab/bridge.tmp" "$lab/bridge.cpio.gz"
    echo "$inputs" >"$lab/initramfs.inputs"
fi
