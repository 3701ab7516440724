#!/usr/bin/env python3
"""Writes tests/fixtures/gguf/ with the gguf package (pip install gguf): golden checkpoints as llama.cpp's converter lays them out,
in F32, F16 and BF16, and random raw blocks of every quantised type with the package's own dequantize beside them; and the fuzzer's seeds.

    python tests/tools/make_gguf.py [golden_dir] [out_dir]
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np
import gguf

TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def safetensors(path):
    raw = Path(path).read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    for name, t in json.loads(raw[8:8 + n]).items():
        if name == "__metadata__":
            continue
        data = raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
        if t["dtype"] == "F32":
            x = np.frombuffer(data, np.float32)
        elif t["dtype"] == "F16":
            x = np.frombuffer(data, np.float16).astype(np.float32)
        elif t["dtype"] != "BF16":
            continue  # masks
        else:
            x = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        yield name, x.reshape(t["shape"])


def new_name(name):
    stem, _, suffix = name.rpartition(".")
    if stem in NAMES:
        return NAMES[stem] + "." + suffix
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{suffix}"


def interleave(x, heads):
    """llama.cpp's order of a head's rows."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def llama3_factors(s, theta, dim):
    out = []
    for i in range(0, dim, 2):
        f = np.float32(1.0) / np.float32(theta ** np.float32(i / dim))
        wave, old = 2 * np.pi / f, s["original_max_position_embeddings"]
        if wave < old / s["high_freq_factor"]:
            out.append(1)
        elif wave > old / s["low_freq_factor"]:
            out.append(s["factor"])
        else:
            smooth = (old / wave - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
            out.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(out, np.float32)


def vocabulary(w, c):
    """A token for each byte, and the rest unused: enough for any text."""
    n = c["vocab_size"]
    w.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(min(256, n - 3))]
    types = [2, 3, 3] + [6] * (len(tokens) - 3)
    tokens += [f"[PAD{i}]" for i in range(len(tokens), n)]
    types += [5] * (n - len(types))
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * n)
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_chat_template("{{ messages[0].content }}")


