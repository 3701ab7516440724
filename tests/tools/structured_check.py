#!/usr/bin/env python3
"""Structured answers of random-weight models, through ./run and ./serve (development only; `pip install jsonschema rfc3339-validator numpy`).

    tests/tools/structured_check.py schemas [--count 2000] [--seed 1] [--bin .] [--shared ../shared] [--only gpt2,qwen3]

schemas: random schemas (schema_diff.py makes them), each through one of the models in turn, at a temperature of 2 and above, in four ways:
    ./run --json-schema, /v1/chat/completions with response_format, /api/chat with format, /completion with json_schema. What was completed must
    validate with the package jsonschema, what was cut must say so, a refusal must name a place of the schema, and the ways must agree on it.

Models: the tiny checkpoints of shared/golden with a vocabulary of bytes, and the vocabularies of shared/tokenizers with a small random llama
(without t5's, which has no brace). They are made anew in a temporary folder (some 300 MB while it runs). The last line counts; the exit status is 1 where anything was wrong.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import schema_diff  # noqa: E402

FAMILIES = "gemma gemma2 gemma3 gemma3n gpt_neox granite llama llama3 mistral mixtral olmo2 phi phi3 qwen2 qwen3 qwen3_moe smollm3".split()
TOKENIZERS = "gpt2 llama2 llama3 mistral qwen2 gemma".split()
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


# ---- models ----

def byte_signs():
    """GPT-2's printable sign of each byte."""
    same = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in same]
    return {**{b: chr(b) for b in same}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def byte_tokenizer(folder, size, template, special=()):
    """A vocabulary of this size: special tokens, the bytes that text can have, and pieces of JSON as far as there is room."""
    signs = byte_signs()
    names = ["<pad>", "<s>", "</s>", *special]
    pieces = [signs[b] for b in range(256) if b not in (0xC0, 0xC1) and b < 0xF5]
    merges = []
    for a, b in ['{"', '":', '",', '"}', "10", "us", "Tr", "er", "[[", '["', ', ', "]]", "ab", "-0", "\\u", *[a + b for a in "abcdefghij" for b in "klmnopqrst"]]:
        if len(names) + len(pieces) < size:
            merges.append([signs[ord(a)], signs[ord(b)]])
            pieces.append(signs[ord(a)] + signs[ord(b)])
    vocabulary = {s: i for i, s in enumerate(names + pieces)}
    assert len(vocabulary) <= size, (len(vocabulary), size)
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, s in enumerate(names)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
               "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                         "vocab": vocabulary, "merges": merges}}, open(folder + "/tokenizer.json", "w"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "add_bos_token": False, "chat_template": template},
              open(folder + "/tokenizer_config.json", "w"))


def bf16(a):
    return (a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def random_llama(folder, size, context=2048, seed=1, bos=1, eos=2):
    """A llama of two small layers whose answers are almost even draws from its vocabulary."""
    d, inner, layers, heads, kv = 64, 128, 2, 4, 2
    r = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (size, d), "lm_head.weight": (size, d)}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes.update({p + "self_attn.q_proj.weight": (d, d), p + "self_attn.k_proj.weight": (d // heads * kv, d), p + "self_attn.v_proj.weight": (d // heads * kv, d),
                       p + "self_attn.o_proj.weight": (d, d), p + "mlp.gate_proj.weight": (inner, d), p + "mlp.up_proj.weight": (inner, d), p + "mlp.down_proj.weight": (d, inner)})
    tensors = {k: bf16(r.standard_normal(s, dtype=np.float32) * (0.5 if k == "lm_head.weight" else 0.3)) for k, s in shapes.items()}
    for name in ["model.norm.weight"] + [f"model.layers.{i}.{n}_layernorm.weight" for i in range(layers) for n in ("input", "post_attention")]:
        tensors[name] = bf16(np.ones(d))
    header, at = {}, 0
    for k, t in tensors.items():
        header[k] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder + "/model.safetensors", "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            f.write(t.tobytes())
    json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size, "hidden_size": d, "intermediate_size": inner, "num_hidden_layers": layers,
               "num_attention_heads": heads, "num_key_value_heads": kv, "hidden_act": "silu", "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
               "tie_word_embeddings": False, "bos_token_id": bos, "eos_token_id": eos, "torch_dtype": "bfloat16"}, open(folder + "/config.json", "w"))


def golden_model(shared, name, folder):
    """A checkpoint of shared/golden with a context of 1024 and a vocabulary of bytes."""
    source = f"{shared}/golden/{name}"
    for f in os.listdir(source):
        if f.startswith("model") or f == "config.json":
            shutil.copyfile(f"{source}/{f}", f"{folder}/{f}")
    c = json.load(open(folder + "/config.json"))
    inner = c.get("text_config", c)
    for part in (c, inner):
        part.update(bos_token_id=1, eos_token_id=2)
    inner["max_position_embeddings"] = 1024
    inner.pop("rope_scaling", None)
    json.dump(c, open(folder + "/config.json", "w"))
    byte_tokenizer(folder, inner["vocab_size"], PLAIN)


