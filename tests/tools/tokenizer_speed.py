#!/usr/bin/env python3
"""Speed of encoding beside the reference libraries', measured in one session (development only).

    python3 tests/tools/tokenizer_speed.py TEXT FOLDER[:FILE]...

Each vocabulary (tokenizer.json unless FILE names another) is timed by bench/tokenizer and by the library of its file: tokenizers,
sentencepiece or tiktoken; one thread, processor time, the best of several passes over the text, 20 kB at a time.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, os.path.dirname(__file__))


def library(path):
    if path.endswith("tokenizer.json"):
        from tokenizers import Tokenizer
        t = Tokenizer.from_file(path)
        return "tokenizers", lambda s: t.encode(s, add_special_tokens=False)
    if b"\0" in open(path, "rb").read(64):
        import sentencepiece
        t = sentencepiece.SentencePieceProcessor(model_file=path)
        return "sentencepiece", t.encode
    from tokenizer_diff import Tiktoken
    t = Tiktoken(path).t
    return "tiktoken", t.encode_ordinary


def best_rate(encode, parts, size):
    best, begin = None, time.monotonic()
    while best is None or time.monotonic() - begin < 4:
        start = time.process_time()
        for part in parts:
            encode(part)
        seconds = time.process_time() - start
        best = seconds if best is None else min(best, seconds)
    return size / 1e6 / best


def main():
    text, programs = open(sys.argv[1], "rb").read(), os.environ.get("QUERN_BIN", ".")
    parts = [text[i:i + 20000].decode("utf-8", "replace") for i in range(0, len(text), 20000)]
    print("| vocabulary | library | its MB/s | MB/s here | ratio |\n|---|---|---|---|---|")
    for one in sys.argv[2:]:
        folder, _, name = one.partition(":")
        path = os.path.join(folder, name or "tokenizer.json")
        with tempfile.TemporaryDirectory() as place:
            model = os.path.join(place, "v.bin")
            subprocess.run([os.path.join(programs, "convert"), folder, "--tokenizer", path, "-o", model, "--vocab-only"], check=True, stderr=subprocess.DEVNULL)
            who, encode = library(path)
            theirs = best_rate(encode, parts, len(text))
            rows = json.loads(subprocess.run([os.path.join(programs, "bench/tokenizer"), model, "--text", sys.argv[1], "--json"], check=True, capture_output=True).stdout)["rows"]
            ours = next(r["mb_per_s"] for r in rows if r["test"] == "text")
            worst = max(rows, key=lambda r: r.get("ratio", 0))
            print(f"| {os.path.basename(folder)} {name or 'tokenizer.json'} | {who} | {theirs:.2f} | {ours:.1f} | {ours / theirs:.0f} | {worst['test']}: {worst['ratio']:.2f}", flush=True)


if __name__ == "__main__":
    main()