def stored(w, name, x, kind):
    """Vectors stay f32, as llama.cpp's converter has it."""
    if kind == "bf16" and x.ndim > 1:
        w.add_tensor(name, gguf.quantize(x, gguf.GGMLQuantizationType.BF16), raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        w.add_tensor(name, np.ascontiguousarray(x.astype(np.float16) if kind == "f16" and x.ndim > 1 else x))


def model(folder, out, kind):
    c = json.loads((folder / "config.json").read_text())
    arch = {"mistral": "llama"}.get(c["model_type"], c["model_type"])
    w = gguf.GGUFWriter(out, arch)
    heads, kv = c["num_attention_heads"], c.get("num_key_value_heads") or c["num_attention_heads"]
    dim = c.get("head_dim") or c["hidden_size"] // heads
    theta = c.get("rope_theta", 10000.0)
    w.add_name(folder.name)
    w.add_file_type({"f32": 0, "f16": 1, "bf16": 32}[kind])
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(theta)
    w.add_vocab_size(c["vocab_size"])
    if "head_dim" in c:
        w.add_key_length(dim)
        w.add_value_length(dim)
    if arch == "llama":
        w.add_rope_dimension_count(dim)
    if c["model_type"] == "mistral" and c.get("sliding_window"):
        w.add_sliding_window(c["sliding_window"])
    vocabulary(w, c)
    scaling = c.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(scaling, theta, dim))
    for name, x in safetensors(folder / "model.safetensors"):
        if name == "lm_head.weight" and c.get("tie_word_embeddings"):
            continue
        if arch == "llama" and ".q_proj." in name:
            x = interleave(x, heads)
        if arch == "llama" and ".k_proj." in name:
            x = interleave(x, kv)
        stored(w, new_name(name), x, kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def blocks(out):
    """Two rows of three blocks for each type; scales are any finite f16, everything else any byte."""
    rng = np.random.default_rng(4)
    w = gguf.GGUFWriter(out / "types.gguf", "blocks")
    expected = b""
    for name in TYPES:
        t = gguf.GGMLQuantizationType[name]
        weights, size = gguf.GGML_QUANT_SIZES[t]
        raw = rng.integers(0, 256, (2, 3 * size), np.uint8)
        for row in raw:
            for b in range(3):
                for at in {"Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0]}.get(name, [0, 2]):
                    half = row[b * size + at:b * size + at + 2]
                    if half[1] & 0x7C == 0x7C:
                        half[1] &= 0xBB
        w.add_tensor(name, raw, raw_dtype=t)
        expected += gguf.dequantize(raw, t).astype("<f4").tobytes()
    for name, x in (("F32", rng.standard_normal((2, 96)).astype(np.float32)), ("F16", rng.standard_normal((2, 96)).astype(np.float16))):
        w.add_tensor(name, x)
        expected += x.astype("<f4").tobytes()
    x = gguf.quantize(rng.standard_normal((2, 96)).astype(np.float32), gguf.GGMLQuantizationType.BF16)
    w.add_tensor("BF16", x, raw_dtype=gguf.GGMLQuantizationType.BF16)
    expected += gguf.dequantize(x, gguf.GGMLQuantizationType.BF16).astype("<f4").tobytes()
    w.add_uint8("a.u8", 200); w.add_int8("a.i8", -100); w.add_uint16("a.u16", 60000); w.add_int16("a.i16", -30000)
    w.add_uint32("a.u32", 4000000000); w.add_int32("a.i32", -2000000000); w.add_float32("a.f32", 0.1); w.add_bool("a.bool", True)
    w.add_uint64("a.u64", 1 << 40); w.add_int64("a.i64", -(1 << 40)); w.add_float64("a.f64", 0.1); w.add_string("a.string", "h\u00e9")
    w.add_array("a.ints", [1, 2, 3]); w.add_array("a.strings", ["x", "", "yz"]); w.add_array("a.floats", [0.5, 1.5])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    (out / "types.bin").write_bytes(expected)


def seed(out, spm):
    """A model of one layer for the fuzzer, with either kind of vocabulary and a kind of rope scaling."""
    rng = np.random.default_rng(5)
    w = gguf.GGUFWriter(out, "llama")
    w.add_block_count(1)
    w.add_context_length(256)
    w.add_embedding_length(32)
    w.add_feed_forward_length(32)
    w.add_head_count(2)
    w.add_head_count_kv([1])
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN if spm else gguf.RopeScalingType.NONE)
    w.add_rope_scaling_factor(4.0 if spm else 1.0)
    w.add_tokenizer_model("llama" if spm else "gpt2")
    w.add_tokenizer_pre("default" if spm else "llama-bpe")
    tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", "\u2581" if spm else "\u0120", "c" if not spm else "<0x41>"]
    w.add_token_list(tokens)
    w.add_token_types([2, 3, 3, 1, 1, 1, 4 if spm else 1, 6 if spm else 1])
    if spm:
        w.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, 0.0])
    else:
        w.add_token_merges(["a b"])
        w.add_tensor("rope_freqs.weight", np.linspace(1, 8, 8).astype(np.float32))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (32, 32),
              "ffn_up": (32, 32), "ffn_down": (32, 32), "attn_norm": (32,), "ffn_norm": (32,)}
    w.add_tensor("token_embd.weight", rng.standard_normal((8, 32)).astype(np.float16))
    w.add_tensor("output_norm.weight", np.ones(32, np.float32))
    for i, (name, shape) in enumerate(shapes.items()):
        x = rng.standard_normal(shape).astype(np.float32)
        t = gguf.GGMLQuantizationType[["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F32"][i % 7]] if len(shape) > 1 else gguf.GGMLQuantizationType.F32
        w.add_tensor(f"blk.0.{name}.weight", gguf.quantize(x, t), raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


ATTENTION = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32)}
QKV = {"attn_qkv": (96, 32), "attn_output": (32, 32)}
MLP = {"ffn_up": (32, 32), "ffn_down": (32, 32), "ffn_norm": (32,)}
GATED = dict(MLP, ffn_gate=(32, 32))
T5 = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_o": (32, 32), "attn_rel_b": (32, 2), "attn_norm": (32,)}
OTHERS = {  # arch: tensors of its one layer, others, keys
    "gptneox": ({"blk.0.": dict(QKV, **MLP, attn_norm=(32,))}, {"output": (8, 32)}, {"use_parallel_residual": True}),
    "falcon": ({"blk.0.": dict(QKV, **MLP, attn_norm=(32,), attn_norm_2=(32,))}, {}, {}),
    "stablelm": ({"blk.0.": dict(ATTENTION, **GATED, attn_norm=(32,), attn_q_norm=(2, 16), attn_k_norm=(2, 16))}, {"output": (8, 32)}, {}),
    "gemma3n": ({"blk.0.": dict(ATTENTION, **GATED, attn_norm=(32,), attn_q_norm=(16,), attn_k_norm=(16,), post_attention_norm=(32,), post_ffw_norm=(32,),
                                inp_gate=(32, 32), proj=(32, 32), post_norm=(32,), altup_correct_coef=(4, 4), altup_correct_scale=(32,),
                                altup_predict_coef=(16, 4), altup_router=(4, 32), altup_router_norm=(32,), laurel_l=(32, 32), laurel_r=(32, 32),
                                laurel_post_norm=(32,))},
                {"altup_proj": (3, 32, 32), "altup_unembd_proj": (3, 32, 32), "per_layer_token_embd": (8, 32), "per_layer_model_proj": (32, 32),
                 "per_layer_proj_norm": (32,)},
                {"altup.num_inputs": 4, "altup.active_idx": 0, "embedding_length_per_layer_input": 32, "attention.shared_kv_layers": 0,
                 "activation_sparsity_scale": [1.6], "attention.sliding_window_pattern": [True], "attention.sliding_window": 8}),
    "t5": ({"enc.blk.0.": dict(T5, **GATED), "dec.blk.0.": dict(T5, **GATED, cross_attn_norm=(32,), cross_attn_q=(32, 32), cross_attn_k=(32, 32),
                                                                cross_attn_v=(32, 32), cross_attn_o=(32, 32))},
           {"enc.output_norm": (32,), "dec.output_norm": (32,)}, {"decoder_start_token_id": 0, "attention.relative_buckets_count": 32}),
    "bert": ({"blk.0.": dict(ATTENTION, ffn_up=(32, 32), ffn_down=(32, 32), attn_output_norm=(32,), layer_output_norm=(32,))},
             {"token_types": (2, 32), "position_embd": (64, 32), "token_embd_norm": (32,)}, {"attention.causal": False, "pooling_type": 1}),
}