def tokenizer_size(path):
    t = json.load(open(path))
    v = t["model"]["vocab"]
    n = len(v) if isinstance(v, list) else max(v.values()) + 1
    return max([n] + [a["id"] + 1 for a in t.get("added_tokens", [])]), t


def real_model(shared, name, folder, template=PLAIN):
    """A random llama with a published vocabulary."""
    source = f"{shared}/tokenizers/{name}"
    shutil.copyfile(source + "/tokenizer.json", folder + "/tokenizer.json")
    c = json.load(open(source + "/tokenizer_config.json"))
    c["chat_template"] = template
    json.dump(c, open(folder + "/tokenizer_config.json", "w"))
    size, t = tokenizer_size(folder + "/tokenizer.json")
    ids = {a["content"]: a["id"] for a in t.get("added_tokens", [])}
    eos = c.get("eos_token")
    eos = ids.get(eos.get("content") if isinstance(eos, dict) else eos, 0)
    random_llama(folder, size, seed=len(name), bos=eos, eos=eos)


def convert(o, folder, name, kind="q8"):
    out = f"{o.work}/{name}.bin"
    p = subprocess.run([o.bin + "/convert", folder, "-o", out, "--type", kind, "--force"], capture_output=True)
    if p.returncode:
        sys.exit(f"{name} was not converted: {p.stderr.decode()}")
    shutil.rmtree(folder)
    return out


def make_models(o):
    models = {}
    for name in FAMILIES + ["vocabulary-" + t for t in TOKENIZERS]:
        if o.only and name not in o.only:
            continue
        folder = f"{o.work}/{name}"
        os.mkdir(folder)
        golden_model(o.shared, name, folder) if name in FAMILIES else real_model(o.shared, name.split("-")[1], folder)
        models[name] = convert(o, folder, name)
    return models


# ---- the server ----

class Server:
    def __init__(self, o, models):
        self.log = open(o.work + "/serve.log", "wb+")
        self.p = subprocess.Popen([o.bin + "/serve", *models, "--port", "0", "--slots", "4", "--log", "none", "--ctx", "1024"], stderr=self.log)
        for _ in range(1200):
            m = re.search(rb"listening on (http://[^, ]*)", open(o.work + "/serve.log", "rb").read())
            if m or self.p.poll() is not None:
                break
            time.sleep(0.1)
        if not m:
            sys.exit("the server did not start: " + open(o.work + "/serve.log").read())
        self.address = m.group(1).decode().rstrip()

    def ask(self, path, body):
        """status, text"""
        r = urllib.request.Request(self.address + path, json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(r, timeout=300) as a:
                return a.status, a.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def end(self):
        self.p.terminate()
        return self.p.wait(60)


# ---- schemas ----

REFUSED = {"uniqueItems": True, "patternProperties": {"^a": {"type": "string"}}, "not": {"type": "null"}, "if": {"type": "string"}, "contains": {"type": "integer"},
           "dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": {}}, "propertyNames": {"maxLength": 3}, "unevaluatedProperties": False, "$dynamicRef": "#x"}


def spoil(s, r):
    """A keyword that cannot be kept, somewhere in the schema."""
    places = []

    def look(x):
        if isinstance(x, dict) and ("type" in x or "anyOf" in x):
            places.append(x)
        for k, v in (x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()):
            if k not in ("enum", "const", "required"):
                look(v)
    look(s)
    if places:
        k = r.choice(sorted(REFUSED))
        r.choice(places)[k] = REFUSED[k]


def place_of(schema, message):
    """The keyword that a refusal names; None: its pointer leads nowhere."""
    m = re.search(r"JSON schema, (#[^:]*):? ?", message)
    if not m:
        return None
    at = schema
    steps = [urllib.parse.unquote(w).replace("~1", "/").replace("~0", "~") for w in m.group(1)[1:].split("/")[1:]]
    for w in steps:
        at = at.get(w, None) if isinstance(at, dict) and w in at else at[int(w)] if isinstance(at, list) and w.isdigit() and int(w) < len(at) else None
        if at is None and w is not steps[-1]:
            return None
    for w in reversed(steps):
        if not w.isdigit():
            return w
    return "#"


