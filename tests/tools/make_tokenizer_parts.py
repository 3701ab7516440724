#!/usr/bin/env python3
"""Writes tests/fixtures/tokenizer_parts: small tokenizers, each with one component of a tokenizer.json, and what HuggingFace tokenizers
makes of some texts with them (development only; needs the package tokenizers, 0.23.3 for the files in the tree).

    python3 tests/tools/make_tokenizer_parts.py                 writes the files
    python3 tests/tools/make_tokenizer_parts.py --random 2000   compares that many random texts for each part with ./run instead
    python3 tests/tools/make_tokenizer_parts.py --every         compares every code point under each rule that knows Unicode (minutes)

model_NAME.json is the "model" of a tokenizer.json. A line of parts.jsonl is {"name", "model", "rules", "cases"}: rules is the text of the
other members. What is to be refused has "refused", a piece of the message, in the place of cases.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Tokenizer

PLACE = os.path.join(os.path.dirname(__file__), "..", "fixtures", "tokenizer_parts")
TEXTS = ["", "a", "Hello world", "  two  spaces ", " a", "a ", "ab12cd 345-6", "don't, stop! (now)", "x_y-z.w", "A\tB\nC\r\nD", "aabbaaab", "--a--b", "a-b--c",
         "\u00e9 e\u0301 E\u0301\u0327", "\u00c5\u212b\ufb03\u2460", "\uac01 \u1100\u1161\u11a8", "\u0130I\u0131 \u03a3\u03c2", "\u65e5\u672c\u8a9ea\u5b57", "\u00bd\u00b2\u2167\u0663 7", "\u2581a \u2581\u2581b",
         "a\u00a0b\u2003c\u3000d", "\u200b\u200d\ufeffz", "a\u0001\u007fb\u0085c", "\U0001f600a\U0001f600", "<x>a<x> <y>", "  <x>  a<y> b", "a<x>b <x>c", "<X> <Y>", "ax<y>xb<y> ,<y>",
         "\u00a1\u00bf\u2014\u2018q\u2019", "\u00ad\u2028p\u2029", "\u0928\u093f\u0e19\u0e33", "`^~$+<=>|", "hello, hello hell"]
ALWAYS = ["\u00bd\u00b2\u2167\u0663 7", "a\u00b2-\u00bdb", "a\U00011de3b"]
TEXTS += ALWAYS[1:]
ALPHABET = sorted({c for t in TEXTS for f in ("NFC", "NFD", "NFKC", "NFKD") for u in (t, t.lower(), t.upper()) for c in unicodedata.normalize(f, u)} |
                  set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.,!?()'#<>/-\u2581\u2044"))


def bytes_chars():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, n = {}, 0
    for b in range(256):
        table[b] = chr(b) if b in keep else chr(256 + n)
        n += b not in keep
    return table


def entries(words):
    out = {}
    for w in words:
        out.setdefault(w, len(out))
    return out


def grown(base, merges):
    return entries(base + [a + b for a, b in merges])


def models():
    byte = bytes_chars()
    g = byte[32]
    byte_merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (g, "a"), ("a", "b"), ("b", "a"), ("a", "a"), ("1", "2"), ("-", "-"), (byte[0xc3], byte[0xa9])]
    spm_merges = [("\u2581", "a"), ("l", "l"), ("h", "e"), ("he", "ll"), ("\u2581", "\u2581"), ("a", "b"), ("b", "a"), ("o", "\u2581"), ("1", "2")]
    fallback = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    some = [c for c in ALPHABET if c.isascii() and c not in " "] + ["\u2581"]
    pieces = [["<unk>", 0.0], ["</s>", 0.0], ["\u2581", -2.0]] + [[c, -4.0 - i / 64] for i, c in enumerate(some) if c != "\u2581"] + \
        [["\u2581a", -3.0], ["he", -3.5], ["ll", -3.25], ["hell", -5.0], ["\u2581hello", -6.5], ["ab", -4.5], ["aab", -6.0], ["\u00e9", -5.0]]
    return {
        "wordpiece": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
                      "vocab": entries(["[UNK]", "[CLS]", "[SEP]"] + ALPHABET + ["##" + c for c in ALPHABET] + ["hell", "##ello", "<x>"])},
        "bytes": {"type": "BPE", "vocab": grown([byte[b] for b in range(256)], byte_merges), "merges": [list(m) for m in byte_merges]},
        "ignoring": {"type": "BPE", "ignore_merges": True, "vocab": entries([byte[b] for b in range(256)] + ["ab", "abc", "ba", "ell", "hello"]), "merges": ["a b", "b a"]},
        "spm": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": grown(fallback + some, spm_merges), "merges": [" ".join(m) for m in spm_merges]},
        "plain": {"type": "BPE", "unk_token": "<unk>", "vocab": grown(["<unk>", "<s>", "</s>"] + some, spm_merges), "merges": [" ".join(m) for m in spm_merges]},
        "fusing": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "vocab": grown(["<unk>"] + some, spm_merges), "merges": [" ".join(m) for m in spm_merges]},
        "silent": {"type": "BPE", "vocab": grown(["<unk>"] + some, spm_merges), "merges": [" ".join(m) for m in spm_merges]},
        "unigram": {"type": "Unigram", "unk_id": 0, "vocab": pieces},
        "unigram_bytes": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": pieces + [[f"<0x{b:02X}>", -20.0] for b in range(256)]},
    }


def added(token, **flags):
    return {"content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} | flags


def pattern(p):
    return {"Regex": p[1:]} if p[0] == "/" else {"String": p}


def split(p, behavior, invert=False):
    return {"type": "Split", "pattern": pattern(p), "behavior": behavior, "invert": invert}


def sequence(kind, *items):
    return {"type": "Sequence", kind: list(items)}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACES = {"type": "WhitespaceSplit"}
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
LLAMA = sequence("normalizers", {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})
LLAMA_DECODER = sequence("decoders", {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                         {"type": "Strip", "content": " ", "start": 1, "stop": 0})
BERT_DECODER = {"type": "WordPiece", "prefix": "##", "cleanup": True}


def template(*single):
    names = {"[CLS]": 1, "[SEP]": 2, "<s>": 1, "</s>": 2}
    parts = [{"Sequence": {"id": "A", "type_id": 0}} if s == "A" else {"SpecialToken": {"id": s, "type_id": 0}} for s in single]
    return {"type": "TemplateProcessing", "single": parts, "pair": parts + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {s: {"id": s, "ids": [names[s]], "tokens": [s]} for s in single if s != "A"}}


def numbered(model, tokens):
    """Added tokens have the id of their vocabulary entry, or the next one behind it: others the library would renumber."""
    vocab = model["vocab"] if isinstance(model["vocab"], dict) else {p: i for i, (p, _) in enumerate(model["vocab"])}
    behind, out = len(vocab), []
    for t in tokens:
        id = vocab.get(t["content"], behind)
        behind += id == behind
        out.append({"id": id} | t)
    return out


def parts():
    for name, model, rules in raw_parts():
        yield name, model, rules | ({"added_tokens": numbered(models()[model], rules["added_tokens"])} if "added_tokens" in rules else {})


def raw_parts():
    for t in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
        yield t, "wordpiece", {"normalizer": {"type": t}, "pre_tokenizer": SPACES}
    yield "no rules", "wordpiece", {}
    yield "no rules bpe", "plain", {}
    yield "nulls", "plain", {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    yield "NFD StripAccents", "wordpiece", {"normalizer": sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}), "pre_tokenizer": SPACES}
    for left in (False, True):
        for right in (False, True):
            yield f"Strip {left} {right}", "wordpiece", {"normalizer": {"type": "Strip", "strip_left": left, "strip_right": right}}
    for p, content in (("a", "bb"), ("--", "-"), ("/[aeiou]+", "e"), ("/\\s+", " "), ("/ {2,}", "\u2581"), ("/(?<=a)b|^x", ""), ("b", ""), ("/[^\\w\\s]", "#")):
        yield f"Replace {p}", "wordpiece", {"normalizer": {"type": "Replace", "pattern": pattern(p), "content": content}, "pre_tokenizer": SPACES}
    yield "Prepend", "plain", {"normalizer": {"type": "Prepend", "prepend": "\u2581"}}
    yield "ByteLevel normalizer", "bytes", {"normalizer": {"type": "ByteLevel"}, "decoder": BYTES}
    yield "NFC ByteLevel normalizer", "bytes", {"normalizer": sequence("normalizers", {"type": "NFC"}, {"type": "ByteLevel"}), "decoder": BYTES}
    for clean in (False, True):
        for chinese in (False, True):
            for accents in (None, False, True):
                for lower in (False, True):
                    yield f"BertNormalizer {clean} {chinese} {accents} {lower}", "wordpiece", {
                        "normalizer": {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": accents, "lowercase": lower},
                        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": BERT_DECODER}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            for p in ("-", "/[ab]+", "/\\s+", "ab"):
                yield f"Split {p} {behavior} {invert}", "wordpiece", {"pre_tokenizer": split(p, behavior, invert)}
        yield f"Punctuation {behavior}", "wordpiece", {"pre_tokenizer": {"type": "Punctuation", "behavior": behavior}}
    for single in (False, True):
        yield f"Digits {single}", "wordpiece", {"pre_tokenizer": {"type": "Digits", "individual_digits": single}}
    for t in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer"):
        yield t, "wordpiece", {"pre_tokenizer": {"type": t}}
    yield "CharDelimiterSplit", "wordpiece", {"pre_tokenizer": {"type": "CharDelimiterSplit", "delimiter": "-"}}
    yield "Sequence of words", "wordpiece", {"pre_tokenizer": sequence("pretokenizers", SPACES, {"type": "Digits", "individual_digits": True}, split("/[ab]", "MergedWithNext"),
                                                                         {"type": "Punctuation", "behavior": "Isolated"})}
    for scheme in ("always", "never", "first"):
        for cut in (False, True):
            rule = METASPACE | {"prepend_scheme": scheme, "split": cut}
            for model in ("plain", "unigram"):
                yield f"Metaspace {scheme} {cut} {model}", model, {"pre_tokenizer": rule, "decoder": rule, "added_tokens": [added("<x>")]}
    yield "Metaspace in words", "plain", {"pre_tokenizer": sequence("pretokenizers", SPACES, METASPACE), "decoder": METASPACE}
    yield "Metaspace older", "plain", {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True, "prepend_scheme": "always"}}
    for space in (False, True):
        for words in (False, True):
            rule = BYTES | {"add_prefix_space": space, "use_regex": words}
            yield f"ByteLevel {space} {words}", "bytes", {"pre_tokenizer": rule, "decoder": rule, "post_processor": rule, "added_tokens": [added("<x>"), added("<y>", special=False)]}
    for p in ("/(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", "/\\p{Lu}\\p{Ll}*|\\p{M}",
              "/[^\\W\\d_]+|\\d", "/\\b\\w", "/[a-cx-z]++", "/.{2}", "/(?:ab?)+?b", "/\\S+$", "/\\u0061|\\x{62}|\\x63"):
        yield f"pattern {p}", "bytes", {"pre_tokenizer": sequence("pretokenizers", split(p, "Isolated"), BYTES | {"use_regex": False}), "decoder": BYTES}
    yield "word edges", "wordpiece", {"pre_tokenizer": split("/\\bb|\\B7", "Isolated")}
    yield "ignore_merges", "ignoring", {"pre_tokenizer": BYTES, "decoder": BYTES}
    yield "llama", "spm", {"normalizer": LLAMA, "decoder": LLAMA_DECODER, "post_processor": template("<s>", "A"), "added_tokens": [added("<s>"), added("</s>")]}
    for model in ("plain", "fusing", "silent", "unigram", "unigram_bytes"):
        yield f"unknown characters {model}", model, {"normalizer": LLAMA, "decoder": LLAMA_DECODER}
    for name, single in (("template A", ["A"]), ("template around", ["<s>", "A", "</s>"]), ("template two", ["<s>", "<s>", "A", "</s>", "</s>"])):
        yield name, "plain", {"post_processor": template(*single), "added_tokens": [added("<s>"), added("</s>")]}
    for t in ("BertProcessing", "RobertaProcessing"):
        more = {"trim_offsets": True, "add_prefix_space": False} if t[0] == "R" else {}
        yield t, "wordpiece", {"pre_tokenizer": SPACES, "post_processor": {"type": t, "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]} | more, "added_tokens": [added("[CLS]"), added("[SEP]")]}
    yield "Sequence of post-processors", "bytes", {"pre_tokenizer": BYTES, "decoder": BYTES, "post_processor": sequence("processors", BYTES, template("<s>", "A"))}
    for flags in ({}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True}, {"normalized": True, "lstrip": True, "rstrip": True},
                  {"normalized": True, "single_word": True}):
        for special in (False, True):
            tokens = [added("<x>", special=special, **flags), added("<Y>", special=special, **flags), added("a", special=special, **flags), added("ab", special=special)]
            tokens = [t for t in tokens if t["content"] != "a" or flags]
            yield f"added {special} {flags}", "bytes", {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": BYTES, "decoder": BYTES, "added_tokens": tokens}
    for cleanup in (False, True):
        yield f"WordPiece decoder {cleanup}", "wordpiece", {"pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": cleanup}}
    yield "no decoder", "wordpiece", {"pre_tokenizer": {"type": "BertPreTokenizer"}}
    for name, d in (("ByteFallback", {"type": "ByteFallback"}), ("Fuse", {"type": "Fuse"}), ("Replace decoder", {"type": "Replace", "pattern": {"String": "l"}, "content": "L"}),
                    ("Replace decoder regex", {"type": "Replace", "pattern": {"Regex": "[ab]"}, "content": "-"}), ("Strip decoder", {"type": "Strip", "content": "a", "start": 1, "stop": 1}),
                    ("ByteFallback Fuse", sequence("decoders", {"type": "ByteFallback"}, {"type": "Fuse"})),
                    ("Strip behind Fuse", sequence("decoders", {"type": "Fuse"}, {"type": "Strip", "content": "\u2581", "start": 2, "stop": 0}))):
        yield name, "spm", {"normalizer": LLAMA, "decoder": d}


def refusals():
    yield "plain", {"normalizer": {"type": "Other"}}, 'normalizer "Other"'
    yield "plain", {"pre_tokenizer": {"type": "UnicodeScripts"}}, "UnicodeScripts"
    yield "plain", {"pre_tokenizer": {"type": "FixedLength", "length": 3}}, "FixedLength"
    yield "plain", {"decoder": {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}}, "CTC"
    yield "plain", {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}}, "BPEDecoder"
    yield "bytes", {"pre_tokenizer": sequence("pretokenizers", BYTES, SPACES)}, "behind ByteLevel"
    yield "plain", {"decoder": sequence("decoders", {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"})}, "behind Fuse"
    yield "plain", {"decoder": sequence("decoders", {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}, BYTES)}, "behind another rule"
    yield "plain", {"pre_tokenizer": split("/a*", "Isolated")}, "match nothing"
    yield "plain", {"pre_tokenizer": split("/\\p{Han}", "Isolated")}, "property"
    yield "plain", {"pre_tokenizer": split("/a{1,2}+", "Isolated")}, "quantifier"
    yield "plain", {"pre_tokenizer": split("/(a)\\1", "Isolated")}, "escape"
    yield "plain", {"post_processor": template("A", "A")}, "TemplateProcessing"


def text_of(rules):
    return ",".join(f"{json.dumps(k)}:{json.dumps(v, ensure_ascii=False)}" for k, v in rules.items())


def reference(model, rules):
    return Tokenizer.from_str('{"version":"1.0","model":' + json.dumps(model) + "".join(f",{json.dumps(k)}:{json.dumps(rules.get(k, [] if k == 'added_tokens' else None))}" for k in
                              ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "truncation", "padding")) + "}")


def decodes(t, ids):
    """Its Strip decoder panics on texts that are shorter than what it strips; and 0.23 shows normalized added tokens in their normalized
    form, so that special ones are not known as such and not left out: not to be imitated."""
    changed = {i for i, a in t.get_added_tokens_decoder().items() if t.id_to_token(i) != a.content}
    if changed & set(ids):
        return False
    try:
        return t.decode(ids) is not None and t.decode(ids, skip_special_tokens=False) is not None
    except BaseException:
        return False


def cases(t, texts):
    rows, seen = [], set()
    for i, s in enumerate(texts):
        for parse in (True, False):
            t.encode_special_tokens = not parse
            ids = t.encode(s, add_special_tokens=i % 3 != 0).ids
            key = (s, tuple(ids))
            if key in seen:
                continue
            seen.add(key)
            row = {"text": s, "ids": ids, "add_special": i % 3 != 0, "parse_special": parse}
            if decodes(t, ids):
                row["decoded"], shown = t.decode(ids, skip_special_tokens=True), t.decode(ids, skip_special_tokens=False)
                row |= {"decoded_special": shown} if shown != row["decoded"] else {}
            rows.append(row)
    size = t.get_vocab_size()
    for n in (3, 12):
        ids = [random.randrange(size) for _ in range(n)]
        if not decodes(t, ids):
            continue
        rows.append({"ids": ids, "decoded": t.decode(ids, skip_special_tokens=True), "decoded_special": t.decode(ids, skip_special_tokens=False)})
    return rows


def write():
    os.makedirs(PLACE, exist_ok=True)
    all_models = models()
    for name, model in all_models.items():
        with open(os.path.join(PLACE, f"model_{name}.json"), "w") as f:
            json.dump(model, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
    with open(os.path.join(PLACE, "parts.jsonl"), "w") as f:
        for name, model, rules in parts():
            rows = cases(reference(all_models[model], rules), random.sample(TEXTS, 12) + ALWAYS)
            f.write(json.dumps({"name": name, "model": model, "rules": text_of(rules), "cases": rows}) + "\n")
        for model, rules, why in refusals():
            f.write(json.dumps({"name": why, "model": model, "rules": text_of(rules), "refused": why}) + "\n")


def every():
    """Rules over bytes, where any boundary that is not there shows as a merge with the a beside it."""
    byte = bytes_chars()
    merges = [("a", byte[b]) for b in range(256)] + [(byte[b], "a") for b in range(256) if b != ord("a")]
    model = {"type": "BPE", "vocab": grown([byte[b] for b in range(256)], merges), "merges": [list(m) for m in merges]}
    last = BYTES | {"use_regex": False}
    for t in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
        yield t, model, {"normalizer": {"type": t}, "pre_tokenizer": last}
    yield "Strip", model, {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}, "pre_tokenizer": last}
    yield "BertNormalizer", model, {"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": True, "lowercase": False}, "pre_tokenizer": last}
    words = [(t, {"type": t}) for t in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")]
    words += [("Punctuation", {"type": "Punctuation", "behavior": "Isolated"}), ("Digits", {"type": "Digits", "individual_digits": False})]
    classes = ["\\w", "\\W", "\\s", "\\d", "[\\w]", "[^\\s]", "\\b."] + ["\\p{%s}" % c for c in ("L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "N", "Nd", "No", "P", "S", "Z", "C")]
    words += [(c, split("/" + c, "Isolated")) for c in classes]
    for name, rule in words:
        yield name, model, {"pre_tokenizer": sequence("pretokenizers", rule, last)}


def compare_every():
    programs, wrong, done = os.environ.get("QUERN_BIN", "."), 0, 0
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c != ord("a")]
    with tempfile.TemporaryDirectory() as place:
        for name, model, rules in every():
            t = reference(model, rules)
            with open(os.path.join(place, "tokenizer.json"), "w") as f:
                f.write('{"model":' + json.dumps(model) + "," + text_of(rules) + "}")
            subprocess.run([os.path.join(programs, "convert"), place, "-o", place + "/v.bin", "--vocab-only", "--force"], check=True, stderr=subprocess.DEVNULL)
            texts = [("a" if name != "Strip" else "") + chr(c) + ("a" if name != "Strip" else "") for c in points]
            out = subprocess.run([os.path.join(programs, "run"), place + "/v.bin", "--tokenize", "--jsonl"], input="".join(json.dumps({"text": s, "add_special": False}) + "\n" for s in texts),
                                 text=True, capture_output=True, check=True).stdout
            bad = [c for c, s, line in zip(points, texts, out.split("\n")) if t.encode(s, add_special_tokens=False).ids != json.loads(line)]
            wrong, done = wrong + len(bad), done + len(points)
            print(name, len(bad), " ".join("U+%04X" % c for c in bad[:12]), flush=True)
    print(f"{done} comparisons, {wrong} differences")
    sys.exit(1 if wrong else 0)


def random_text():
    return "".join(random.choice(TEXTS) if random.random() < 0.3 else "".join(random.choice(ALPHABET) for _ in range(random.randint(1, 6))) for _ in range(random.randint(0, 5)))


def compare(n):
    programs, wrong, done = os.environ.get("QUERN_BIN", "."), 0, 0
    with tempfile.TemporaryDirectory() as place:
        for name, model, rules in parts():
            t = reference(models()[model], rules)
            with open(os.path.join(place, "tokenizer.json"), "w") as f:
                f.write('{"model":' + json.dumps(models()[model]) + "," + text_of(rules) + "}" if rules else '{"model":' + json.dumps(models()[model]) + "}")
            made = subprocess.run([os.path.join(programs, "convert"), place, "-o", place + "/v.bin", "--vocab-only", "--force"], capture_output=True, text=True)
            if made.returncode:
                print(name, made.stderr, sep="\n  ")
                wrong += 1
                continue
            rows = [r for r in cases(t, [random_text() for _ in range(n)]) if "text" in r]

            def run(what, objects):
                out = subprocess.run([os.path.join(programs, "run"), place + "/v.bin", what, "--jsonl"], input="".join(json.dumps(o) + "\n" for o in objects), text=True, capture_output=True, check=True).stdout
                return [json.loads(line) for line in out.split("\n") if line]
            drawn = [d for d in ([random.randrange(t.get_vocab_size()) for _ in range(random.randint(0, 9))] for _ in range(n)) if decodes(t, d)]
            got = run("--tokenize", [{k: r[k] for k in ("text", "add_special", "parse_special")} for r in rows])
            back = run("--detokenize", [{"ids": r["ids"], "skip_special": True} for r in rows] + [{"ids": d, "skip_special": False} for d in drawn])
            bad = [(r["text"], r["ids"], g) for r, g in zip(rows, got) if r["ids"] != g] + [(r["ids"], r["decoded"], b["text"]) for r, b in zip(rows, back) if "decoded" in r and r["decoded"] != b["text"]]
            bad += [(d, t.decode(d, skip_special_tokens=False), b["text"]) for d, b in zip(drawn, back[len(rows):]) if t.decode(d, skip_special_tokens=False) != b["text"]]
            wrong, done = wrong + len(bad), done + len(rows) + len(back)
            if bad:
                print(name, len(bad), *[ascii(b) for b in bad[:3]], sep="\n  ")
    print(f"{done} comparisons, {wrong} differences")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("--random", type=int)
    a.add_argument("--every", action="store_true")
    a = a.parse_args()
    random.seed(5)
    compare(a.random) if a.random else compare_every() if a.every else write()
