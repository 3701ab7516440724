#!/usr/bin/env python3
"""Makes the fixtures of --matformer: a tiny Gemma 3n with the 35 layers of E4B (tests/fixtures/matformer/e4b), and two slices of it
that are checkpoints of their own, with the logits that transformers computes from them in float32 (tests/fixtures/golden/
gemma3n_e2b, gemma3n_mixed). The slices are made here, by the recipe of Google's MatFormer Lab: layers are left out, the first rows
of gate and up and the first columns of down are kept, of the per-layer embeddings and their projection the parts of the kept layers,
and the layers that share keys and values are fewer by those left out.

    pip install torch transformers safetensors numpy
    tests/tools/make_matformer.py [--seed N]
"""
import argparse
import json
import os
import re

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch

torch.set_num_threads(1)
import transformers
from safetensors.torch import save_file

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
N_NEW, TOLERANCE, MIN_MARGIN = 32, 3e-4, 1e-2
FF = 32

BIG = dict(
    architectures=["Gemma3nForCausalLM"], model_type="gemma3n_text", bos_token_id=2, eos_token_id=1, pad_token_id=0, vocab_size=128,
    vocab_size_per_layer_input=120, hidden_size=24, hidden_size_per_layer_input=8, intermediate_size=[FF] * 35, num_hidden_layers=35,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=128,
    rms_norm_eps=1e-2, rope_theta=1000000.0, rope_local_base_freq=10000.0, rope_scaling=None, sliding_window=8,
    num_kv_shared_layers=15, layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 7,
    activation_sparsity_pattern=[0.95] * 10 + [0.0] * 25, altup_active_idx=0, altup_coef_clip=120.0, altup_correct_scale=True,
    altup_num_inputs=4, laurel_rank=4, final_logit_softcapping=6.0, torch_dtype="bfloat16")

# name: layers left out, widths of those that are kept; the first is E2B
SLICES = {
    "gemma3n_e2b": (list(range(20, 25)), [FF // 2] * 30),
    "gemma3n_mixed": (list(range(2, 14)) + list(range(25, 34)), [16, 16, 32, 24, 32, 8, 17, 32, 32, 16, 16, 16, 30, 32]),
}


def slice_config(skip, widths):
    keep = [i for i in range(35) if i not in skip]
    c = dict(BIG, num_hidden_layers=len(keep), intermediate_size=widths)
    c["num_kv_shared_layers"] -= sum(i >= 20 for i in skip)
    for key in ("layer_types", "activation_sparsity_pattern"):
        c[key] = [BIG[key][i] for i in keep]
    return c


def slice_weights(weights, skip, widths):
    keep, out = [i for i in range(35) if i not in skip], {}
    for name, t in weights.items():
        m = re.search(r"\.layers\.(\d+)\.", name)
        if m:
            if int(m[1]) in skip:
                continue
            to = keep.index(int(m[1]))
            name = name.replace(m[0], f".layers.{to}.")
            if "mlp.gate_proj" in name or "mlp.up_proj" in name:
                t = t[:widths[to]]
            elif "mlp.down_proj" in name:
                t = t[:, :widths[to]]
        elif "per_layer_model_projection" in name:
            t = t.reshape(35, -1, t.shape[1])[keep].reshape(-1, t.shape[1])
        elif "embed_tokens_per_layer" in name:
            t = t.reshape(t.shape[0], 35, -1)[:, keep].reshape(t.shape[0], -1)
        out[name] = t.contiguous()
    return out


def model_of(config):
    return transformers.Gemma3nForCausalLM(transformers.Gemma3nTextConfig(**{k: v for k, v in config.items() if k != "torch_dtype"})).eval()


def big_weights(seed):
    """Of the scale that keeps every mechanism at work: the modality router reads a norm divided by the width."""
    random = torch.Generator().manual_seed(seed)
    scales = ((r"modality_router", 0, 6.0), (r"correction_coefs", 0, 0.2), (r"prediction_coefs", 0, 0.06), (r"correct_output_scale", 1, 0.2),
              (r"[qk]_norm\.weight", 0.6, 0.15), (r"post_.*norm\.weight", 0.3, 0.05),
              (r"norm\.weight|layernorm\.weight", 1, 0.1), (r"embed_tokens", 0, 0.1))
    out = {}
    for name, t in model_of(BIG).state_dict().items():
        if name == "lm_head.weight":
            continue
        mean, std = next(((m, s) for pattern, m, s in scales if re.search(pattern, name)), (0, t.shape[-1] ** -0.5))
        out[name] = (mean + std * torch.randn(t.shape, generator=random)).to(torch.bfloat16)
    return out


def save(folder, config, weights):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


def greedy_of(model, tokens):
    """Logits of the prompt, the greedy tokens, the logits that chose the last, and the least gap between best and second."""
    with torch.no_grad():
        out = model(tokens, use_cache=True)
        logits, greedy, margin = out.logits[0], [], float("inf")
        while True:
            last = out.logits[0, -1]
            top = last.topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            greedy.append(top.indices[0].item())
            if len(greedy) == N_NEW or margin < MIN_MARGIN * logits.std():
                return logits, greedy, last, margin
            out = model(top.indices[:1].reshape(1, 1), past_key_values=out.past_key_values, use_cache=True)


def expected(name, config, weights):
    """Of the first prompt whose greedy tokens are sure ones."""
    model = model_of(config)
    model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    model.tie_weights()
    for seed in range(400):
        tokens = torch.randint(2, config["vocab_size"], (1, 24), generator=torch.Generator().manual_seed(seed))
        tokens[0, 3] = config["vocab_size"] - 1  # beyond the per-layer embeddings
        logits, greedy, last, margin = greedy_of(model, tokens)
        std = logits.std().item()
        if len(greedy) == N_NEW and margin >= MIN_MARGIN * std and len(set(greedy)) > 5:
            break
    else:
        raise SystemExit(f"{name}: no prompt has sure greedy tokens")
    said = dict(format=1, case=name, kind="causal", model_type="gemma3n_text", made_by="tests/tools/make_matformer.py", seed=seed,
                tokens=tokens[0].tolist(), greedy=greedy, std=std, tolerance=TOLERANCE * std, min_margin=margin,
                made_with=dict(torch=torch.__version__, transformers=transformers.__version__))
    return said, logits, last


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--seed", type=int, default=1)
    weights = big_weights(a.parse_args().seed)
    cases = {name: (slice_config(*s), slice_weights(weights, *s)) for name, s in SLICES.items()}
    results = {name: expected(name, *c) for name, c in cases.items()}
    save(os.path.join(ROOT, "matformer", "e4b"), BIG, weights)
    for name, (said, logits, last) in results.items():
        folder = os.path.join(ROOT, "golden", name)
        save(folder, *cases[name])
        with open(os.path.join(folder, "expected.json"), "w") as f:
            json.dump(said, f, indent=1)
        logits.float().numpy().tofile(os.path.join(folder, "logits.bin"))
        last.float().numpy().tofile(os.path.join(folder, "last_logits.bin"))
    print({n: (r[0]["seed"], round(r[0]["std"], 4)) for n, r in results.items()})


if __name__ == "__main__":
    main()
