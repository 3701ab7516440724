#!/usr/bin/env python3
"""JSON schemas as grammars beside the package jsonschema (development only; `pip install jsonschema rfc3339-validator`).

    make build/libquern.a
    cc -std=c11 -I. tests/tools/grammar_lines.c build/libquern.a -lm -pthread -o /tmp/grammar_lines
    python3 tests/tools/schema_diff.py random /tmp/grammar_lines 2000 [seed]    random schemas: what is completed must validate
    python3 tests/tools/schema_diff.py suite /tmp/grammar_lines FOLDER          FOLDER: the JSON-Schema-Test-Suite's tests/draft2020-12
    python3 tests/tools/schema_diff.py model ./run MODEL.bin 300 [seed]         the same through a model at a high temperature

The suite's folder lies in the source package: `pip download --no-deps --no-binary :all: jsonschema`, then json/tests/draft2020-12.
"""
import glob
import json
import math
import os
import random
import subprocess
import sys

import jsonschema

CHECK = jsonschema.Draft202012Validator.FORMAT_CHECKER
R = random.Random(1)
NAMES = ["a", "b", "kind", "foo", "bar", "type", "x\"y", "é", "a b", "", "n\n"]
WORDS = ["a", "b", "foo", "", "x\"", "é", "\n", "\\", "😀", "null", "1"]


def validator(schema):
    return jsonschema.Draft202012Validator(schema, format_checker=CHECK)


# ---- random schemas ----

def number_schema():
    s = {"type": R.choice(["integer", "number"])}
    lo = R.choice([0, 1, -5, -100, 17, 0.5, -2.75, 1e3, 99999, 12345678901, -1])
    if R.random() < 0.6:
        s[R.choice(["minimum", "exclusiveMinimum"])] = lo
    if R.random() < 0.6:
        s[R.choice(["maximum", "exclusiveMaximum"])] = lo + R.choice([1, 2.5, 10, 1000, 0.25, 123456])
    if R.random() < 0.2:
        s["multipleOf"] = R.choice([2, 3, 7, 10, 25])
    return s


def string_schema():
    s = {"type": "string"}
    k = R.random()
    if k < 0.35:
        s["minLength"] = R.randrange(4)
        if R.random() < 0.7:
            s["maxLength"] = s["minLength"] + R.randrange(8)
    elif k < 0.6:
        s["pattern"] = R.choice(["^[a-c]+$", "^\\d{3}-\\d{4}$", "foo|^bar", "^(?:[A-Z][a-z]*\\s?){1,3}$", "[^\"\\\\]$", "^\\S+@\\w+\\.(com|org)$", "^$", "a.c", "^[\\w-]{2,5}$", "^[^a-z\\s]*$", "é+", "^.{2}$", "\\n", "^a*?b$"])
        if R.random() < 0.3:
            s["maxLength"] = R.randrange(4, 12)
    elif k < 0.85:
        s["format"] = R.choice(["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "uri", "hostname"])
    return s


def value():
    return R.choice([None, True, False, 0, 1, -3, 2.5, 1e3, "a", "x\"y\n", "é😀", [], {}, [1, "a", None], {"a": 1, "b": [True]}, {"x\"y": {}}])


def object_schema(depth):
    names = R.sample(NAMES, R.randrange(5))
    s = {"type": "object", "properties": {n: schema(depth - 1) for n in names}}
    if R.random() < 0.7:
        s["required"] = [n for n in names if R.random() < 0.5] + (["more"] if R.random() < 0.1 else [])
    if R.random() < 0.8:
        s["additionalProperties"] = R.choice([False, False, True, schema(0)])
    if R.random() < 0.15:
        s["minProperties"] = R.randrange(4)
    if R.random() < 0.15:
        s["maxProperties"] = R.randrange(1, 5)
    return s


def array_schema(depth):
    s = {"type": "array"}
    if R.random() < 0.4:
        s["prefixItems"] = [schema(depth - 1) for _ in range(R.randrange(1, 4))]
    if R.random() < 0.7:
        s["items"] = R.choice([False, schema(depth - 1), schema(depth - 1)])
    if R.random() < 0.4:
        s["minItems"] = R.randrange(4)
    if R.random() < 0.5:
        s["maxItems"] = s.get("minItems", 0) + R.randrange(4)
    return s


def tagged(depth):
    return {"oneOf": [{"type": "object", "properties": {"kind": {"const": k}, "v": schema(depth - 1)}, "required": ["kind"], "additionalProperties": False} for k in R.sample(["x", "y", "z", 1, None], R.randrange(2, 4))]}


def schema(depth):
    kinds = [number_schema, string_schema, lambda: {"type": R.choice(["null", "boolean", "string"])}, lambda: {"enum": [value() for _ in range(R.randrange(1, 5))]},
             lambda: {"const": value()}, lambda: {"type": R.sample(["null", "integer", "string", "boolean", "number"], 2)}]
    if depth > 0:
        kinds += 2 * [lambda: object_schema(depth), lambda: array_schema(depth)]
        kinds += [lambda: {"anyOf": [schema(depth - 1) for _ in range(R.randrange(1, 4))]}, lambda: tagged(depth), lambda: {"$ref": "#/$defs/" + R.choice("pqr")},
                  lambda: {"allOf": [object_schema(depth - 1), object_schema(depth - 1)]}, lambda: {"allOf": [number_schema(), {"maximum": R.randrange(-3, 50)}]},
                  lambda: {"type": "string", "allOf": [string_schema(), {"minLength": R.randrange(3)}]}, lambda: {"enum": [value() for _ in range(6)], "type": ["string", "object", "integer"]}]
    return R.choice(kinds)()


def document():
    s = schema(3)
    s["$defs"] = {k: schema(1) for k in "pq"}
    s["$defs"]["r"] = {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"next": {"$ref": "#/$defs/r"}, "v": schema(0)}, "required": ["next"], "additionalProperties": False}]}
    return s


