#!/usr/bin/env python3
"""Where does a forward pass begin to differ from the reference? Compares what each named step of it computes (the taps of
runtime/forward.c) with what transformers computes there, in float32, and names the first layer and step that differs.

    pip install torch transformers safetensors numpy;  make all taps
    tests/tools/taps_reference.py check CHECKPOINT                  converts it, runs both over the ids of its expected.json, compares
    tests/tools/taps_reference.py check CHECKPOINT --model M.bin    the same with a file that is there already
    tests/tools/taps_reference.py dump CHECKPOINT -o FILE --ids "1 2 3"       the reference's steps to a file, as `taps` writes them
    tests/tools/taps_reference.py compare OURS REFERENCE            two such files

A step's values are compared relative to their standard deviation in the reference. A step that the reference's code has no place for
is listed as not compared. A family is a table of where its steps are in transformers' modules: a hook reads a module's output ("out")
or its first input ("in"); what attention gets and gives is read where the modeling file calls eager_attention_forward.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np

# ---- the file of steps ----


def read_steps(path):
    """[(stack, layer, name, how many of this name came before in this layer), ...] in order, and their values."""
    order, values, data, at = [], {}, open(path, "rb").read(), 0
    while at < len(data):
        end = data.index(b"\n", at)
        head = json.loads(data[at:end])
        n = head["m"] * head["n"]
        key = (head["stack"], head["layer"], head["name"])
        key += (sum(k[:3] == key for k in order),)
        order.append(key)
        values[key] = np.frombuffer(data, "<f4", n, end + 1).reshape(head["m"], head["n"])
        at = end + 1 + 4 * n
    return order, values


def write_steps(path, steps):
    with open(path, "wb") as f:
        for (stack, layer, name, _), x in steps.items():
            head = {"stack": stack, "layer": layer, "name": name, "m": x.shape[0], "n": x.shape[1]}
            f.write(json.dumps(head).encode() + b"\n" + np.ascontiguousarray(x, "<f4").tobytes())


def place(key):
    stack, layer, name, k = key
    return f"{'encoder' if stack == 'enc' else 'decoder'} layer {layer:2} {name}" + (f" (no. {k + 1})" if k else "")


def compare(ours, reference, tolerance, verbose):
    """True if all steps agree that both have. Of a row the reference may have fewer columns: those are compared."""
    order, have = read_steps(ours)
    _, want = read_steps(reference)
    first, compared, missing, worst = None, 0, [], (0, None)
    for key in order:
        if key not in want:
            missing.append(key)
            continue
        a, b = have[key], want[key]
        if a.shape[0] != b.shape[0] or a.shape[1] < b.shape[1]:
            raise SystemExit(f"{place(key)}: shapes {a.shape} and {b.shape}: not the same model, or not the same ids")
        a = a[:, :b.shape[1]].astype(np.float64)
        off = np.abs(a - b).max() / max(b.std(), 1e-30)
        off = off if np.isfinite(off) else np.inf
        compared += 1
        worst = max(worst, (off, key), key=lambda w: w[0])
        if verbose:
            print(f"{place(key):44} off by {off:.2e} of its deviation" + ("  <--" if off > tolerance else ""))
        if off > tolerance and first is None:
            row, column = np.unravel_index(np.abs(a - b).argmax(), b.shape)
            first = f"{place(key)}: off by {off:.2e} of its deviation; most at row {row}, column {column}: {a[row, column]:.6g}, expected {b[row, column]:.6g}"
    print(f"{compared} steps compared, {len(missing)} not: {', '.join(sorted({k[2] for k in missing})) or 'none'}")
    if not compared:
        raise SystemExit("nothing was compared")
    if first:
        print(f"the first that differs: {first}")
    else:
        print(f"all agree; most off: {place(worst[1])}, {worst[0]:.2e} of its deviation")
    return first is None


# ---- where the steps are in transformers ----
# In the order of forward.c. A step: names (several where forward.c taps the same values twice), module, "in" or "out". A module that
# stands in several steps is called several times. ATTENTION: the steps rope and attention of that module.

ATTENTION = ("rope", "attention")


def step(names, module, how="out"):
    return (names.split(), module, how)


def qkv(*modules):
    return (["qkv"], modules, "cat")


def decoder(attn="self_attn", out="o_proj", mlp_norm="post_attention_layernorm", down="mlp.down_proj", projections=None, post=False):
    steps = [step("attn_norm", "input_layernorm"), qkv(*(projections or [f"{attn}.{x}_proj" for x in "qkv"])), (ATTENTION, attn, None),
             step("attn_out", f"{attn}.{out}")]
    if post:
        steps += [step("post_norm", "post_attention_layernorm")]
    steps += [step("residual", mlp_norm, "in"), step("mlp_norm", mlp_norm), step("act", down, "in"), step("mlp", down)]
    if post:
        steps += [step("post_norm", "post_feedforward_layernorm")]
    return steps + [step("residual", "")]


LLAMA = dict(embed={"dec": "model.embed_tokens"}, layers={"dec": "model.layers"}, steps={"dec": decoder()}, final={"dec": "model.norm"})
GEMMA2 = LLAMA | dict(steps={"dec": decoder(mlp_norm="pre_feedforward_layernorm", post=True)})
GEMMA3N = LLAMA | dict(steps={"dec": [
    step("altup_norm", "altup.router_norm"), step("attn_norm", "input_layernorm"), qkv(*(f"self_attn.{x}_proj" for x in "qkv")),
    (ATTENTION, "self_attn", None), step("attn_out", "self_attn.o_proj"), step("post_norm", "post_attention_layernorm"),
    (["residual"], None, lambda r: r["predicted"] + r["post_norm", 0]), step("laurel_norm", "laurel.post_laurel_norm"),
    step("laurel", "pre_feedforward_layernorm", "in"), step("mlp_norm", "pre_feedforward_layernorm"), step("act", "mlp.down_proj", "in"),
    step("mlp", "mlp.down_proj"), step("post_norm", "post_feedforward_layernorm"), (["residual"], None, lambda r: r["activated"]),
    step("altup_norm", "altup.router_norm"), (["corrected"], None, lambda r: r["corrected"]),
    step("per_layer_norm per_layer", "post_per_layer_input_norm")]}, altup=True)
GPT2 = dict(embed={"dec": "transformer.drop"}, layers={"dec": "transformer.h"}, final={"dec": "transformer.ln_f"}, steps={"dec": [
    step("attn_norm", "ln_1"), qkv("attn.c_attn"), (ATTENTION, "attn", None), step("attn_out", "attn.c_proj"), step("residual", "ln_2", "in"),
    step("mlp_norm", "ln_2"), step("act", "mlp.c_proj", "in"), step("mlp", "mlp.c_proj"), step("residual", "")]})
PHI = LLAMA | dict(final={"dec": "model.final_layernorm"}, steps={"dec": [
    step("attn_norm", "input_layernorm"), qkv(*(f"self_attn.{x}_proj" for x in "qkv")), (ATTENTION, "self_attn", None),
    step("attn_out", "self_attn.dense"), (["residual"], None, lambda r: r["input"] + r["attn_out", 0]), step("act", "mlp.fc2", "in"),
    step("mlp", "mlp.fc2"), step("residual", "")]})
PHI3 = LLAMA | dict(steps={"dec": decoder(projections=["self_attn.qkv_proj"])})


def t5(cross):
    def self_attention(at, name, norm):
        return [step(norm, f"layer.{at}.layer_norm")] + ([qkv(*(f"layer.{at}.{name}.{x}" for x in "qkv"))] if at == 0 else []) + [
            (ATTENTION if at == 0 else ("attention",), f"layer.{at}.{name}", None), step("attn_out", f"layer.{at}.{name}.o"),
            step("residual", f"layer.{at}", "out")]
    mlp = f"layer.{2 if cross else 1}"
    return self_attention(0, "SelfAttention", "attn_norm") + (self_attention(1, "EncDecAttention", "cross_norm") if cross else []) + [
        step("mlp_norm", f"{mlp}.layer_norm"), step("act", f"{mlp}.DenseReluDense.wo", "in"), step("mlp", f"{mlp}.DenseReluDense.wo"),
        step("residual", "")]


T5 = dict(embed={"enc": "encoder.embed_tokens", "dec": "decoder.embed_tokens"}, layers={"enc": "encoder.block", "dec": "decoder.block"}, steps={"enc": t5(False), "dec": t5(True)},
          final={"enc": "encoder.final_layer_norm", "dec": "decoder.final_layer_norm"}, auto="AutoModelForSeq2SeqLM")
BERT = dict(embed={"enc": "embeddings"}, embed_names=["embed_norm", "embed"], layers={"enc": "encoder.layer"}, final={}, auto="AutoModel", steps={"enc": [
    qkv(*(f"attention.self.{x}" for x in ("query", "key", "value"))), (ATTENTION, "attention.self", None), step("attn_out", "attention.output.dense"),
    step("sum_norm residual", "attention.output.LayerNorm"), step("act", "output.dense", "in"), step("mlp", "output.dense"),
    step("sum_norm residual", "output.LayerNorm")]})

FAMILIES = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "smollm3": LLAMA, "gemma": LLAMA, "gemma2": GEMMA2,
            "gemma3_text": GEMMA2, "gemma3n_text": GEMMA3N, "gpt2": GPT2, "phi": PHI, "phi3": PHI3, "t5": T5, "bert": BERT}

# ---- the reference ----


def rows(x):
    """A module's value as [tokens][n]."""
    x = x[0] if isinstance(x, tuple) else x
    x = x[0] if x.ndim == 4 else x  # the streams of AltUp: the first
    return x.detach().reshape(-1, x.shape[-1]).numpy().copy()


