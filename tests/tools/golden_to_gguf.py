#!/usr/bin/env python3
"""Golden checkpoints as GGUF files, laid out as llama.cpp's converter does it (pip install gguf; names are the package's own), and the
comparison of what ./convert makes of both: logits of the case's tokens, for F32 and F16 weights.

    python tests/tools/golden_to_gguf.py                 compares every case of the table; needs ./convert and ./run
    python tests/tools/golden_to_gguf.py --fixtures DIR  writes how each is made, which tests/archs_test.c follows

What a GGUF file cannot say is changed in the checkpoint that it is compared with: see EDITS.
"""
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from make_gguf import interleave, llama3_factors, safetensors

GOLDEN = Path("tests/fixtures/golden")
ARCHS = {"llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen2_moe": "qwen2moe",
         "qwen3_moe": "qwen3moe", "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "gemma3n_text": "gemma3n",
         "phi": "phi2", "phi3": "phi3", "gpt2": "gpt2", "gpt_neox": "gptneox", "olmo": "olmo", "olmo2": "olmo2",
         "granite": "granite", "smollm3": "smollm3", "cohere": "command-r", "stablelm": "stablelm", "starcoder2": "starcoder2",
         "falcon": "falcon", "t5": "t5", "bert": "bert"}
EDITS = {
    "t5": {"relative_attention_max_distance": 128},   # 128 in llama.cpp
    "t5_v11": {"relative_attention_max_distance": 128},
    "starcoder2": {"sliding_window": None},           # not written
    "gemma2": {"query_pre_attn_scalar": "head_dim"},  # llama.cpp knows it by the number of layers
    "gemma3": {"query_pre_attn_scalar": "head_dim"},
    "gemma3_v5": {"query_pre_attn_scalar": "head_dim"},
    "qwen2_moe": {"norm_topk_prob": False, "use_sliding_window": False},
    "qwen3_moe_window": {"norm_topk_prob": True, "use_sliding_window": False},
}
LEFT_OUT = ["phi_qk", "falcon_serial", "bert_dense"]  # llama.cpp has no such models
FIXTURES = ["cohere_qk", "stablelm_qk", "falcon_old", "falcon_one_norm", "mixtral", "qwen2_moe", "qwen3_moe", "gemma", "gemma2", "gemma3", "gemma3n", "gemma3n_mixed", "phi", "phi3", "gpt2", "gpt_neox", "olmo",
            "olmo2", "granite", "smollm3", "cohere", "stablelm", "starcoder2", "falcon", "t5", "t5_v11", "bert"]


def config_of(folder):
    c = json.loads((folder / "config.json").read_text())
    for key, x in EDITS.get(folder.name, {}).items():
        c[key] = c[x] if isinstance(x, str) else x
    return c


def rope_of(c):
    r = dict(c.get("rope_parameters") or c.get("rope_scaling") or {})
    r = dict(r.get("full_attention", r), **{"local": (r.get("sliding_attention") or {}).get("rope_theta")})
    r.setdefault("rope_theta", c.get("rope_theta", c.get("rotary_emb_base", 10000.0)))
    r["type"] = r.get("rope_type", r.get("type"))
    return r


def value(c, *keys, otherwise=None):
    for k in keys:
        if c.get(k) is not None:
            return c[k]
    return otherwise


# ---- metadata ----

