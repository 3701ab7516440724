#!/usr/bin/env python3
"""Random templates through this interpreter and through jinja2 in transformers' environment; prints each difference (development only).

    make build/libquern.a
    cc -std=c11 -I. tests/tools/template_lines.c build/libquern.a -lm -pthread -o /tmp/template_lines
    python3 tests/tools/template_diff.py /tmp/template_lines 20000 [seed] [--mutate FOLDER]

With --mutate the templates are those of a folder (*.jinja) with pieces cut out, doubled and swapped. What is not compared: what this
interpreter refuses by a limit, texts with addresses of Python's objects, and which of two errors it was.
"""
import glob
import warnings
import json
import os
import random
import subprocess
import sys

warnings.simplefilter("ignore")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import io
from contextlib import redirect_stdout

with redirect_stdout(io.StringIO()):
    import template_reference as ref

R = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 and sys.argv[3].isdigit() else 1)
NAMES = ["s", "u", "e", "ws", "n", "neg", "f", "t", "no", "none", "l", "ls", "d", "rows", "html", "messages", "lines", "missing", "x", "y", "pad"]
ATTRS = ["role", "content", "a", "b", "x", "items", "name", "v", "zz", "keys", "get", "upper", "index", "first", "last", "length"]
STRINGS = ["''", "'a'", "'b'", "' x '", "','", "'Hello World'", "'你好'", "'o'", "'%s'", "'{}'", "'<b>'", "'1'", "'2.5'", "'\\n'", "'a b'", "'role'"]
NUMBERS = ["0", "1", "2", "-1", "3", "7", "1.5", "0.5", "2.0", "10", "-2", "1e3"]
FILTERS = ["trim", "upper", "lower", "length", "list", "join", "first", "last", "default('z')", "d('q', true)", "tojson", "string", "int", "float", "title", "capitalize", "replace('a', 'b')",
           "join(',')", "map('upper')|list", "map(attribute='name')|list", "select|list", "reject('none')|list", "selectattr('role')|list", "selectattr('v', 'eq', 2)|list", "sort", "unique|list", "reverse|list",
           "dictsort", "items|list", "round", "round(1)", "abs", "min", "max", "sum", "e", "safe", "indent", "indent(2, true)", "batch(2)|list", "slice(2)|list", "truncate(5)", "wordcount", "count", "center(9)",
           "groupby('v')|list|length", "map('length')|list", "tojson(indent=2)", "tojson(sort_keys=true)", "urlencode", "format(1)", "attr('upper')", "sort(reverse=true)", "sort(attribute='v')", "rejectattr('v', 'odd')|list", "int(5)", "map('string')|join('-')", "select('string')|list", "trim('o')"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "boolean", "true", "false", "eq(1)", "odd", "even", "in(l)", "divisibleby(2)", "upper", "lower", "float", "callable", "not none", "not defined", "gt(1)", "sameas(none)", "escaped"]
METHODS = ["upper()", "strip()", "split()", "split(',')", "split(' ', 1)", "lower()", "title()", "replace('a', 'b')", "startswith('H')", "endswith('d')", "find('o')", "items()|list", "keys()|list", "values()|list", "get('a')", "get('zz', 1)", "lstrip('a')",
           "rstrip()", "rsplit(' ', 1)", "splitlines()", "join(ls)", "count('o')", "index('a')", "capitalize()", "format(1, 2)", "partition(' ')", "isdigit()", "isalpha()", "zfill(4)", "ljust(5)", "center(6)", "swapcase()", "copy()", "rfind('o', 1, -1)", "count('', 3)", "startswith('', 30)"]


def expr(depth):
    if depth <= 0 or R.random() < 0.15:
        return R.choice([R.choice(NAMES), R.choice(NAMES), R.choice(STRINGS), R.choice(NUMBERS), "[]", "{}", "loop.index"])
    k = R.randrange(17)
    a, b = expr(depth - 1), expr(depth - 1)
    if k < 3:
        return f"{a} {R.choice(['+', '-', '*', '/', '//', '%', '~', '+', '~'])} {b}"
    if k < 5:
        return f"({a})|{R.choice(FILTERS)}"
    if k < 6:
        return f"{a}|{R.choice(FILTERS)}"
    if k < 8:
        return f"({a}).{R.choice(METHODS)}"
    if k == 8:
        return f"{a} is {R.choice(TESTS)}"
    if k == 9:
        return f"({a} {R.choice(['==', '!=', '<', '>', '<=', '>=', 'in', 'not in'])} {b})"
    if k == 10:
        return f"({a} {R.choice(['and', 'or'])} {b})"
    if k == 11:
        return f"({a} if {b} else {expr(depth - 1)})"
    if k == 12:
        return f"({a}).{R.choice(ATTRS)}"
    if k == 13:
        return f"({a})[{R.choice([b, b, '0', '-1', '1:', ':-1', '::-1', '::2', ':2', chr(39) + R.choice(ATTRS) + chr(39)])}]"
    if k == 14:
        return R.choice([f"[{a}, {b}]", f"({a}, {b})", f"{{'k': {a}, {b}: 1}}", f"dict(a={a})"])
    if k == 15:
        return f"(not {a})"
    return R.choice([f"-{a}", f"m({a}, {b})", f"m({a})", f"range({a})|list", f"ns.i", f"'%s|%5s' % ({a}, {b})", f"'{{}}-{{:>4}}'.format({a}, {b})"])


