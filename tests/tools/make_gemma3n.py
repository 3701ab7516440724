#!/usr/bin/env python3
"""Makes a random Gemma 3n checkpoint whose per-layer embeddings have the size of a published one (262144 rows of 30 layers x 256:
two thousand million numbers), sharded bf16, to see what a run of it keeps in memory (gemma3n_memory.py). The rest of the model is
narrower than the real one, so that all of it takes about 6 GB of disk; the options make it as wide as wanted. Memory stays small
whatever the size: the tensors are written as a stream. Needs numpy.

    tests/tools/make_gemma3n.py FOLDER [--hidden 1024] [--ff 4096] [--layers 30] [--vocab 262400] [--vocab-per-layer 262144]
"""
import argparse
import json
import math
import os
import struct

import numpy as np

PIECE = 1 << 24  # values made at a time


def config(o):
    kinds = ["full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(o.layers)]
    return {
        "architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text", "torch_dtype": "bfloat16",
        "vocab_size": o.vocab, "vocab_size_per_layer_input": o.vocab_per_layer, "hidden_size": o.hidden,
        "hidden_size_per_layer_input": 256, "intermediate_size": [o.ff] * o.layers, "num_hidden_layers": o.layers,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "sliding_window": 512, "num_kv_shared_layers": o.layers // 3, "layer_types": kinds,
        "activation_sparsity_pattern": [0.95 if i < 10 else 0.0 for i in range(o.layers)], "altup_active_idx": 0,
        "altup_num_inputs": 4, "laurel_rank": 64, "final_logit_softcapping": 30.0, "bos_token_id": 2, "eos_token_id": 1,
    }


def tensors(o):
    """Name, shape and standard deviation (0: all ones) of each tensor, as published checkpoints name them."""
    d, p, m = o.hidden, 256, "model."
    yield m + "embed_tokens.weight", (o.vocab, d), 0.1
    yield m + "per_layer_model_projection.weight", (o.layers * p, d), d ** -0.5
    yield m + "per_layer_projection_norm.weight", (p,), 0
    for i in range(3):
        yield f"{m}altup_projections.{i}.weight", (d, d), d ** -0.5
        yield f"{m}altup_unembed_projections.{i}.weight", (d, d), d ** -0.5
    for i in range(o.layers):
        at = f"{m}layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
                     "laurel.post_laurel_norm", "post_per_layer_input_norm", "altup.router_norm"):
            yield f"{at}{name}.weight", (d,), 0
        yield at + "altup.correct_output_scale", (d,), 0
        for name, rows, inputs in (("self_attn.q_proj", 8 * 256, d), ("self_attn.k_proj", 2 * 256, d),
                                   ("self_attn.v_proj", 2 * 256, d), ("self_attn.o_proj", d, 8 * 256), ("mlp.gate_proj", o.ff, d),
                                   ("mlp.up_proj", o.ff, d), ("mlp.down_proj", d, o.ff), ("laurel.linear_left", 64, d),
                                   ("laurel.linear_right", d, 64), ("per_layer_input_gate", p, d), ("per_layer_projection", d, p),
                                   ("altup.modality_router", 4, d), ("altup.prediction_coefs", 16, 4),
                                   ("altup.correction_coefs", 4, 4)):
            yield f"{at}{name}.weight", (rows, inputs), inputs ** -0.5
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            yield f"{at}{name}.weight", (256,), 0
    yield m + "norm.weight", (d,), 0


def bf16(values):
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_shard(path, rows, random):
    header, at = {}, 0
    for name, shape, _ in rows:
        n = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # 256 quantiles of the normal distribution: a number is one random byte
    normal = np.sort(np.random.default_rng(0).standard_normal(256 * 64)).reshape(256, 64).mean(1)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, shape, std in rows:
            table = bf16(normal * std if std else np.ones(256))
            left = math.prod(shape)
            while left:
                n = min(left, PIECE)
                table[np.frombuffer(random.bytes(n), np.uint8)].tofile(f)
                left -= n
    return at


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder")
    a.add_argument("--hidden", type=int, default=1024)
    a.add_argument("--ff", type=int, default=4096)
    a.add_argument("--layers", type=int, default=30)
    a.add_argument("--vocab", type=int, default=262400)
    a.add_argument("--vocab-per-layer", type=int, default=262144)
    o = a.parse_args()
    os.makedirs(o.folder, exist_ok=True)
    with open(os.path.join(o.folder, "config.json"), "w") as f:
        json.dump(config(o), f, indent=2)
    table = [("model.embed_tokens_per_layer.weight", (o.vocab_per_layer, o.layers * 256), 0.05)]
    shards = [list(tensors(o)), table]
    random, total, places = np.random.default_rng(1), 0, {}
    for i, rows in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        total += write_shard(os.path.join(o.folder, name), rows, random)
        places |= {row[0]: name for row in rows}
    with open(os.path.join(o.folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": places}, f)
    print(f"{o.folder}: {total / 1e9:.2f} GB, per-layer embeddings {math.prod(table[0][1]) / 1e6:.0f} M numbers")


if __name__ == "__main__":
    main()
