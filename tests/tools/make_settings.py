#!/usr/bin/env python3
"""Writes cases of tests/fixtures/golden/ for settings of families that the others leave at their defaults: tiny random models, their
logits and greedy tokens as transformers computes them (and sentence-transformers, for the embedding; pip install both).

    python tests/tools/make_settings.py [--only NAME,...] [out_dir]
"""
import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

COMMON = dict(vocab_size=192, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
              bos_token_id=1, eos_token_id=2)
FALCON = dict(COMMON, model_type="falcon", alibi=False, bias=False, layer_norm_epsilon=1e-2, rope_theta=10000.0)
CASES = {
    "phi_qk": ("PhiForCausalLM", "LayerNorm with bias on each head of q and k, the same for all heads (qk_layernorm)",
               dict(COMMON, model_type="phi", intermediate_size=96, num_key_value_heads=2, hidden_act="gelu_new", layer_norm_eps=1e-2,
                    partial_rotary_factor=0.5, qk_layernorm=True, tie_word_embeddings=False)),
    "stablelm_qk": ("StableLmForCausalLM", "StableLM 2 12B: parallel residual with one norm, LayerNorm on each head of q and k with weights of its own",
                    dict(COMMON, model_type="stablelm", intermediate_size=96, num_key_value_heads=2, hidden_act="silu", layer_norm_eps=1e-2,
                         partial_rotary_factor=0.5, qk_layernorm=True, use_qkv_bias=False, use_parallel_residual=True, tie_word_embeddings=False)),
    "cohere_qk": ("CohereForCausalLM", "Command R+: LayerNorm on each head of q and k with weights of its own, interleaved rotary embedding",
                  dict(COMMON, model_type="cohere", intermediate_size=96, num_key_value_heads=2, hidden_act="silu", layer_norm_eps=1e-2,
                       rope_theta=10000.0, use_qk_norm=True, logit_scale=0.25, tie_word_embeddings=True)),
    "falcon_old": ("FalconForCausalLM", "Falcon 7B: one key and value for all queries, parallel residual with one LayerNorm",
                   dict(FALCON, new_decoder_architecture=False, multi_query=True, parallel_attn=True)),
    "falcon_one_norm": ("FalconForCausalLM", "Falcon 2 11B: the new architecture with one LayerNorm",
                        dict(FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, parallel_attn=True)),
    "falcon_serial": ("FalconForCausalLM", "Falcon's old architecture with a key and value for each query, biases, and the MLP behind attention",
                      dict(FALCON, new_decoder_architecture=False, multi_query=False, parallel_attn=False, bias=True)),
    "bert_dense": ("BertModel", "a sentence embedding that goes through two Dense modules after pooling: with bias and tanh, and without",
                   dict(model_type="bert", vocab_size=192, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
                        max_position_embeddings=64, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu")),
}


def random_of(name, what, attempt=0):
    return torch.Generator().manual_seed(zlib.crc32(f"{name}/{what}/{attempt}".encode()))


def fill(model, random):
    for module_name, module in model.named_modules():
        for own, p in module.named_parameters(recurse=False):
            noise = torch.randn(p.shape, generator=random)
            if own == "bias":
                x = 0.2 * noise
            elif isinstance(module, torch.nn.Embedding):
                x = noise
            elif p.ndim == 1 or "norm" in type(module).__name__.lower():
                x = 1 + 0.3 * noise
            else:
                x = 1.5 / p.shape[-1] ** 0.5 * noise
            p.data.copy_(x.to(torch.bfloat16).float())


def save(model, folder, published):
    """Under the names of published checkpoints, in bfloat16; config.json as they have it."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(published, indent=2) + "\n")
    return weights


def greedy_of(model, tokens, n=32):
    """n tokens one by one through the cache; the least margin; the logits that chose the last."""
    out, margin, past, feed = [], float("inf"), None, tokens
    for _ in range(n):
        r = model(feed, past_key_values=past, use_cache=True)
        past, row = r.past_key_values, r.logits[0, -1]
        top = row.topk(2).values
        margin = min(margin, (top[0] - top[1]).item())
        out.append(row.argmax().item())
        feed = torch.tensor([[out[-1]]])
    return out, margin, row


def expect(folder, name, cls, about, config, arrays, values, std, attempt):
    files = {k: {"dtype": "float32", "shape": list(v.shape)} for k, v in arrays.items()}
    for k, v in arrays.items():
        np.asarray(v, np.float32).tofile(folder / k)
    tolerance = 3e-4 if "gelu" in json.dumps(config) else 1e-3
    (folder / "expected.json").write_text(json.dumps({
        "format": 1, "case": name, "kind": "embedding" if "texts" in values else "causal", "architecture": cls,
        "model_type": config["model_type"], "exercises": about, "stored_dtype": "BF16", "seed": attempt, **values, "files": files,
        "std": round(float(std), 6), "tolerance": float(f"{tolerance * float(std):.4g}"),
        "made_with": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}}, indent=2) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(f"{name:18} std {float(std):.3f} seed {attempt} {sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) // 1024} KiB")


@torch.no_grad()
def causal(name, out):
    cls, about, config = CASES[name]
    published = {"architectures": [cls], **config, "torch_dtype": "bfloat16"}
    for attempt in range(100):
        own = {k: v for k, v in config.items() if k != "model_type"}
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(config["model_type"], **own), dtype=torch.float32).eval()
        fill(model, random_of(name, "weights", attempt))
        if own.get("tie_word_embeddings", config["model_type"] == "falcon"):
            model.tie_weights()
        tokens = torch.randint(4, config["vocab_size"], (1, 24), generator=random_of(name, "tokens"))
        logits = model(tokens).logits[0]
        greedy, margin, last = greedy_of(model, tokens)
        if len(set(greedy)) >= 10 and margin > 0.02 * logits.std():
            break
    else:
        sys.exit(f"{name}: no good seed")
    save(model, out / name, published)
    again = transformers.AutoModelForCausalLM.from_pretrained(out / name, dtype=torch.float32).eval()
    assert torch.equal(again(tokens).logits[0], logits), name
    expect(out / name, name, cls, about, config, {"logits.bin": logits, "last_logits.bin": last},
           {"tokens": tokens[0].tolist(), "greedy": greedy, "min_margin": round(margin, 6)}, logits.std(), attempt)


@torch.no_grad()
def embedding(name, out):
    from sentence_transformers.models import Dense, Normalize, Pooling
    cls, about, config = CASES[name]
    own = {k: v for k, v in config.items() if k != "model_type"}
    model = transformers.BertModel(transformers.BertConfig(**own), add_pooling_layer=False).eval()
    fill(model, random_of(name, "weights"))
    folder = out / name
    save(model, folder, {"architectures": [cls], **config, "torch_dtype": "bfloat16"})
    chain = [Pooling(48, pooling_mode="mean"), Dense(48, 80, bias=True, activation_function=torch.nn.Tanh()),
             Dense(80, 32, bias=False, activation_function=torch.nn.Identity()), Normalize()]
    names = ["1_Pooling", "2_Dense", "3_Dense", "4_Normalize"]
    for part, sub in zip(chain, names):
        fill(part, random_of(name, sub))
        (folder / sub).mkdir()
        part.save(str(folder / sub))
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}] + [
        {"idx": i + 1, "name": str(i + 1), "path": sub, "type": f"sentence_transformers.models.{type(part).__name__}"}
        for i, (part, sub) in enumerate(zip(chain, names))], indent=2) + "\n")
    random = random_of(name, "texts")
    texts = [torch.randint(4, 192, (n,), generator=random).tolist() for n in (1, 7, 20)]
    hidden, pooled = [], []
    for text in texts:
        states = model(torch.tensor([text])).last_hidden_state
        x = {"token_embeddings": states, "attention_mask": torch.ones(1, len(text), dtype=torch.long)}
        for part in chain:
            x = part(x)
        hidden.append(states[0])
        pooled.append(x["sentence_embedding"][0])
    pooled = torch.stack(pooled)
    expect(folder, name, cls, about, config, {"hidden.bin": torch.cat(hidden), "embedding.bin": pooled}, {"texts": texts}, pooled.std(), 0)


def main():
    args = sys.argv[1:]
    only = args[1].split(",") if args[:1] == ["--only"] else list(CASES)
    out = Path(args[-1] if args and len(args) % 2 else "tests/fixtures/golden")
    transformers.logging.set_verbosity_error()
    for name in only:
        (embedding if name == "bert_dense" else causal)(name, out)


if __name__ == "__main__":
    main()
