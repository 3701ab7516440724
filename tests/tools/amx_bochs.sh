#!/bin/sh
# Runs the amx table on an emulated CPU with AMX: a Linux under Bochs, whose console is printed. What is missing is said, and skipped.
#   BOCHS=.../bochs BXSHARE=.../bios KERNEL=.../vmlinuz tests/tools/amx_bochs.sh [BUILD]
# Variables and their defaults:
#   BOCHS     a Bochs with --enable-amx and without a window (bochs)
#   BXSHARE   the folder with BIOS-bochs-latest and VGABIOS-lgpl-latest.bin (/usr/share/bochs)
#   KERNEL    a Linux 5.16 or later with serial console and initramfs built in, readable (none)
#   BUSYBOX   a static busybox (busybox);  SYSLINUX  a folder with isolinux.bin and ldlinux.c32 (/usr/lib/syslinux)
#   SECONDS_MOST  when to give up (1800)
# Bochs 3.0 and its sources up to August 2026 cannot do this as they are. They need: XFD (CPUID 0xd.1 EAX[4], component 18's ECX[2],
# MSRs 0x1c4 and 0x1c5, #NM), without which Linux does not start; bytes of tdpbssd that are signed; in XSAVE, all 16 rows of a tile,
# colsb and rows of the configuration not swapped, tile data in use where a tile is; and no AMX bit in the hash of decoded code
# (its 128-byte lines are searched for changed code in order). A wrong tdpbssd shows here as "amx DIFFERS".
set -e
make=${MAKE:-make} build=${1:-build}
BOCHS=${BOCHS:-bochs} BXSHARE=${BXSHARE:-/usr/share/bochs} BUSYBOX=${BUSYBOX:-busybox} SYSLINUX=${SYSLINUX:-/usr/lib/syslinux}

skip() { echo "amx_bochs: skipped: $1"; exit 0; }

[ "$(uname -m)" = x86_64 ] || skip "the programs are built for this machine, and it is not x86-64"
for tool in "$BOCHS" "$BUSYBOX" cpio genisoimage; do command -v "$tool" >/dev/null 2>&1 || skip "no $tool here"; done
[ -r "${KERNEL:-}" ] || skip "KERNEL names no Linux kernel"
for file in "$BXSHARE/BIOS-bochs-latest" "$BXSHARE/VGABIOS-lgpl-latest.bin" "$SYSLINUX/isolinux.bin" "$SYSLINUX/ldlinux.c32"; do
    [ -r "$file" ] || skip "no $file"
done

# What runs inside: the tables against scalar; kernels_test of the amx table; the demo model's ids, table by table.
programs() {
    objects="$build/tests/kernels_emulated.o $build/runtime/base.o"
    for o in cpu quant sincos k_scalar k_avx2 k_avxvnni k_avx512 k_avx512vnni k_amx; do objects="$objects $build/kernels/$o.o"; done
    $make -s BUILD="$build" $objects "$build/tests/kernels_test" run convert
    mkdir -p "$root/bin" "$root/proc" "$root/dev" "$root/q" "$dir/iso"
    cc -static $objects -lm -o "$root/q/emulated"
    cp run "$build/tests/kernels_test" "$root/q"
    for type in q8 q4 bf16; do ./convert weights/pip-stories -o "$root/q/$type.bin" --type $type >/dev/null 2>&1; done
    ldd run "$build/tests/kernels_test" | grep -o '/[^ :]*\.so[^ :]*' | sort -u | while read -r lib; do
        mkdir -p "$root$(dirname "$lib")"
        cp -L "$lib" "$root$lib"
    done
    cp "$(command -v "$BUSYBOX")" "$root/bin/busybox"
    cat >"$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
grep -m 1 -o 'amx_tile' /proc/cpuinfo || echo "this Linux sees no AMX"
cd /q && ./emulated || bad=1
for type in q8 q4 bf16; do
    for table in avx512vnni amx; do
        ./run $type.bin --kernels $table -p "Once upon a time there was a little fox who lived in a" -n 12 --temp 0 -t 2 --print-ids >$table 2>error || cat error
        echo "$type $table $(cat $table)"
    done
    cmp avx512vnni amx || bad=1
done
QUERN_KERNELS=amx ./kernels_test || bad=1
[ "$bad" ] && echo "amx_bochs: FAILED" || echo "amx_bochs: passed"
poweroff -f
END
    chmod +x "$root/init"
}

image() {
    (cd "$root" && find . | cpio -o -H newc --quiet) >"$dir/iso/initrd"
    cp "$KERNEL" "$dir/iso/kernel"
    cp "$SYSLINUX/isolinux.bin" "$SYSLINUX/ldlinux.c32" "$dir/iso"
    # clearcpuid=580: the model has FSRM without ERMS, which Linux 6.1's memmove does not survive
    printf 'default q\nlabel q\nkernel kernel\ninitrd initrd\nappend console=ttyS0,115200 quiet nokaslr mitigations=off tsc=reliable %s\n' \
        'tsc_early_khz=200000 lpj=800000 nosmp no_timer_check random.trust_cpu=on clearcpuid=580' >"$dir/iso/isolinux.cfg"
    genisoimage -quiet -o "$dir/iso.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table "$dir/iso"
    printf '%s\n' 'cpu: model=sapphire_rapids, ips=200000000' 'memory: guest=512, host=512' "romimage: file=$BXSHARE/BIOS-bochs-latest" \
        "vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest.bin" "ata0-master: type=cdrom, path=$dir/iso.iso, status=inserted" 'boot: cdrom' \
        "com1: enabled=1, mode=file, dev=$dir/console" 'clock: sync=none' 'display_library: nogui' "log: $dir/log" >"$dir/rc"
}

dir=$(mktemp -d) root=$dir/root
trap 'rm -rf "$dir"' EXIT
programs
image
: >"$dir/console"
timeout "${SECONDS_MOST:-1800}" "$BOCHS" -q -f "$dir/rc" >"$dir/out" 2>&1 </dev/null &
while kill -0 $! 2>/dev/null && ! grep -aq 'amx_bochs: ....\|Kernel panic' "$dir/console"; do sleep 2; done
kill $! 2>/dev/null || true
cat "$dir/console"
grep -aq 'amx_bochs: passed' "$dir/console"
