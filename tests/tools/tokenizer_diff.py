#!/usr/bin/env python3
"""Compares this tokenizer with HuggingFace's on random text (development only; needs the package tokenizers).

    python3 tests/tools/tokenizer_diff.py CHECKPOINT_FOLDER [LINES] [SEED]

Programs are taken from $QUERN_BIN (or the root). Prints the texts whose ids or decoded texts differ, and a count; exit 1 if any.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

POOLS = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFS", "0123456789", "     \t\n\r", "'’\"!?.,;:-_()[]{}<>|/\\@#$%^&*+=~`", "éüñçßœÀİſK",
         "\u0301\u0308\u0327\u0300\u0316\u0345\u05b0\u3099", "日本語中文字漢漢", "한국어가각힣\u1100\u1161\u11a8", "الْعَرَبِيَّة", "हिन्दीক", "ไทย", "😀👩‍👩‍👧🇩🇪",
         "\u00a0\u2003\u3000\u200b\u2028\u0085\ufeff\u00ad", "▁▁Ġ", "①½²Ⅷ٣", "ﬁﬃ㎏ﾊﾟÅΩ", "\u0000\u0001\u001b\u007f", "\U0001d400\U00010348\U0001f1e6", "ǅΣς"]
WORDS = ["the", " the", " Hello", "don't", "I'LL", "we've", " 's", "\n\n", "   ", "\r\n", "<s>", "</s>", "<0x41>", " world", "http://a.b", "1234567"]


def text(specials):
    s = ""
    for _ in range(random.randint(0, 12)):
        r = random.random()
        if r < 0.45:
            s += random.choice(WORDS + specials)
        elif r < 0.9:
            pool = random.choice(POOLS)
            s += "".join(random.choice(pool) for _ in range(random.randint(1, 5)))
        else:
            c = random.choice([random.randint(0, 0x2FF), random.randint(0, 0xFFFF), random.randint(0x10000, 0x10FFFF)])
            s += "" if 0xD800 <= c < 0xE000 else chr(c)
    return s


def jsonl(program, model, what, rows):
    out = subprocess.run([program, model, what, "--jsonl"], input="".join(json.dumps(r) + "\n" for r in rows), text=True,
                         capture_output=True, check=True).stdout
    return [json.loads(line) for line in out.split("\n") if line]


def main():
    folder, lines, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000, int(sys.argv[3]) if len(sys.argv) > 3 else 1
    random.seed(seed)
    programs = os.environ.get("QUERN_BIN", ".")
    reference = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    specials = [t.content for t in reference.get_added_tokens_decoder().values()][:40]
    rows = [{"text": text(specials), "add_special": random.random() < 0.5, "parse_special": random.random() < 0.5} for _ in range(lines)]
    with tempfile.TemporaryDirectory() as place:
        model = os.path.join(place, "vocabulary.bin")
        subprocess.run([os.path.join(programs, "convert"), folder, "-o", model, "--vocab-only"], check=True)
        run = os.path.join(programs, "run")
        got = jsonl(run, model, "--tokenize", rows)
        decoded = jsonl(run, model, "--detokenize", [{"ids": ids, "skip_special": True} for ids in got])
    wrong = 0
    for row, ids, back in zip(rows, got, decoded):
        reference.encode_special_tokens = not row["parse_special"]
        want = reference.encode(row["text"], add_special_tokens=row["add_special"]).ids
        if want != ids or reference.decode(ids, skip_special_tokens=True) != back["text"]:
            wrong += 1
            print(json.dumps(row), "\n  expected", want, "\n  found   ", ids)
    print(f"{lines - wrong} of {lines} equal")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
