#!/bin/sh
# Makes sure that the tests' only library is there: says so and installs it with the system's package manager where it is not.
check() { printf '#include <stdarg.h>\n#include <stddef.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <cmocka.h>\nint main(void){return 0;}\n' | ${CC:-cc} -x c - -lcmocka -o /dev/null 2>/dev/null; }
check && exit 0
if [ "$(id -u)" = 0 ]; then as=""; else as="sudo"; fi
try() { # PROGRAM COMMAND...: installs with it if the machine has it
    command -v "$1" >/dev/null 2>&1 || return 1
    shift
    echo "cmocka, the tests' library, is missing; installing it: $*" >&2
    "$@" >&2
}
{ command -v apt-get >/dev/null 2>&1 && echo "cmocka, the tests' library, is missing; installing libcmocka-dev with apt-get" >&2 &&
    $as apt-get update -q >&2 && $as apt-get install -y -q libcmocka-dev >&2; } ||
    try dnf $as dnf install -y libcmocka-devel || try apk $as apk add cmocka-dev ||
    try pacman $as pacman -S --noconfirm cmocka || try brew brew install cmocka ||
    { echo "cmocka is missing and no known package manager installed it: install cmocka's headers and library, then run make test again" >&2; exit 1; }
check || { echo "cmocka was installed, but ${CC:-cc} does not find cmocka.h or libcmocka" >&2; exit 1; }