# ---- comparing ----

def no_twins(pairs):
    keys = [k for k, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("the same key twice")
    return dict(pairs)


def check(s, text):
    """None, or what is wrong with a completed text."""
    try:
        v = json.loads(text, object_pairs_hook=no_twins)
    except ValueError as e:
        return f"not JSON: {e}"
    errors = list(validator(s).iter_errors(v))
    return errors[0].message[:200] if errors else None


class Lines:
    def __init__(self, program):
        self.p = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **what):
        self.p.stdin.write(json.dumps(what).encode() + b"\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            sys.exit(f"the program ended on {json.dumps(what)}")
        return json.loads(line)


def run_random(program, count):
    lines, n, refused, whole, cut, bad = Lines(program), 0, {}, 0, 0, 0
    while n < count:
        s = document()
        a = lines.ask(schema=json.dumps(s), draws=4, seed=R.randrange(1 << 30), most=300)
        n += 1
        if "error" in a:
            why = a["error"].split(": ", 1)[-1][:60]
            refused[why] = refused.get(why, 0) + 1
            continue
        for text, done in a["drawn"]:
            whole += done
            cut += not done
            wrong = check(s, text) if done else None
            if wrong:
                bad += 1
                print("WRONG", json.dumps(s), repr(text), wrong, sep="\n  ")
    print(f"{n} schemas, {sum(refused.values())} refused, {whole} texts completed, {cut} cut, {bad} wrong")
    for k, v in sorted(refused.items(), key=lambda x: -x[1])[:12]:
        print(f"  {v:5} {k}")
    return bad


def run_model(run, model, count):
    n = refused = whole = cut = bad = 0
    while n < count:
        s = document()
        n += 1
        p = subprocess.run([run, model, "-p", "x", "--no-echo", "--json-schema", json.dumps(s), "-n", "200", "--temp", "3", "--top-k", "0", "--top-p", "1", "--seed", str(R.randrange(1 << 30))], capture_output=True)
        log = p.stderr.decode()
        if p.returncode:
            if "JSON schema" not in log:
                print("FAILED", json.dumps(s), log, sep="\n  ")
                bad += 1
            refused += 1
        elif "-n reached" in log or "context full" in log:
            cut += 1
        else:
            whole += 1
            wrong = check(s, p.stdout.decode())
            if wrong:
                bad += 1
                print("WRONG", json.dumps(s), repr(p.stdout), wrong, log, sep="\n  ")
    print(f"{n} schemas through {os.path.basename(model)}: {refused} refused, {whole} completed, {cut} said that -n was reached, {bad} wrong")
    return bad


# ---- the suite ----

def writable(v, top=True):
    """Can the grammar write this value in some way? Numbers of too many digits it cannot."""
    if isinstance(v, dict):
        return all(writable(x) for x in v.values())
    if isinstance(v, list):
        return all(writable(x) for x in v)
    if isinstance(v, int) and not isinstance(v, bool):
        return len(str(abs(v))) <= 15
    return not isinstance(v, float) or (math.isfinite(v) and len(repr(v).replace("-", "").replace(".", "")) <= 15)


def forms(v):
    """The ways of writing it that are tried."""
    def whole(x):
        if isinstance(x, float) and x.is_integer() and abs(x) < 1e15:
            return int(x)
        if isinstance(x, list):
            return [whole(y) for y in x]
        return {k: whole(y) for k, y in x.items()} if isinstance(x, dict) else x
    return list(dict.fromkeys([json.dumps(x, ensure_ascii=False, separators=sep) for x in (v, whole(v)) for sep in ((",", ":"), (", ", ": "))]))


def run_suite(program, folder):
    lines, kept, refused, good, bad, narrowed = Lines(program), 0, {}, 0, 0, 0
    for path in sorted(glob.glob(os.path.join(folder, "*.json")) + glob.glob(os.path.join(folder, "optional/format/*.json"))):
        for group in json.load(open(path)):
            texts = [forms(t["data"]) for t in group["tests"]]
            a = lines.ask(schema=json.dumps(group["schema"]), texts=[f for t in texts for f in t], draws=3, seed=1, most=200)
            if "error" in a:
                why = a["error"].split(": ", 1)[-1][:50]
                refused[why] = refused.get(why, 0) + 1
                continue
            kept += 1
            accepts = iter(a["accepts"])
            for t, f in zip(group["tests"], texts):
                taken = any([next(accepts) for _ in f])
                if taken and not t["valid"]:
                    # a format is no assertion by default: the suite's plain tests call every text valid
                    bad += 1
                    print("ACCEPTS", os.path.basename(path), group["description"], "|", t["description"], json.dumps(t["data"])[:100])
                elif not taken and t["valid"] and writable(t["data"]):
                    if "format" in json.dumps(group["schema"]):
                        narrowed += 1
                        continue
                    bad += 1
                    print("REJECTS", os.path.basename(path), group["description"], "|", t["description"], json.dumps(t["data"])[:100])
                else:
                    good += 1
            for text, done in a["drawn"]:
                wrong = check(group["schema"], text) if done and "$schema" not in str(group["schema"].get("$defs", "") if isinstance(group["schema"], dict) else "") else None
                if wrong:
                    bad += 1
                    print("DRAWN", os.path.basename(path), group["description"], repr(text), wrong)
    print(f"{kept} schemas kept, {sum(refused.values())} refused, {good} instances right, {narrowed} valid ones that a narrower format refuses, {bad} wrong")
    for k, v in sorted(refused.items(), key=lambda x: -x[1])[:40]:
        print(f"  {v:4} {k}")
    return bad


if __name__ == "__main__":
    mode, program = sys.argv[1:3]
    if mode == "suite":
        sys.exit(bool(run_suite(program, sys.argv[3])))
    at = 3 if mode == "random" else 4
    R.seed(int(sys.argv[at + 1]) if len(sys.argv) > at + 1 else 1)
    sys.exit(bool(run_random(program, int(sys.argv[3])) if mode == "random" else run_model(program, sys.argv[3], int(sys.argv[4]))))
