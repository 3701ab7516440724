#!/usr/bin/env python3
"""Structured answers of random-weight models, through ./run and ./serve (development only; `pip install jsonschema rfc3339-validator numpy`).

    tests/tools/structured_check.py schemas [--count 2000] [--seed 1] [--bin .] [--shared ../shared] [--only gpt2,qwen3]
    tests/tools/structured_check.py calls   [--rounds 6] ...

schemas: random schemas (schema_diff.py makes them), each through one of the models in turn, at a temperature of 2 and above, in four ways:
    ./run --json-schema, /v1/chat/completions with response_format, /api/chat with format, /completion with json_schema. What was completed must
    validate with the package jsonschema, what was cut must say so, a refusal must name a place of the schema, and the ways must agree on it.
calls: tools through every chat template that knows them and every dialect, streamed and not: what was called must be one of the tools with
    arguments that validate, the pieces must add up to the whole, and the answer of a tool must go back through the template.

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


def byte_tokenizer(folder, size, template, special=(), whole=()):
    """A vocabulary of this size: special tokens, texts that are tokens as a whole, the bytes that text can have, and pieces of JSON as far as
    there is room. Its ids by text."""
    signs = byte_signs()
    names = ["<pad>", "<s>", "</s>", *special, *whole]
    pieces = [signs[b] for b in range(256) if b not in (0xC0, 0xC1) and b < 0xF5]
    merges = []
    for a, b in ['{"', '":', '",', '"}', "10", "us", "Tr", "er", "[[", '["', ', ', "]]", "ab", "-0", "\\u", *[a + b for a in "abcdefghij" for b in "klmnopqrst"]]:
        if len(names) + len(pieces) < size:
            merges.append([signs[ord(a)], signs[ord(b)]])
            pieces.append(signs[ord(a)] + signs[ord(b)])
    vocabulary = {s: i for i, s in enumerate(names + pieces)}
    assert len(vocabulary) <= size, (len(vocabulary), size)
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": s not in whole} for i, s in enumerate(names)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
               "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                         "vocab": vocabulary, "merges": merges}}, open(folder + "/tokenizer.json", "w"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "add_bos_token": False, "chat_template": template},
              open(folder + "/tokenizer_config.json", "w"))
    return vocabulary


def bf16(a):
    return (a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def random_llama(folder, size, context=8192, seed=1, bos=1, eos=2, liked=None):
    """A llama of two small layers whose answers are almost even draws from its vocabulary; liked: {id: logits more}."""
    d, inner, layers, heads, kv = 64, 128, 2, 4, 2
    r = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (size, d), "lm_head.weight": (size, d)}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes.update({p + "self_attn.q_proj.weight": (d, d), p + "self_attn.k_proj.weight": (d // heads * kv, d), p + "self_attn.v_proj.weight": (d // heads * kv, d),
                       p + "self_attn.o_proj.weight": (d, d), p + "mlp.gate_proj.weight": (inner, d), p + "mlp.up_proj.weight": (inner, d), p + "mlp.down_proj.weight": (d, inner)})
    tensors = {k: bf16(r.standard_normal(s, dtype=np.float32) * (0.5 if k == "lm_head.weight" else 0.3)) for k, s in shapes.items()}
    if liked is not None:  # the first number of the residual stream is always 6, what layers add to it little
        tensors["model.embed_tokens.weight"][:, 0] = bf16(np.full(size, 6.0))
        tensors["lm_head.weight"][:, 0] = 0
        for i in range(layers):
            for n in ("self_attn.o_proj", "mlp.down_proj"):
                w = r.standard_normal(shapes[f"model.layers.{i}.{n}.weight"], dtype=np.float32) * 0.05
                w[0] = 0
                tensors[f"model.layers.{i}.{n}.weight"] = bf16(w)
        for k, v in liked.items():
            tensors["lm_head.weight"][k, 0] = bf16(np.array([v / 6]))[0]
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
    def __init__(self, o, models, context):
        self.log = open(o.work + "/serve.log", "wb+")
        self.p = subprocess.Popen([o.bin + "/serve", *models, "--port", "0", "--slots", "4", "--log", "none", "--ctx", str(context)], stderr=self.log)
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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.terminate()
        if self.p.wait(60):
            print("WRONG\n  the server's end: " + open(self.log.name).read()[-2000:])


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
    counts, keywords, by_model, bad, lock = collections.Counter(), collections.Counter(), collections.defaultdict(collections.Counter), [0], threading.Lock()

    def work(server, i, schema, seed):
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

    with Server(o, models.values(), 1024) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = []
        for i in range(o.count):
            schema = schema_diff.document()
            if r.random() < 0.08:
                spoil(schema, r)
            jobs.append(pool.submit(work, server, i, schema, r.randrange(1 << 30)))
        for j in jobs:
            j.result()
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


# ---- calls ----

TOOLS = {
    "weather": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 9}, "unit": {"enum": ["c", "f"]}},
                "required": ["city", "unit"], "additionalProperties": False},
    "note": {"type": "object", "properties": {"text": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2}, "kind": {"$ref": "#/$defs/kind"}},
             "required": ["text"], "additionalProperties": False, "$defs": {"kind": {"type": "string", "pattern": "^[a-c]{1,3}$"}}},
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
    "find-it": {"type": "object", "properties": {"limit": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]}, "exact": {"type": "boolean"},
                                                 "where": {"type": "object", "properties": {"x": {"type": "number", "minimum": 0}, "name": {"type": "string", "maxLength": 2}}, "required": ["x"], "additionalProperties": False}},
                "required": ["limit"], "additionalProperties": False},
}
MARKS = re.compile(r"<\|[^|>\n]{1,30}\|?>|<[^<|>\n]{1,30}\||<[a-z_]{1,30}\|>|<｜[^｜]+｜>|\[/?[A-Z_]{2,30}\]|</?(?:tool_call|start_[a-z_]+|end_[a-z_]+|escape|think)>")


def templates_with_tools(o):
    here = os.path.dirname(os.path.abspath(__file__)) + "/../fixtures/tool_templates"
    paths = [f"{o.shared}/chat_templates/{n}.jinja" for n in ("llama3.1", "llama3.2", "mistral-nemo", "qwen2.5", "qwen3")] + sorted(f"{here}/{f}" for f in os.listdir(here) if f.endswith(".jinja"))
    return {os.path.basename(p)[:-6]: open(p).read() for p in paths}


def call_models(o):
    """Of each template two: with its marks as special tokens, and with marks that are spelled."""
    models = {}
    for name, template in templates_with_tools(o).items():
        for special in (True, False):
            model = name + ("" if special else "-spelled")
            if o.only and model not in o.only:
                continue
            folder = f"{o.work}/{model}"
            os.mkdir(folder)
            marks = sorted(set(MARKS.findall(template)) | {"<|python_tag|>", "<|python_start|>"}) if special else []
            whole = ['{"name":', "\n</parameter>", "```tool_code"]
            ids = byte_tokenizer(folder, 320 + len(marks), template, marks, whole)
            likes = {'"': 8, "\n</parameter>": 9, "<escape>": 9, '<|"|>': 9, "</s>": 4, "]": 5, "}": 5, ")": 4,
                     '{"name":': 5, "<tool_call>": 7, "[TOOL_CALLS]": 7, "<|tool_call|>": 7, "<|tool_call>": 7, "<start_function_call>": 7, "<｜tool▁calls▁begin｜>": 7, "```tool_code": 7, "<|python_tag|>": 6,
                     "<|python_start|>": 6, "</think>": 8}
            random_llama(folder, max(ids.values()) + 1, liked={ids[k]: v for k, v in likes.items() if k in ids})
            models[model] = convert(o, folder, model)
    return models


def functions(dialect):
    if dialect == "anthropic":
        return [{"name": n, "description": "d", "input_schema": s} for n, s in TOOLS.items()]
    return [{"type": "function", "function": {"name": n, "description": "d", "parameters": s}} for n, s in TOOLS.items()]


CHOICES = {"openai": {"auto": "auto", "required": "required", "named": {"type": "function", "function": {"name": "weather"}}},
           "ollama": {"auto": "auto", "required": "required", "named": {"type": "function", "function": {"name": "weather"}}},
           "anthropic": {"auto": {"type": "auto"}, "required": {"type": "any"}, "named": {"type": "tool", "name": "weather"}}}
PATHS = {"openai": "/v1/chat/completions", "ollama": "/api/chat", "anthropic": "/v1/messages"}


def call_request(o, model, dialect, choice, seed, stream, parallel, messages, tokens):
    body = {"model": model, "messages": messages, "tools": functions(dialect), "tool_choice": CHOICES[dialect][choice], "stream": stream}
    draw = {"temperature": 2.0 if dialect != "anthropic" else seed % 2 * 1.0, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed}
    if dialect == "ollama":
        return {**body, "options": {**draw, "num_predict": tokens}}
    if dialect == "anthropic":
        draw = {"temperature": draw["temperature"], "top_k": 0}
        body["tool_choice"] = {**body["tool_choice"], "disable_parallel_tool_use": not parallel}
    else:
        body["parallel_tool_calls"] = parallel
    return {**body, **draw, "max_tokens": tokens}


def lines_of(text):
    for line in text.split("\n"):
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError as e:
                raise ValueError(f"{e}: {line!r}") from None


def said_openai(text, stream):
    """text, [(id, name, arguments)], why it ended"""
    if not stream:
        c = json.loads(text)["choices"][0]
        return c["message"]["content"] or "", [(t["id"], t["function"]["name"], t["function"]["arguments"]) for t in c["message"].get("tool_calls") or []], c["finish_reason"]
    content, calls, why = "", [], None
    for a in lines_of(text):
        for c in a["choices"]:
            d = c["delta"]
            content += d.get("content") or ""
            why = c["finish_reason"] or why
            for t in d.get("tool_calls") or []:
                if t["index"] == len(calls):
                    calls.append([t["id"], t["function"]["name"], ""])
                calls[t["index"]][2] += t["function"]["arguments"]
    return content, [tuple(c) for c in calls], why


def said_ollama(text, stream):
    content, calls, why = "", [], None
    for a in lines_of(text):
        content += a["message"]["content"]
        calls += [(t["id"], t["function"]["name"], json.dumps(t["function"]["arguments"])) for t in a["message"].get("tool_calls") or []]
        why = a.get("done_reason") or why
    return content, calls, why


def said_anthropic(text, stream):
    content, calls, why = "", [], None
    if not stream:
        a = json.loads(text)
        return ("".join(b["text"] for b in a["content"] if b["type"] == "text"), [(b["id"], b["name"], json.dumps(b["input"])) for b in a["content"] if b["type"] == "tool_use"], a["stop_reason"])
    for a in lines_of(text):
        if a["type"] == "content_block_start" and a["content_block"]["type"] == "tool_use":
            calls.append([a["content_block"]["id"], a["content_block"]["name"], ""])
        if a["type"] == "content_block_delta":
            content += a["delta"].get("text", "")
            if a["delta"]["type"] == "input_json_delta":
                calls[-1][2] += a["delta"]["partial_json"]
        if a["type"] == "message_delta":
            why = a["delta"]["stop_reason"]
    return content, [tuple(c) for c in calls], why


SAID = {"openai": said_openai, "ollama": said_ollama, "anthropic": said_anthropic}
ENDS = {"openai": ("tool_calls", "length", "stop"), "ollama": ("stop", "length", "stop"), "anthropic": ("tool_use", "max_tokens", "end_turn")}


def wrong_call(call, choice):
    _, name, arguments = call
    if name not in TOOLS or (choice == "named" and name != "weather"):
        return f"a call of {name}"
    return schema_diff.check(TOOLS[name], arguments or "{}")


def check_answer(said, dialect, choice, parallel):
    """None, or what is wrong; and its kind"""
    text, calls, why = said
    called, cut, ended = ENDS[dialect]
    if why == cut:
        calls = calls[:-1]
    elif choice != "auto" and not calls:
        return f"no call, {why}"
    elif why != (called if calls else ended):
        return f"ended with {why}"
    if not parallel and len(calls) > 1:
        return f"{len(calls)} calls"
    if len({c[0] for c in calls}) != len(calls) or any(not c[0] for c in calls):
        return "ids that are no ids"
    if choice != "auto" and text.strip() and why != cut:
        return f"text beside a call: {text!r}"
    return next(filter(None, (wrong_call(c, choice) for c in calls)), None)


def as_messages(said, dialect):
    """An answer with calls and the results of them, as a client sends them back."""
    text, calls, _ = said
    if dialect == "anthropic":
        return [{"role": "assistant", "content": [{"type": "tool_use", "id": i, "name": n, "input": json.loads(a or "{}")} for i, n, a in calls]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": i, "content": f"RESULT-{k}"} for k, (i, _, _) in enumerate(calls)]}]
    arguments = json.loads if dialect == "ollama" else str
    asked = {"role": "assistant", "content": None if dialect == "openai" else "",
             "tool_calls": [{"id": i, "type": "function", "function": {"name": n, "arguments": arguments(a)}} for i, n, a in calls]}
    return [asked] + [{"role": "tool", "content": f"RESULT-{k}", **({"tool_call_id": i} if dialect == "openai" else {"tool_name": n})} for k, (i, n, _) in enumerate(calls)]


def round_trip(o, server, model, dialect, said, parallel):
    messages = [{"role": "user", "content": "x"}] + as_messages(said, dialect)
    status, text = server.ask(PATHS[dialect], call_request(o, model, dialect, "auto", 1, False, parallel, messages, 3))
    if status != 200 or '"warnings"' in text:
        return f"the results: {status} {text}"
    if dialect == "anthropic":
        return None
    status, text = server.ask("/apply-template", {"model": model, "messages": messages, "tools": functions(dialect)})
    if status != 200:
        return f"the template: {status} {text}"
    prompt = json.loads(text)["prompt"]
    for k, (_, name, _) in enumerate(said[1]):
        if f"RESULT-{k}" not in prompt or name not in prompt:
            return f"the template leaves out a result: {prompt!r}"
    return None


def one_case(o, server, model, dialect, choice, seed):
    """kind, number of calls, what is wrong"""
    parallel = seed % 2 == 0 or dialect == "ollama"
    bodies = [call_request(o, model, dialect, choice, seed, stream, parallel, [{"role": "user", "content": "x"}], o.tokens) for stream in (False, True)]
    told = []
    for body in bodies:
        status, text = server.ask(PATHS[dialect], body)
        if status == 400 and "template" in text and "single tool-calls" in text:
            return "refused", 0, None
        if status != 200:
            return "failed", 0, f"{status} {text}"
        try:
            said = SAID[dialect](text, body["stream"])
        except (ValueError, KeyError, TypeError) as e:
            return "failed", 0, f"a reply that cannot be read: {e!r}"
        wrong = check_answer(said, dialect, choice, parallel)
        if wrong:
            return "failed", 0, f"{wrong}\n  stream {body['stream']}: {text}"
        told.append(said)
    whole, pieces = told
    cut = whole[2] == ENDS[dialect][1]
    if dialect == "anthropic" and seed % 2:  # it knows no seed: without a draw the two are the same
        pieces = whole
    both = [[c[1:2] + (json.loads(c[2] or "{}"),) for c in (x[1][:-1] if cut else x[1])] for x in (whole, pieces)]
    if cut:  # the last one is a part of a call, which not all dialects show
        both = [x[:min(map(len, both))] for x in both]
    if both[0] != both[1] or whole[2] != pieces[2] or whole[0] != pieces[0]:
        return "failed", 0, f"the pieces differ: {whole} {pieces}"
    if cut or not whole[1]:
        return "length" if cut else "text", 0, None
    return "called", len(whole[1]), round_trip(o, server, model, dialect, whole, parallel)


def check_calls(o):
    models = call_models(o)
    counts, pairs, bad, lock = collections.defaultdict(collections.Counter), collections.Counter(), [0], threading.Lock()

    def work(server, model, dialect, choice, seed):
        kind, n, wrong = one_case(o, server, model, dialect, choice, seed)
        with lock:
            counts[model][choice, kind] += 1
            pairs[model] += n > 1
            if wrong:
                bad[0] += 1
                print("WRONG", model, dialect, choice, f"seed {seed}", wrong, sep="\n  ", flush=True)

    with Server(o, models.values(), 8192) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(work, server, m, d, c, o.seed + i) for m in models for d in PATHS for c in ("auto", "required", "named") for i in range(o.rounds)]
        for j in jobs:
            j.result()
    total = collections.Counter()
    for model, c in counts.items():
        print(f"  {model:24} " + ", ".join(f"{choice}: {c[choice, 'called']} called {c[choice, 'length']} length {c[choice, 'text']} text" for choice in ("required", "named", "auto")) + f"; {pairs[model]} with several")
        for (_, kind), n in c.items():
            total[kind] += n
    print(f"{len(models)} models, {len(PATHS)} dialects, {sum(total.values())} requests, each whole and streamed: {total['called']} called and valid, {total['length']} length, {total['text']} text, {bad[0]} wrong")
    return bad[0]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["schemas", "calls"])
    p.add_argument("--count", type=int, default=2000)
    p.add_argument("--rounds", type=int, default=6)
    p.add_argument("--tokens", type=int, default=150)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--bin", default=".")
    p.add_argument("--shared", default="../shared")
    p.add_argument("--only", type=lambda s: s.split(","))
    o = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="structured-") as o.work:
        sys.exit(bool((check_schemas if o.what == "schemas" else check_calls)(o)))


if __name__ == "__main__":
    main()
