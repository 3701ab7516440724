#!/usr/bin/env python3
"""Writes tests/fixtures/rope.json: inverse frequencies and attention factors as transformers computes them (ROPE_INIT_FUNCTIONS) for
every kind of scaling that convert knows. inv_long: what holds for a session with more than rope_ctx positions, up to n_ctx.

    python tests/tools/make_rope.py [out_file]
"""
import json
import sys

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding  # its plain kind knows partial_rotary_factor

BRIEF, FAR = [1.0 + 0.05 * i for i in range(16)], [1.0 + 1.5 * i for i in range(16)]
LONGROPE = dict(type="longrope", short_factor=BRIEF, long_factor=FAR)
LLAMA3 = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
CASES = [  # name, head_dim, max_position_embeddings, what config.json has besides
    ("default", 64, 2048, {}),
    ("null scaling", 64, 2048, {"rope_theta": 500000.0, "rope_scaling": None}),
    ("odd theta", 80, 2048, {"rope_theta": 31623.7}),
    ("linear", 32, 4096, {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("parameters of transformers 5", 32, 4096, {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1000000.0}}),
    ("partial", 32, 4096, {"partial_rotary_factor": 0.5}),
    ("partial linear", 80, 4096, {"partial_rotary_factor": 0.4, "rope_scaling": {"type": "linear", "factor": 3.0}}),
    ("llama3", 64, 131072, {"rope_theta": 500000.0, "rope_scaling": LLAMA3}),
    ("llama3 of few dimensions", 16, 131072, {"rope_theta": 500000.0, "rope_scaling": dict(LLAMA3, factor=8.0, high_freq_factor=2.0)}),
    ("llama3 in parameters", 128, 131072, {"rope_parameters": dict(LLAMA3, rope_theta=500000.0)}),
    ("dynamic", 64, 2048, {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    ("dynamic by a half", 128, 4096, {"rope_theta": 1000000.0, "rope_scaling": {"type": "dynamic", "factor": 1.5}}),
    ("yarn", 128, 32768, {"rope_theta": 1000000.0, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}),
    ("yarn with all", 64, 163840, {"rope_scaling": {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 24,
                                                    "beta_slow": 2, "mscale": 1.0, "mscale_all_dim": 0.707, "truncate": False}}),
    ("yarn with its own attention factor", 64, 16384, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096,
                                                                        "attention_factor": 0.75}}),
    ("yarn with mscale alone", 64, 16384, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "mscale": 0.5}}),
    ("yarn of a part", 128, 65536, {"partial_rotary_factor": 0.5, "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}}),
    ("yarn without a factor", 64, 16384, {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 4096}}),
    ("yarn without the original length", 64, 16384, {"rope_scaling": {"type": "yarn", "factor": 2.0}}),
    ("longrope", 32, 131072, {"original_max_position_embeddings": 4096, "rope_scaling": LONGROPE}),
    ("longrope with its own attention factor", 32, 131072, {"original_max_position_embeddings": 4096, "rope_scaling": dict(LONGROPE, attention_factor=1.25)}),
    ("longrope with a factor", 32, 131072, {"original_max_position_embeddings": 4096, "rope_scaling": dict(LONGROPE, factor=16.0)}),
    ("two original lengths", 64, 16384, {"original_max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 4.0,
                                                                                                  "original_max_position_embeddings": 8192}}),
    ("longrope in parameters", 32, 131072, {"rope_parameters": dict(short_factor=BRIEF, long_factor=FAR, rope_type="longrope", rope_theta=10000.0,
                                                                    original_max_position_embeddings=4096)}),
]


def main():
    out = []
    for name, head_dim, positions, more in CASES:
        settings = json.loads(json.dumps(more))
        config = LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim, max_position_embeddings=positions, **settings)
        config.standardize_rope_params()
        p = config.rope_parameters
        kind = p["rope_type"]
        make = (lambda c, *_, **__: PhiRotaryEmbedding.compute_default_rope_parameters(c)) if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
        original = p.get("original_max_position_embeddings", positions)
        inv, factor = make(config, "cpu", seq_len=original if kind == "longrope" else positions)
        far, ctx, reach = None, 0, positions
        if kind == "dynamic" and p["factor"] > 1:
            ctx, reach = positions, int(p["factor"] * positions)
            far = make(config, "cpu", seq_len=reach)[0].tolist()
        if kind == "longrope":
            ctx, far = original, make(config, "cpu", seq_len=original + 1)[0].tolist()
        if kind == "yarn":
            reach = max(positions, int((p["factor"] or positions / original) * original))
        out.append({"name": name, "head_dim": head_dim, "max_position_embeddings": positions, "config": more, "inv_freq": inv.tolist(),
                    "inv_long": far, "factor": factor, "rope_ctx": ctx, "n_ctx": reach})
    text = json.dumps(out, indent=0)
    open(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/rope.json", "w").write(text + "\n")
    print(len(out), "cases, transformers", transformers.__version__, "torch", torch.__version__)


if __name__ == "__main__":
    main()