def other_seed(out, arch):
    """A model of one layer of another architecture, with its kind of vocabulary."""
    layers, others, keys = OTHERS[arch]
    rng = np.random.default_rng(6)
    w = gguf.GGUFWriter(out, arch)
    w.add_block_count(1)
    w.add_context_length(64)
    w.add_embedding_length(32)
    w.add_feed_forward_length(32)
    w.add_head_count(2)
    w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_layer_norm_eps(1e-5)
    for key, x in keys.items():
        add = w.add_array if isinstance(x, list) else w.add_bool if isinstance(x, bool) else w.add_uint32
        add(f"{arch}.{key}", x)
    kind = {"t5": "t5", "bert": "bert"}.get(arch, "gpt2")
    w.add_tokenizer_model(kind)
    w.add_tokenizer_pre("default")
    w.add_token_list({"t5": ["<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "b", "ab", "c"],
                      "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581a", "b", "\u2581ab", "c"]}.get(kind, ["a", "b", "ab", "c", "d", "e", "f", "g"]))
    w.add_token_types({"t5": [3, 3, 2, 1, 1, 1, 4, 5], "bert": [3, 3, 3, 3, 1, 1, 1, 1]}.get(kind, [1] * 8))
    if kind == "t5":
        w.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0])
        w.add_precompiled_charsmap(b"\x04\x00\x00\x00\x00\x00\x00\x00")
    elif kind == "bert":
        w.add_uint32("tokenizer.ggml.unknown_token_id", 1)
        w.add_uint32("tokenizer.ggml.cls_token_id", 2)
        w.add_uint32("tokenizer.ggml.seperator_token_id", 3)
    else:
        w.add_token_merges(["a b"])
    tensors = {"token_embd": (8, 32), "output_norm": (32,), **others, **{p + n: s for p, each in layers.items() for n, s in each.items()}}
    for name, shape in tensors.items():
        norm = "norm" in name
        t = gguf.GGMLQuantizationType.Q4_0 if len(shape) > 1 and shape[-1] % 32 == 0 and not norm else gguf.GGMLQuantizationType.F32
        w.add_tensor(name + ".weight", gguf.quantize(rng.standard_normal(shape).astype(np.float32), t), raw_dtype=t)
        if arch in ("gptneox", "bert", "stablelm", "falcon") and (norm or arch in ("gptneox", "bert")) and "embd" not in name.replace("token_embd_norm", "") \
                and name not in ("output", "token_types") and "q_norm" not in name and "k_norm" not in name:
            w.add_tensor(name + ".bias", np.zeros(shape[0], np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    golden = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/golden")
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "tests/fixtures/gguf")
    out.mkdir(parents=True, exist_ok=True)
    for name, kind in [(n, k) for n in ("llama", "llama3", "qwen2") for k in ("f32", "f16")] + [("qwen3", "bf16")]:
        model(golden / name, out / f"{name}-{kind}.gguf", kind)
    blocks(out)
    seeds = Path("tests/fuzz/seeds/fuzz_gguf")
    seeds.mkdir(parents=True, exist_ok=True)
    seed(seeds / "spm", True)
    seed(seeds / "bpe", False)
    for arch in OTHERS:
        other_seed(seeds / arch, arch)


if __name__ == "__main__":
    main()
