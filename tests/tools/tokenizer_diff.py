#!/usr/bin/env python3
"""Compares this tokenizer with the reference library of its file on random text and random ids (development only).

    python3 tests/tools/tokenizer_diff.py CHECKPOINT_FOLDER [--file NAME] [--lines 100000] [--seed 1] [--keep FILE]

The reference goes by the file: tokenizer.json needs the package tokenizers, a SentencePiece model sentencepiece, a rank file or
tekken.json tiktoken. Programs are taken from $QUERN_BIN (or the root). Prints what differs (text to ids, ids back to text, random ids to
text) and three counts; --keep appends what differs to FILE in the form of the fixtures' cases; exit 1 if anything differs.
"""
import argparse
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

BATCH = 10000
POOLS = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFS", "0123456789", "     \t\n\r", "'’\"!?.,;:-_()[]{}<>|/\\@#$%^&*+=~`", "éüñçßœÀİſK",
         "\u0301\u0308\u0327\u0300\u0316\u0345\u05b0\u3099", "日本語中文字漢漢", "한국어가각힣\u1100\u1161\u11a8", "الْعَرَبِيَّة", "हिन्दीক", "ไทย", "😀👩‍👩‍👧🇩🇪👍🏽❤️\u200d\ufe0f",
         "\u00a0\u2003\u3000\u200b\u2028\u0085\ufeff\u00ad", "▁▁Ġ", "①½²Ⅷ٣", "ﬁﬃ㎏ﾊﾟÅΩ", "\u0000\u0001\u001b\u007f", "\U0001d400\U00010348\U0001f1e6", "ǅΣς"]
WORDS = ["the", " the", " Hello", "don't", "I'LL", "we've", " 's", "\n\n", "   ", "\r\n", "<s>", "</s>", "<0x41>", " world", "http://a.b", "1234567",
         " n't", " do not", "ſ", "'ſ", "Ａ", "##ing", "[CLS]"]
CATEGORIES = {}
for point in range(0x110000):
    if not 0xD800 <= point < 0xE000:
        CATEGORIES.setdefault(unicodedata.category(chr(point)), []).append(point)


def text(specials):
    s = ""
    for _ in range(random.randint(0, 12)):
        r = random.random()
        if r < 0.4:
            s += random.choice(WORDS + specials)
        elif r < 0.43:
            s += (lambda t: t[:random.randint(0, len(t))])(random.choice(WORDS + specials))
        elif r < 0.47:
            s += random.choice(random.choice(POOLS)) * random.choice([7, 30, 130])
        elif r < 0.85:
            pool = random.choice(POOLS)
            s += "".join(random.choice(pool) for _ in range(random.randint(1, 5)))
        elif r < 0.95:
            s += "".join(chr(random.choice(CATEGORIES[random.choice(list(CATEGORIES))])) for _ in range(random.randint(1, 3)))
        else:
            s += chr(random.choice([random.randint(0, 0x2FF), random.randint(0xE000, 0xFFFF), random.randint(0x10000, 0x10FFFF)]))
    return s


