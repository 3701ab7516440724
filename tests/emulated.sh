#!/bin/sh
# Runs kernels_emulated on CPUs that this machine is not: aarch64, and x86-64 with and without AVX2, under qemu's user mode.
# What lacks its cross compiler or emulator is skipped, and said. The hash that the program checks is the same everywhere.
set -e
make=${MAKE:-make}
build=${1:-build}/emulated
sources="tests/kernels_emulated.o kernels/cpu.o kernels/quant.o kernels/sincos.o kernels/k_scalar.o runtime/base.o"

has() { command -v "$1" >/dev/null 2>&1; }

# program TRIPLET-GCC DIR TABLES...: builds DIR/emulated, static
program() {
    cc=$1 dir=$2
    shift 2
    objects=
    for o in $sources "$@"; do objects="$objects $dir/$o"; done
    $make -s CC="$cc" BUILD="$dir" $objects
    $cc -static $objects -lm -o "$dir/emulated"
}

aarch64() {
    for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
        has $tool || { echo "test-emulated: aarch64 skipped: no $tool here"; return 0; }
    done
    program aarch64-linux-gnu-gcc "$build/aarch64" kernels/k_neon.o kernels/k_dotprod.o kernels/k_i8mm.o
    for cpu in cortex-a53 max; do
        echo "== qemu-aarch64 -cpu $cpu"
        qemu-aarch64 -cpu $cpu "$build/aarch64/emulated"
    done
}

x86_64() {
    cc=gcc
    [ "$(uname -m)" = x86_64 ] || cc=x86_64-linux-gnu-gcc
    for tool in $cc qemu-x86_64; do
        has $tool || { echo "test-emulated: x86-64 skipped: no $tool here"; return 0; }
    done
    program $cc "$build/x86_64" kernels/k_avx2.o kernels/k_avxvnni.o kernels/k_avx512.o kernels/k_avx512vnni.o kernels/k_amx.o
    for cpu in qemu64 max; do # the first has no AVX, the second AVX2 and FMA where qemu is 7.2 or later
        echo "== qemu-x86_64 -cpu $cpu"
        qemu-x86_64 -cpu $cpu "$build/x86_64/emulated"
    done
}

aarch64
x86_64