def parameters(w, c, arch):
    hidden, heads = value(c, "hidden_size", "n_embd", "d_model"), value(c, "num_attention_heads", "n_head", "num_heads")
    ff = value(c, "intermediate_size", "n_inner", "d_ff", "ffn_hidden_size", otherwise=4 * hidden)
    w.add_block_count(value(c, "num_hidden_layers", "n_layer", "num_layers"))
    w.add_context_length(value(c, "max_position_embeddings", "n_positions", otherwise=2048))
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(ff)
    w.add_head_count(heads)
    if arch not in ("gpt2", "gptneox", "t5", "bert"):
        kv = value(c, "num_key_value_heads", "num_kv_heads", otherwise=heads)
        w.add_head_count_kv(kv if c.get("new_decoder_architecture", True) or not c.get("multi_query", True) else 1)
    if "rms_norm_eps" in c:
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    layer_eps = value(c, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", otherwise=1e-5 if arch == "olmo" else None)
    if layer_eps is not None:
        w.add_layer_norm_eps(layer_eps)
    if arch == "t5":
        w.add_layer_norm_rms_eps(c["layer_norm_epsilon"])
    if value(c, "head_dim", "d_kv") and arch != "granite":
        w.add_key_length(value(c, "head_dim", "d_kv"))
        w.add_value_length(value(c, "head_dim", "d_kv"))
    return hidden, heads


def rotation(w, c, arch, hidden, heads):
    r, dim = rope_of(c), value(c, "head_dim", otherwise=hidden // heads)
    partial = r.get("partial_rotary_factor", value(c, "partial_rotary_factor", "rotary_pct", otherwise={"phi2": 0.5, "stablelm": 0.25, "gptneox": 0.25}.get(arch)))
    if arch in ("t5", "bert", "gpt2"):
        return
    if partial and arch in ("phi2", "phi3", "stablelm", "gptneox"):
        w.add_rope_dimension_count(int(partial * hidden) // heads if arch.startswith("phi") else int(partial * dim))
    elif arch in ("llama", "granite", "smollm3", "phi3"):
        w.add_rope_dimension_count(dim)
    w.add_rope_freq_base(r["rope_theta"])
    local = value(c, "rope_local_base_freq", otherwise=r["local"])
    if local is not None:
        w.add_rope_freq_base_swa(local)
    if r["type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(r["factor"])
    elif r["type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(r, r["rope_theta"], dim))
    elif r["type"] == "longrope":
        original = value(c, "original_max_position_embeddings", otherwise=r.get("original_max_position_embeddings"))
        scale = c["max_position_embeddings"] / original
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_rope_scaling_attn_factors(np.sqrt(1 + np.log(scale) / np.log(original)) if scale > 1 else 1.0)
        for kind in ("long", "short"):
            w.add_tensor(f"rope_factors_{kind}.weight", np.array(r[f"{kind}_factor"], np.float32))
    if arch == "command-r":
        w.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def own_parameters(w, c, arch):
    window = c.get("sliding_window")
    if window and arch in ("gemma2", "gemma3", "gemma3n", "phi3") or c["model_type"] == "mistral" and window:
        w.add_sliding_window(window)
    for key, add in (("attn_logit_softcapping", w.add_attn_logit_softcapping), ("final_logit_softcapping", w.add_final_logit_softcapping),
                     ("attention_multiplier", w.add_attention_scale), ("embedding_multiplier", w.add_embedding_scale),
                     ("residual_multiplier", w.add_residual_scale), ("logits_scaling", w.add_logit_scale), ("logit_scale", w.add_logit_scale),
                     ("num_local_experts", w.add_expert_count), ("num_experts", w.add_expert_count),
                     ("num_experts_per_tok", w.add_expert_used_count), ("moe_intermediate_size", w.add_expert_feed_forward_length),
                     ("shared_expert_intermediate_size", w.add_expert_shared_feed_forward_length)):
        if c.get(key):
            add(c[key])
    if arch in ("gptneox", "stablelm"):
        w.add_parallel_residual(c.get("use_parallel_residual", True))
    if arch == "falcon":
        w.add_tensor_data_layout("jploski")
    if arch == "gemma3" and c.get("layer_types"):
        w.add_sliding_window_pattern([t == "sliding_attention" for t in c["layer_types"]])
    if arch == "gemma3n":
        from torch import tensor
        from torch.distributions import Normal
        w.add_altup_active_idx(c["altup_active_idx"])
        w.add_altup_num_inputs(c["altup_num_inputs"])
        w.add_embedding_length_per_layer_input(c["hidden_size_per_layer_input"])
        w.add_shared_kv_layers(c["num_kv_shared_layers"])
        w.add_activation_sparsity_scale([Normal(0, 1).icdf(tensor(float(s))).item() for s in c["activation_sparsity_pattern"]])
        types = c.get("layer_types") or ["full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(c["num_hidden_layers"])]
        w.add_sliding_window_pattern([t == "sliding_attention" for t in types])
    if arch == "t5":
        w.add_decoder_block_count(value(c, "num_decoder_layers", otherwise=c["num_layers"]))
        w.add_relative_attn_buckets_count(c["relative_attention_num_buckets"])
        w.add_decoder_start_token_id(c["decoder_start_token_id"])
    if arch == "bert":
        w.add_causal_attention(False)
        w.add_pooling_type(gguf.PoolingType.MEAN)


# ---- tensors ----

def ungroup(x, heads, kv):
    """For each key and value its queries, its key, its value: to all queries, all keys, all values."""
    dim = x.shape[0] // (heads + 2 * kv)
    g = x.reshape(kv, heads // kv + 2, dim, *x.shape[1:])
    return np.concatenate([g[:, :-2].reshape(-1, *x.shape[1:]), g[:, -2].reshape(-1, *x.shape[1:]), g[:, -1].reshape(-1, *x.shape[1:])])


OPS = {"same": lambda x: x, "interleave": interleave, "plus": lambda x, y: x + np.float32(y), "turn": lambda x: x.T, "ungroup": ungroup}


def laid_out(c, arch, tensors):
    """(name, the checkpoint's tensors that are stacked under it, [operation, numbers]) as llama.cpp's converter stores them."""
    heads = value(c, "num_attention_heads", "n_head", "num_heads")
    kv = value(c, "num_key_value_heads", "num_kv_heads", otherwise=heads)
    if arch == "falcon" and not c.get("new_decoder_architecture"):
        kv = 1 if c.get("multi_query", True) else heads
    stacks = {}
    for name, x in tensors:
        if name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq", "embeddings.position_ids")) or name.startswith("pooler.") \
                or arch == "gptneox" and name.endswith((".attention.bias", ".masked_bias")):
            continue
        if name in ("lm_head.weight", "embed_out.weight") and (c.get("tie_word_embeddings", arch.startswith("gemma")) or arch == "t5" and "tie_word_embeddings" not in c):
            continue
        if arch == "t5" and name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            continue
        op = ["same"]
        if arch in ("llama", "granite", "smollm3", "olmo") and (".q_proj." in name or ".k_proj." in name):
            op = ["interleave", heads if ".q_proj." in name else kv]
        if arch in ("gemma", "gemma2", "gemma3") and name.endswith("norm.weight"):
            op = ["plus", 1]
        if arch == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            op = ["turn"]
        if arch in ("gptneox", "falcon") and "query_key_value" in name:
            op = ["ungroup", heads, kv]
        parts = name.split(".")
        stacked = [i for i, p in enumerate(parts) if p.isdigit() and parts[i - 1] in ("experts", "norms", "altup_projections", "altup_unembed_projections")]
        if stacked:
            i = stacked[0]
            keep = parts[:i] + parts[i + 1:] if parts[i - 1] != "norms" else parts[:i - 1] + parts[i + 1:]
            stacks.setdefault(".".join(keep), {})[int(parts[i])] = (name, x)
            continue
        yield (name + ".weight" if name.endswith("_scale") else name), [(name, x)], op
    for name, each in stacks.items():
        yield name, [each[i] for i in range(len(each))], ["same"]


def built(sources, op):
    x = [OPS[op[0]](x, *op[1:]) for _, x in sources]
    return x[0] if len(x) == 1 else np.stack(x)


def stored(w, name, x, kind):
    """Vectors stay f32."""
    half = kind == "f16" and x.ndim > 1 and "_norm" not in name
    w.add_tensor(name, np.ascontiguousarray(x.astype(np.float16) if half else x.astype(np.float32)))


def write(folder, out, kind):
    c = config_of(folder)
    arch = ARCHS[c["model_type"]]
    w = gguf.GGUFWriter(out, arch)
    w.add_name(folder.name)
    hidden, heads = parameters(w, c, arch)
    rotation(w, c, arch, hidden, heads)
    own_parameters(w, c, arch)
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch],
                                     value(c, "num_hidden_layers", "n_layer", "num_layers"))
    dense = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1024)  # the MLP of a layer without experts
    recipe = []
    for name, sources, op in laid_out(c, arch, tensors_of(folder)):
        new = names.get_name(name, try_suffixes=(".weight", ".bias")) or dense.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise SystemExit(f"{folder.name}: {name}: the gguf package has no name for it in {arch}")
        x = built(sources, op)
        stored(w, new, x, kind)
        recipe.append([new, list(x.shape), op, [n for n, _ in sources]])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return c, recipe


def write_recipe(folder, out):
    """How the file is made of the checkpoint, for tests/archs_test.c: its metadata as they are, its tensors by their sources."""
    with tempfile.TemporaryDirectory() as t:
        path = Path(t) / "model.gguf"
        c, recipe = write(folder, path, "f32")
        raw, r = path.read_bytes(), gguf.GGUFReader(path)
        end = max(f.offset + sum(p.nbytes for p in f.parts) for f in r.fields.values())
        known = {name for name, *_ in recipe}
        recipe += [[t.name, [len(t.data)], ["values", *map(float, t.data)], []] for t in r.tensors if t.name not in known]
        n_kv = struct.unpack("<Q", raw[16:24])[0]
    out.write_text(json.dumps({"config": json.dumps(c), "n_kv": n_kv, "kv": raw[24:end].hex(), "tensors": recipe}).replace('], ["', '],\n["') + "\n")


def tensors_of(folder):
    for path in sorted(folder.glob("*.safetensors")):
        yield from safetensors(path)


# ---- comparison ----

def reference(folder, out, kind):
    """The checkpoint with the edits, its matrices rounded as the GGUF file has them."""
    out.mkdir()
    c = config_of(folder)
    (out / "config.json").write_text(json.dumps(c))
    for extra in ("modules.json", "1_Pooling"):
        if (folder / extra).exists():
            subprocess.run(["cp", "-r", folder / extra, out], check=True)
    header, data = {}, b""
    for name, x in tensors_of(folder):
        half = kind == "f16" and x.ndim > 1 and "norm" not in name
        raw = x.astype("<f2" if half else "<f4").tobytes()
        header[name] = {"dtype": "F16" if half else "F32", "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def logits(folder, path, tmp):
    e = json.loads((folder / "expected.json").read_text())
    model, out = tmp / "model.bin", tmp / "logits"
    subprocess.run(["./convert", path, "-o", model, "--type", "f32", "--force"], check=True, stderr=subprocess.PIPE)
    ids = " ".join(map(str, e.get("tokens") or e.get("encoder_tokens") or e["texts"][0]))
    more = ["--embed"] if "texts" in e else ["-n", "0", "--dump-logits", out]
    if "decoder_tokens" in e:
        more += ["--decoder-ids", " ".join(map(str, e["decoder_tokens"]))]
    r = subprocess.run(["./run", model, "--ids", ids, "--exact", *more], check=True, capture_output=True)
    return np.array(json.loads(r.stdout), np.float32) if "texts" in e else np.fromfile(out, np.float32)


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "--fixtures":
        for name in FIXTURES:
            write_recipe(GOLDEN / name, Path(sys.argv[2]) / f"{name}.json")
        return
    worst = 0
    for folder in sorted(GOLDEN.iterdir()):
        kind_of = json.loads((folder / "expected.json").read_text()).get("kind")
        if folder.name in LEFT_OUT or (json.loads((folder / "config.json").read_text()).get("model_type") not in ARCHS if (folder / "config.json").exists() else True):
            print(f"{folder.name:20} left out ({kind_of})")
            continue
        for kind in ("f32", "f16"):
            with tempfile.TemporaryDirectory() as t:
                tmp = Path(t)
                write(folder, tmp / "model.gguf", kind)
                reference(folder, tmp / "ref", kind)
                try:
                    want, have = logits(folder, tmp / "ref", tmp), logits(folder, tmp / "model.gguf", tmp)
                except subprocess.CalledProcessError as e:
                    print(f"{folder.name:20} {kind}  FAILED: {e.stderr.decode(errors='replace').strip()}")
                    worst = np.inf
                    continue
                d = np.abs(want - have).max() / max(want.std(), 1e-6) if want.shape == have.shape else np.inf
                worst = max(worst, d)
                print(f"{folder.name:20} {kind}  {'the same bits' if want.tobytes() == have.tobytes() else f'off by {d:.1e} of the deviation'}")
    print("worst", worst)
    sys.exit(not worst < 1e-4)  # gemma3n: the converter's own quantile is in f32


if __name__ == "__main__":
    main()
