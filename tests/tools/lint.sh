#!/bin/sh
# make lint: the direction of includes, the length of lines, functions and files, #ifdefs of instruction sets, threads outside the pool,
# and words that must not be in the tree. Prints each finding as file:line: text; status 1 if there is any.
cd "$(dirname "$0")/../.." || exit 1
bad=0
found() { bad=1; printf '%s\n' "$1"; }

# Which folders' headers a file may include. runtime/ is several ranks: base and helpers at the bottom, forward and engine on top.
allowed() {
    low='runtime/(base|files)\.h'
    case "$1" in
    runtime/base.*|runtime/files.*|runtime/json.c|runtime/options.*|runtime/stop.*|runtime/pool.*) echo "$low|runtime/(options|stop|pool)\.h" ;;
    runtime/sample.*) echo "$low|runtime/sample\.h|kernels/kernels\.h" ;;
    kernels/*) echo "$low|kernels/.*" ;;
    weights/*) echo "$low|kernels/(kernels|quant)\.h|weights/.*" ;;
    tokenizer/*) echo "$low|tokenizer/.*" ;;
    runtime/arch.*) echo "$low|runtime/arch\.h|weights/file\.h" ;;
    runtime/kv.*) echo "$low|runtime/kv\.h|kernels/kernels\.h" ;;
    runtime/ops.*|runtime/limits.*) echo "$low|runtime/(ops|kv|pool|limits)\.h|kernels/kernels\.h" ;;
    runtime/model.*) echo "$low|runtime/(model|arch|kv)\.h|weights/file\.h|kernels/kernels\.h" ;;
    runtime/lora.*) echo "$low|runtime/(lora|model|ops)\.h" ;;
    runtime/forward.*) echo "$low|runtime/(forward|model|ops)\.h" ;;
    runtime/engine.*|runtime/saved.*) echo "$low|runtime/(engine|saved|forward|lora|limits)\.h" ;;
    runtime/beam.*) echo "$low|runtime/(beam|engine|sample)\.h" ;;
    runtime/choice.*) echo "$low|runtime/(choice|beam|engine|sample|stop)\.h|tokenizer/tokenizer\.h" ;;
    runtime/speculate.*) echo "$low|runtime/(speculate|engine|sample)\.h|tokenizer/tokenizer\.h" ;;
    runtime/kind.*) echo "$low|runtime/kind\.h|weights/format\.h" ;;
    runtime/explain.*) echo "$low|runtime/(explain|engine)\.h" ;;
    tools/run/*|tools/run.c|tools/serve/*) echo "runtime/(base|files|engine|saved|beam|choice|speculate|explain|kind|options|sample|stop|chat|grammar|schema)\.h|tokenizer/.*|tools/.*" ;;
    tools/quality.c) echo "runtime/(base|files|engine|options|sample)\.h|tokenizer/.*" ;;
    bench/*) echo "runtime/.*|kernels/.*|tokenizer/tokenizer\.h|bench/.*" ;;
    runtime/grammar*|runtime/schema*|runtime/vocabulary.*) echo "$low|runtime/(grammar|schema)[a-z_]*\.h|runtime/vocabulary\.h|tokenizer/tokenizer\.h" ;;
    runtime/chat.*) echo "$low|runtime/chat\.h|tokenizer/.*" ;;
    *) echo '.*' ;;
    esac
}

for f in $(git ls-files -- '*.c' '*.h'); do
    [ -f "$f" ] || continue
    ok=$(allowed "$f")
    grep -n '^#include "' "$f" | while IFS= read -r line; do
        header=$(printf '%s' "$line" | sed 's/.*#include "\([^"]*\)".*/\1/')
        printf '%s' "$header" | grep -Eq "^($ok)$" || echo "$f:${line%%:*}: may not include \"$header\""
    done
    case "$f" in
    kernels/*) ;;
    *) grep -nE '__(AVX|SSE|FMA|ARM_NEON|AMX|F16C)|immintrin|arm_neon' "$f" | sed "s|^|$f:|; s|\$| (instruction sets belong in kernels/)|" ;;
    esac
    case "$f" in
    runtime/pool.c|tests/*|bench/*|tools/serve/*|tools/train/*) ;;
    *) grep -nE 'pthread_(create|mutex|cond)' "$f" | sed "s|^|$f:|; s|\$| (threads belong in the pool)|" ;;
    esac
    case "$f" in *_tables.c|*_tables.h|*.table.h) ;; *)
        lines=$(wc -l <"$f")
        [ "$lines" -le 1000 ] || echo "$f:1: $lines lines, the most is 1000"
        awk -v f="$f" 'length > 150 { printf "%s:%d: a line of %d columns, the most is 150\n", f, NR, length }' "$f"
        awk -v f="$f" '/^[a-zA-Z].*[,(]$/ { head = NR } /^[a-zA-Z].*\) *\{$/ || (head && NR - head <= 3 && /^ .*\) *\{$/) { start = NR; name = $0; head = 0 } /^}/ { if (start && NR - start + 1 > 60) printf "%s:%d: a function of %d lines, the most is 60: %s\n", f, start, NR - start + 1, name; start = 0 }' "$f"
        ;;
    esac
done >build/lint.out 2>&1 || true
grep -nEi 'model\.(arch\.)?family|strcmp\([^)]*family' runtime/forward.c runtime/ops.c kernels/*.c 2>/dev/null | sed 's/$/ (forward never asks for a family)/' >>build/lint.out
git grep -nIE '(^|[^A-Za-z0-9_/])/(home|root|work)/' -- ':!tests/tools/lint.sh' ':!tests/fixtures' ':!weights/pip-stories' | sed 's/$/ (a path of one machine)/' >>build/lint.out
git ls-files -- '*.h' | grep -v -e tables -e tests/ -e '\.inc\.h' | while read -r h; do
    n=$(wc -l <"$h"); [ "$n" -le 150 ] || echo "$h:1: a header of $n lines, the most is 150"
done >>build/lint.out
if [ -s build/lint.out ]; then cat build/lint.out; bad=1; fi
[ "$bad" = 0 ] && echo "lint: clean"
exit "$bad"