class Recorder:
    def __init__(self, model, family):
        self.model, self.family = model, family
        self.raw, self.calls, self.attention = {}, {}, {}
        self.modules = dict(model.named_modules())
        for stack, path in family["layers"].items():
            for l in range(len(self.modules[path])):
                self.watch(stack, l, f"{path}.{l}")
        for stack, path in family["embed"].items():
            self.watch_one(("embed", stack), model.get_submodule(path), "out")
        for stack, path in family["final"].items():
            self.watch_one(("final", stack), self.modules[path], "out")
        self.patch_attention()

    def watch_one(self, key, module, how):
        """Values of a module under key + (number of the call,)."""
        def keep(x):
            n = self.calls.get(key, 0)
            self.calls[key] = n + 1
            self.raw[key + (n,)] = rows(x)
        if how == "out":
            module.register_forward_hook(lambda m, args, out: keep(out))
        else:
            module.register_forward_pre_hook(lambda m, args, kwargs: keep(args[0] if args else kwargs["hidden_states"]), with_kwargs=True)

    def watch(self, stack, l, path):
        layer, seen = self.modules[path], set()
        self.watch_one((stack, l, "", "in"), layer, "in")
        for _, where, how in self.family["steps"][stack]:
            for module in (where if how == "cat" else [where]) if where is not None else []:
                name, kind = f"{path}.{module}".rstrip("."), "in" if how == "in" else "out"
                if how is None:
                    self.attention[id(self.modules[name])] = (stack, l, module)
                elif name in self.modules and (name, kind) not in seen:  # a layer that shares keys has no k_proj
                    seen.add((name, kind))
                    self.watch_one((stack, l, module, kind), self.modules[name], kind)
        if self.family.get("altup"):
            self.watch_altup(stack, l, layer.altup)

    def watch_altup(self, stack, l, altup):
        predict, correct = altup.predict, altup.correct

        def predict_kept(streams):
            out = predict(streams)
            self.raw[stack, l, "predicted"] = rows(out)
            return out

        def correct_kept(predictions, activated):
            out = correct(predictions, activated)
            self.raw[stack, l, "activated"], self.raw[stack, l, "corrected"] = rows(activated), rows(out)
            return out
        altup.predict, altup.correct = predict_kept, correct_kept

    def patch_attention(self):
        for file in {type(m).__module__ for m in self.modules.values() if id(m) in self.attention}:
            module = sys.modules[file]
            original = module.eager_attention_forward

            def kept(layer, q, k, v, *args, original=original, **kwargs):
                out = original(layer, q, k, v, *args, **kwargs)
                scaling = kwargs.get("scaling")
                side = [x[0].transpose(0, 1).reshape(x.shape[2], -1) for x in (q * (q.shape[-1] ** -0.5 if scaling is None else scaling), k, v)]
                self.raw[self.attention[id(layer)] + ("rope",)] = [rows(x) for x in side]
                self.raw[self.attention[id(layer)] + ("attention",)] = rows(out[0].reshape(*out[0].shape[:2], -1))
                return out
            module.eager_attention_forward = kept

    # ---- what was recorded, as forward.c names it ----

    def side_by_side(self, parts):
        """q, k, v, each padded to 16 columns; of a layer that reads another's keys and values q alone."""
        return np.concatenate([np.pad(x, ((0, 0), (0, -x.shape[1] % 16))) for x in parts], axis=1)

    def split(self, parts):
        c = self.model.config
        if len(parts) != 1 or parts[0].shape[1] == c.num_attention_heads * self.head_dim():
            return parts
        q, kv = c.num_attention_heads * self.head_dim(), (getattr(c, "num_key_value_heads", None) or c.num_attention_heads) * self.head_dim()
        return np.split(parts[0], [q, q + kv], axis=1)

    def head_dim(self):
        c = self.model.config
        return getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads

    def layer(self, stack, l, out):
        done, used = {}, {}
        done["input"] = self.raw[stack, l, "", "in", 0]
        for name in ("predicted", "activated", "corrected"):
            done[name] = self.raw.get((stack, l, name))

        def put(name, x):
            k = sum(isinstance(d, tuple) and d[0] == name for d in done)
            done[name, k] = x
            out[stack, l, name, k] = x
        for names, where, how in self.family["steps"][stack]:
            if how is None:
                for name in names:
                    x = self.raw[stack, l, where, name]
                    alone = name == "rope" and (stack, l, "self_attn.k_proj", "out", 0) not in self.raw and self.family.get("altup")
                    put(name, x if name == "attention" else x[0] if alone else self.side_by_side(x))
                continue
            if how == "cat":
                parts = [self.raw[stack, l, m, "out", 0] for m in where if (stack, l, m, "out", 0) in self.raw]
                x = self.side_by_side(self.split(parts))
            elif callable(how):
                x = how(done)
            else:
                n = used.get((where, how), 0)
                used[where, how] = n + 1
                x = self.raw[stack, l, where, how, n]
                if names == ["altup_norm"]:
                    x = x * np.float32(self.model.config.hidden_size ** -1.0)
            for name in names:
                put(name, x)

    def steps(self, logits):
        out = {}
        for stack in self.family["layers"]:
            n = len(self.modules[self.family["layers"][stack]])
            for name in self.family.get("embed_names", ["embed"]):
                out[stack, -1, name, 0] = self.raw["embed", stack, 0]
            for l in range(n):
                self.layer(stack, l, out)
            if stack in self.family["final"]:
                out[stack, n, "enc_norm" if stack == "enc" else "final_norm", 0] = self.raw["final", stack, 0]
        if logits is not None:
            out["dec", n, "logits", 0] = logits
        return out


