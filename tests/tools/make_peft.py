#!/usr/bin/env python3
"""Writes tests/fixtures/peft/: adapters of golden checkpoints as PEFT saves them, with whole modules (modules_to_save) in them, and the
logits that PEFT computes with each (pip install peft).

    python tests/tools/make_peft.py [golden_dir] [out_dir]
"""
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import rescale_adapter_scale
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, logging

CASES = {
    # name: (base, LoraConfig)
    "whole": ("llama", dict(target_modules=["k_proj", "up_proj"],
                            modules_to_save=["lm_head", "embed_tokens", "norm", "layers.0.self_attn.q_proj", "layers.1.mlp.gate_proj"])),
    "tied_embed": ("llama3", dict(target_modules=["v_proj"], modules_to_save=["embed_tokens"])),
    "tied_head": ("llama3", dict(target_modules=["v_proj"], modules_to_save=["lm_head"])),
    "tied_both": ("llama3", dict(target_modules=["v_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "lora_head": ("llama", dict(target_modules=["lm_head", "o_proj"])),
    "turned": ("gpt2", dict(target_modules=["mlp.c_proj"], fan_in_fan_out=True,
                            modules_to_save=["attn.c_attn", "ln_f", "wpe", "wte", "h.1.mlp.c_fc"])),
}


def make(name, base, settings, golden, out):
    torch.manual_seed(len(name))
    folder = golden / base
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor([json.loads((folder / "expected.json").read_text())["tokens"]])
    with torch.no_grad():
        plain = model(tokens).logits
        model = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **settings)).eval()
        for p in model.parameters():
            if p.requires_grad:
                p += torch.randn_like(p) * 0.1 * (1 if p.ndim == 2 and 3 in p.shape else p.std() + 0.1)
        shutil.rmtree(out / name, ignore_errors=True)
        model.save_pretrained(out / name)
        want = model(tokens).logits
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        again = PeftModel.from_pretrained(again, out / name).eval()
        assert torch.equal(again(tokens).logits, want), name
        with rescale_adapter_scale(model, 0.5):
            half = model(tokens).logits
        merged = model.merge_and_unload()(tokens).logits
    assert (merged - want).abs().max() < 1e-3 and (want - plain).abs().max() > 0.1 and (half - want).abs().max() > 1e-3, name
    (out / name / "README.md").unlink()
    config = json.loads((out / name / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = f"../../golden/{base}"
    (out / name / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    want[0].numpy().astype(np.float32).tofile(out / name / "logits.bin")
    half[0].numpy().astype(np.float32).tofile(out / name / "half.bin")
    print(name, sorted(load_file(out / name / "adapter_model.safetensors")))


def main():
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    golden = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/golden")
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "tests/fixtures/peft")
    for name, (base, settings) in CASES.items():
        make(name, base, settings, golden, out)


if __name__ == "__main__":
    main()