def by_run(o, model, schema, seed):
    p = subprocess.run([o.bin + "/run", model, "-p", "x", "--no-echo", "--json-schema", json.dumps(schema), "-n", str(o.tokens), "--temp", "2.5", "--top-k", "0", "--top-p", "1",
                        "--seed", str(seed), "-t", "1", "--ctx", "1024"], capture_output=True)
    log = p.stderr.decode()
    if p.returncode == 1 and log.count("\n") == 1:
        return "refused", log.strip()
    if p.returncode:
        return "failed", log
    return ("length" if "-n reached" in log or "context full" in log else "whole"), p.stdout.decode()


def by_serve(o, server, model, schema, seed, way):
    chat = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    draw = {"temperature": 2 if way == "openai" else 3, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed}
    path, body = {"openai": ("/v1/chat/completions", {**chat, **draw, "max_tokens": o.tokens, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
                  "ollama": ("/api/chat", {**chat, "stream": False, "format": schema, "options": {**draw, "num_predict": o.tokens}}),
                  "completion": ("/completion", {"model": model, "prompt": "x", **draw, "n_predict": o.tokens, "json_schema": schema})}[way]
    status, text = server.ask(path, body)
    a = json.loads(text)
    if status == 400 and "error" in a:
        return "refused", a["error"] if isinstance(a["error"], str) else a["error"]["message"]
    if status != 200:
        return "failed", text
    if way == "openai":
        c = a["choices"][0]
        reason, text = c["finish_reason"], c["message"]["content"]
    elif way == "ollama":
        reason, text = a["done_reason"], a["message"]["content"]
    else:
        reason, text = {"limit": "length", "eos": "stop", "word": "stop"}.get(a["stop_type"], a["stop_type"]), a["content"]
    return {"length": "length", "stop": "whole"}.get(reason, "failed"), text


WAYS = ("run", "openai", "ollama", "completion")


def one_schema(o, server, name, path, schema, seed):
    """(way, kind, keyword, what is wrong) of each way"""
    out, kinds = [], set()
    for i, way in enumerate(WAYS):
        kind, text = by_run(o, path, schema, seed) if way == "run" else by_serve(o, server, name, schema, seed + i, way)
        wrong = keyword = None
        if kind == "whole":
            wrong = schema_diff.check(schema, text)
        elif kind == "refused":
            keyword = place_of(schema, text)
            wrong = None if keyword else "a refusal that names no place: " + text
            if "cannot be enforced" not in text:
                keyword = text.split(": ")[-1][:70]
        elif kind == "failed":
            wrong = text
        kinds.add(kind == "refused")
        out.append((way, kind, keyword, wrong and f"{wrong}\n  {text!r}"))
    if len(kinds) > 1:
        out.append(("all", "failed", None, "refused by some ways only: " + str([(w, k) for w, k, *_ in out])))
    return out


def check_schemas(o):
    r = random.Random(o.seed)
    schema_diff.R.seed(o.seed)
    models = make_models(o)
    server = Server(o, models.values())
    counts, keywords, by_model, bad, lock = collections.Counter(), collections.Counter(), collections.defaultdict(collections.Counter), [0], threading.Lock()

    def work(i, schema, seed):
        name = list(models)[i % len(models)]
        found = one_schema(o, server, name, models[name], schema, seed)
        with lock:
            for way, kind, keyword, wrong in found:
                counts[way, kind] += 1
                by_model[name][kind] += 1
                keywords[keyword] += kind == "refused"
                if wrong:
                    bad[0] += 1
                    print("WRONG", name, way, json.dumps(schema), wrong, sep="\n  ", flush=True)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = []
        for i in range(o.count):
            schema = schema_diff.document()
            if r.random() < 0.08:
                spoil(schema, r)
            jobs.append(pool.submit(work, i, schema, r.randrange(1 << 30)))
        for j in jobs:
            j.result()
    bad[0] += server.end() != 0
    for name, c in by_model.items():
        print(f"  {name:20} {c['whole']:5} whole {c['length']:5} length {c['refused']:5} refused")
    for k, n in keywords.most_common():
        print(f"  {n:5} refused: {k}") if k else None
    for way in WAYS:
        print(f"  {way:20} {counts[way, 'whole']:5} whole {counts[way, 'length']:5} length {counts[way, 'refused']:5} refused")
    total = collections.Counter()
    for (_, kind), n in counts.items():
        total[kind] += n
    print(f"{o.count} schemas, {len(models)} models, seed {o.seed}: {total['whole']} complete, {total['length']} length, {total['refused']} refused, {bad[0]} invalid")
    return bad[0]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["schemas"])
    p.add_argument("--count", type=int, default=2000)
    p.add_argument("--tokens", type=int, default=150)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--bin", default=".")
    p.add_argument("--shared", default="../shared")
    p.add_argument("--only", type=lambda s: s.split(","))
    o = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="structured-") as o.work:
        sys.exit(bool(check_schemas(o)))


if __name__ == "__main__":
    main()