def body(depth):
    out = ""
    for _ in range(R.randrange(1, 4)):
        out += R.choice(["", " ", "\n", "  ", "a", " b\n", "\n\n  "])
        k = R.randrange(12) if depth > 0 else 0
        p, q = R.choice(["", "", "-", "+"]), R.choice(["", "", "-"])
        if k < 4:
            out += "{{%s %s %s}}" % (p, expr(R.choice([0, 1, 1, 2])), q)
        elif k < 6:
            out += "{%%%s if %s %%}%s{%%%s else %s%%}%s{%% endif %s%%}" % (p, expr(2), body(depth - 1), p, q, body(depth - 1), q)
        elif k < 8:
            out += "{%%%s for %s in %s%s %s%%}%s{%%- endfor %%}" % (p, R.choice(["x", "x", "y", "x, y"]), expr(2).replace(" if ", " or "), R.choice(["", "", " if " + expr(1)]), q, body(depth - 1))
        elif k == 8:
            out += "{%% set %s = %s %%}" % (R.choice(["x", "y", "ns.i", "x, y"]), expr(2))
        elif k == 9:
            out += "{%% set %s %%}%s{%% endset %%}" % (R.choice(["x", "y"]), body(depth - 1))
        elif k == 10:
            out += R.choice(["{# c #}", "{#- c -#}", "{% raw %}{{ x }}{% endraw %}", "{% break %}" if False else "{% filter upper %}" + body(depth - 1) + "{% endfilter %}"])
        else:
            out += "{%% call m(%s) %%}%s{%% endcall %%}" % (expr(1), body(depth - 1)) if R.random() < 0.3 else "{%% with y = %s %%}%s{%% endwith %%}" % (expr(1), body(depth - 1))
    return out


HEAD = "{% set ns = namespace(i=0) %}{% macro m(a, b='B') %}[{{ a }}|{{ b }}|{{ x }}]{{ caller() if caller is defined and a else '' }}{% endmacro %}"


def mutated(sources):
    t = R.choice(sources)
    for _ in range(R.randrange(1, 4)):
        i, k = sorted(R.randrange(len(t) + 1) for _ in range(2))
        k = min(k, i + R.choice([1, 3, 10, 40]))
        t = R.choice([t[:i] + t[k:], t[:k] + t[i:k] + t[k:], t[:i] + R.choice(["-", "{{", "}}", "'", "%}", "(", " if ", "|", "\n", " ", "not "]) + t[i:]])
    return t


def run(binary, templates):
    lines = "".join(json.dumps({"template": t, "vars": ref.VARS}) + "\n" for t in templates)
    p = subprocess.run([binary], input=lines, capture_output=True, text=True)
    out = [json.loads(x) for x in p.stdout.strip().split("\n")]
    if p.returncode or len(out) != len(templates):
        raise SystemExit(f"stopped with {p.returncode} at {templates[len(out)]!r}\n{p.stderr[-2000:]}")
    return out


count = int(sys.argv[2])
folder = sys.argv[sys.argv.index("--mutate") + 1] if "--mutate" in sys.argv else None
sources = [open(f).read() for f in glob.glob(folder + "/*.jinja")] if folder else None
if sources:
    ref.VARS.update(add_generation_prompt=True, bos_token="<s>", eos_token="</s>", tools=None)
bad = same = errors = skipped = 0
for start in range(0, count, 500):
    batch = [mutated(sources) if sources else R.choice([HEAD + body(R.choice([1, 1, 2])), "{{ " + expr(3) + " }}"]) for _ in range(500)]
    for t, got in zip(batch, run(sys.argv[1], batch)):
        want = ref.reference(t)
        # of constants: jinja2 folds x[1:] to undefined, and refuses {[]: 1} before it is reached
        folded = "subscriptable" in got.get("error", "") or "hashable" in got.get("error", "") or (want.get("error") == "compile" and "{}: " in t or "[]: " in t)
        if folded or got.get("code") in (201, 2) or " at 0x" in want.get("out", "") or "shown as text" in got.get("error", ""):
            skipped += 1
        elif ("out" in want) != ("out" in got) or want.get("out") != got.get("out"):
            bad += 1
            if bad <= 12:
                print(repr(t)[:400], "\n   want", repr(want)[:300], "\n   got ", repr(got)[:300])
            if bad == 1 and len(t) > 400:
                print("   the whole template is written to template_diff.jinja")
                open("template_diff.jinja", "w").write(t)
        else:
            same += 1
            errors += "error" in want
print(f"{same} the same ({errors} of them errors), {bad} different, {skipped} not compared")
