#!/usr/bin/env python3
"""Writes tests/fixtures/beams.jsonl: what transformers' beam search gives on the golden checkpoints (development only; needs torch
and transformers; run from the root).

    python3 tests/tools/beams_reference.py [OUTPUT]

A line is a case: the checkpoint, the tokens, the settings, and all hypotheses, best first, with their scores. The cases come in
groups: one search with plain settings, then the same with one setting or two changed; a variant is kept only if it changes what is
found, so that each line is there for a reason. Models this small hardly ever emit their own end of text: the ids that end
(`eos`) are some that the search without an end comes upon. A case is kept only if float32 and float64 agree on every hypothesis,
so that no test hangs on the rounding of a near tie.
"""
import collections
import json
import random
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
MODELS = ["t5", "t5_v11", "gpt2", "llama", "mistral", "gemma3"]  # the last two have windows
GROUPS = 3      # a model
VARIANTS = [{"length_penalty": -1.0}, {"length_penalty": 0.0}, {"length_penalty": 0.5}, {"length_penalty": 2.0},
            {"early_stopping": True}, {"early_stopping": "never"}, {"early_stopping": "never", "length_penalty": 2.0},
            {"early_stopping": True, "length_penalty": -1.0}, {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2},
            {"no_repeat_ngram_size": 3}, {"min_new_tokens": 4}, {"min_new_tokens": 9}, {"repetition_penalty": 1.5},
            {"min_new_tokens": 6, "no_repeat_ngram_size": 2, "early_stopping": True, "length_penalty": 1.5}]


def load(name, dtype):
    folder = f"tests/fixtures/golden/{name}"
    architecture = json.load(open(f"{folder}/config.json"))["architectures"][0]
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    start = model.generation_config.decoder_start_token_id
    model.generation_config = transformers.GenerationConfig(decoder_start_token_id=start, pad_token_id=0)  # nothing but what a case says
    return model


def search(model, tokens, settings):
    """All hypotheses without the prompt, the end of text included, and their scores."""
    beams, skip = settings["num_beams"], 1 if model.config.is_encoder_decoder else len(tokens)
    out = model.generate(torch.tensor([tokens]), generation_config=transformers.GenerationConfig(
        do_sample=False, num_return_sequences=beams, return_dict_in_generate=True, output_scores=True, pad_token_id=0,
        decoder_start_token_id=model.generation_config.decoder_start_token_id, **settings))
    lengths = (out.beam_indices >= 0).sum(dim=1).tolist()
    return [s[skip:skip + n].tolist() for s, n in zip(out.sequences, lengths)], out.sequences_scores.tolist()


def both(models, tokens, settings):
    found, scores = search(models[0], tokens, settings)
    again, _ = search(models[1], tokens, settings)
    finite = all(s > -1e8 for s in scores)  # transformers fills up with hypotheses that never were
    return (found, scores) if found == again and finite else (None, None)


def group(name, models, rng):
    """A plain search that some hypotheses end early, and the variants that find something else."""
    vocab = models[0].config.vocab_size
    tokens = [rng.randrange(3, vocab) for _ in range(rng.randint(3, 20))]
    beams, most = rng.choice([2, 3, 4, 4, 5, 8]), rng.randint(10, 24)
    plain = {"num_beams": beams, "max_new_tokens": most, "eos_token_id": None}
    endless, _ = search(models[0], tokens, plain)
    seen = [t for s in endless for t in s[2:]]
    plain["eos_token_id"] = sorted(rng.sample(sorted(set(seen)), min(rng.choice([1, 1, 2, 3]), len(set(seen)))))
    found, scores = both(models, tokens, plain)
    if not found or len({len(s) for s in found}) < 2:
        return []
    cases = []
    for variant in [{}] + VARIANTS:
        settings = plain | variant
        found, scores = both(models, tokens, settings)
        if not found or (cases and found == cases[0]["hypotheses"]):
            continue
        cases.append({"model": name, "tokens": tokens} | settings | {"hypotheses": found, "scores": [round(s, 6) for s in scores]})
    return cases if len(cases) > 5 else []


def main():
    lines, counts = [], collections.Counter()
    for name in MODELS:
        rng = random.Random(name)
        models = load(name, torch.float32), load(name, torch.float64)
        groups = 0
        for _ in range(400):
            cases = group(name, models, rng)
            groups += bool(cases)
            lines += cases
            for c in cases:
                counts.update(f"{k}={c[k]}" for k in c if k in set().union(*VARIANTS))
                counts["ends at different lengths"] += len({len(s) for s in c["hypotheses"] if s[-1] in c["eos_token_id"]}) > 1
                counts["best one ends before the last step"] += len(c["hypotheses"][0]) < c["max_new_tokens"]
            if groups == GROUPS:
                break
        print(f"{name}: {groups} groups, {len(lines)} cases so far", file=sys.stderr)
    missing = [v for v in VARIANTS for k in v if not counts[f"{k}={v[k]}"]]
    if missing:
        sys.exit(f"no case that {missing} changes: more groups are needed")
    with open(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/beams.jsonl", "w") as out:
        for line in lines:
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
    print(dict(counts), file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