def ill_formed(s):
    b = bytearray(s.encode())
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(b))
        b[at:at + random.randint(0, 1)] = random.choice([b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"])
    return bytes(b)


class HuggingFace:
    skips = None  # as asked

    def __init__(self, path):
        from tokenizers import Tokenizer
        self.t = Tokenizer.from_file(path)
        self.specials = [t.content for t in self.t.get_added_tokens_decoder().values()][:40]
        self.size = self.t.get_vocab_size()

    def row(self):
        return {"text": text(self.specials), "add_special": random.random() < 0.5, "parse_special": random.random() < 0.5}

    def encode(self, row):
        self.t.encode_special_tokens = not row["parse_special"]
        return self.t.encode(row["text"], add_special_tokens=row["add_special"]).ids

    def decode(self, ids, skip):
        return self.t.decode(ids, skip_special_tokens=skip)


class SentencePiece:
    skips = True  # control pieces are no text there

    def __init__(self, path):
        import sentencepiece
        self.t = sentencepiece.SentencePieceProcessor(model_file=path)
        self.size = self.t.vocab_size()
        self.specials = [self.t.id_to_piece(i) for i in range(self.size) if self.t.is_control(i)][:10]

    def row(self):
        s = text(self.specials)
        row = {"bytes_hex": ill_formed(s).hex()} if random.random() < 0.1 else {"text": s}
        return row | {"add_special": False, "parse_special": False}

    def encode(self, row):
        return self.t.encode(bytes.fromhex(row["bytes_hex"]) if "bytes_hex" in row else row["text"])

    def decode(self, ids, skip):
        return self.t.decode(ids)


class Tiktoken:
    """A rank file, or tekken.json with its special tokens in front; the pattern of Llama 3 or Qwen by the number of ranks."""
    TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    PATTERNS = {128000: HEAD + "{1,3}" + TAIL, 151643: HEAD + TAIL}
    SPECIALS = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|start_header_id|>": 128006, "<|eot_id|>": 128009}

    def __init__(self, path):
        import tiktoken
        self.first, specials, self.skips = 0, {}, path.endswith(".json")  # tekken's special tokens are no text, a rank file's are
        if path.endswith(".json"):
            whole = json.load(open(path))
            config = whole["config"]
            self.first = config["default_num_special_tokens"]
            most = config["default_vocab_size"] - self.first
            ranks = {base64.b64decode(v["token_bytes"]): v["rank"] for v in whole["vocab"][:most]}
            pattern = config["pattern"]
        else:
            ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in open(path, "rb")}
            pattern = self.PATTERNS[len(ranks)]
            specials = self.SPECIALS if len(ranks) == 128000 else {}
        self.size = len(ranks) + self.first
        self.specials = list(specials)
        self.t = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)

    def row(self):
        return {"text": text(self.specials), "add_special": False, "parse_special": bool(self.specials) and random.random() < 0.5}

    def encode(self, row):
        special = {"allowed_special": "all"} if row["parse_special"] else {}
        return [i + self.first for i in self.t.encode(row["text"], disallowed_special=(), **special)]

    def decode(self, ids, skip):
        return self.t.decode([i - self.first for i in ids if i >= self.first], errors="replace")


def jsonl(program, model, what, rows):
    out = subprocess.run([program, model, what, "--jsonl"], input="".join(json.dumps(r) + "\n" for r in rows), text=True,
                         capture_output=True, check=True).stdout
    return [json.loads(line) for line in out.split("\n") if line]


def one_batch(reference, run, model, n, found):
    """Compares n texts and n lists of random ids; appends what differs to found; gives the three numbers of differences."""
    rows = [reference.row() for _ in range(n)]
    got = jsonl(run, model, "--tokenize", rows)
    drawn = [[random.randrange(reference.size if random.random() < 0.6 else min(400, reference.size)) for _ in range(random.randint(0, 24))] for _ in range(n)]
    skips = [random.random() < 0.5 if reference.skips is None else reference.skips for _ in range(2 * n)]
    back = jsonl(run, model, "--detokenize", [{"ids": i, "skip_special": s} for i, s in zip(got + drawn, skips)])
    wrong = [0, 0, 0]
    for row, ids in zip(rows, got):
        want = reference.encode(row)
        if want != ids:
            wrong[0] += 1
            found.append(row | {"ids": want, "found": ids})
    for at, (ids, skip, text_back) in enumerate(zip(got + drawn, skips, back)):
        want = reference.decode(ids, skip)
        if want != text_back["text"]:
            wrong[1 + (at >= n)] += 1
            found.append({"ids": ids, "skip": skip, "decoded": want, "found": text_back["text"]})
    return wrong


def main():
    a = argparse.ArgumentParser()
    a.add_argument("folder")
    a.add_argument("--file", default="tokenizer.json")
    a.add_argument("--lines", type=int, default=2000)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--keep")
    a = a.parse_args()
    random.seed(a.seed)
    path = os.path.join(a.folder, a.file)
    head = open(path, "rb").read(64)
    kind = HuggingFace if a.file == "tokenizer.json" else Tiktoken if head[:1] == b"{" or b"\0" not in head else SentencePiece
    reference = kind(path)
    programs = os.environ.get("QUERN_BIN", ".")
    total, done = [0, 0, 0], 0
    with tempfile.TemporaryDirectory() as place:
        model = os.path.join(place, "vocabulary.bin")
        subprocess.run([os.path.join(programs, "convert"), a.folder, "--tokenizer", path, "-o", model, "--vocab-only"], check=True)
        while done < a.lines:
            found, n = [], min(BATCH, a.lines - done)
            total = [x + y for x, y in zip(total, one_batch(reference, os.path.join(programs, "run"), model, n, found))]
            done += n
            for row in found[:20]:
                print(json.dumps(row))
            if a.keep and found:
                with open(a.keep, "a") as out:
                    out.writelines(json.dumps(row) + "\n" for row in found)
    print(f"{path}: {done} texts, {total[0]} encode, {total[1]} decode differences; {done} lists of random ids, {total[2]} differences")
    sys.exit(1 if any(total) else 0)


if __name__ == "__main__":
    main()