def dump(checkpoint, ids, decoder_ids, path):
    import torch
    import transformers
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    config = json.load(open(os.path.join(checkpoint, "config.json")))
    family = FAMILIES.get(config["model_type"])
    if family is None:
        raise SystemExit(f"{checkpoint}: model_type {config['model_type']} has no table here; known: {', '.join(FAMILIES)}")
    auto = getattr(transformers, family.get("auto", "AutoModelForCausalLM"))
    model = auto.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    recorder = Recorder(model, family)
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor([ids])}
        if len(family["layers"]) == 2:
            inputs["decoder_input_ids"] = torch.tensor([decoder_ids])
        out = model(**inputs, **({} if family is BERT else {"use_cache": False}))
    write_steps(path, recorder.steps(rows(out.logits) if hasattr(out, "logits") else None))


def recorded_ids(checkpoint):
    try:
        e = json.load(open(os.path.join(checkpoint, "expected.json")))
    except OSError:
        raise SystemExit(f"{checkpoint}: no expected.json here: say --ids")
    return e.get("tokens") or e.get("encoder_tokens") or e["texts"][0], e.get("decoder_tokens", [])


def numbers(text):
    return [int(x) for x in text.replace(",", " ").split()]


def check(o):
    with tempfile.TemporaryDirectory() as folder:
        ids, decoder_ids = (numbers(o.ids), numbers(o.decoder_ids)) if o.ids else recorded_ids(o.checkpoint)
        ours, reference, model = os.path.join(folder, "ours"), os.path.join(folder, "reference"), o.model
        if not model:
            model = os.path.join(folder, "model.bin")
            subprocess.run([o.convert, o.checkpoint, "-o", model, "--type", "f32"], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([o.taps, model, "-o", ours, "--ids", " ".join(map(str, ids)), "--decoder-ids", " ".join(map(str, decoder_ids))], check=True)
        dump(o.checkpoint, ids, decoder_ids, reference)
        return compare(ours, reference, o.tolerance, o.verbose)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("command", choices=["check", "dump", "compare"])
    a.add_argument("paths", nargs="+")
    a.add_argument("-o", "--output")
    a.add_argument("--ids")
    a.add_argument("--decoder-ids", default="")
    a.add_argument("--model")
    a.add_argument("--taps", default="build/taps")
    a.add_argument("--convert", default="./convert")
    a.add_argument("--tolerance", type=float, default=1e-3)
    a.add_argument("-v", "--verbose", action="store_true")
    o = a.parse_args()
    o.checkpoint = o.paths[0]
    if o.command == "check":
        ok = check(o)
    elif o.command == "dump":
        dump(o.checkpoint, *((numbers(o.ids), numbers(o.decoder_ids)) if o.ids else recorded_ids(o.checkpoint)), o.output)
        ok = True
    else:
        ok = compare(o.paths[0], o.paths[1], o.tolerance, o.verbose)
    raise SystemExit(0 if ok else 1)


if __name__ == "__main__":
    main()
