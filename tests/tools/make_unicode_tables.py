#!/usr/bin/env python3
"""Writes tokenizer/unicode_tables.c from the Unicode Character Database (development only; needs unicodedata2 16.0 and regex).

Properties (category, white space, word) are Unicode 16.0, which is what the regular expressions of HuggingFace tokenizers know.
Its normalizers know an older repertoire (Unicode 9): the code points of NEWER take no part in normalization there, so
they take none here; everything older is stable by Unicode's policy.

    python3 tests/tools/make_unicode_tables.py > tokenizer/unicode_tables.c
"""
import regex
import unicodedata2 as U

assert U.unidata_version == "16.0.0", U.unidata_version

NEWER = [(0x7FD, 0x7FD), (0x897, 0x89F), (0x8CA, 0x8D3), (0x9FE, 0x9FE), (0xAFA, 0xAFF), (0xB55, 0xB55), (0xC04, 0xC04), (0xC3C, 
0xC3C), (0xCF3, 0xCF3), (0xD00, 0xD00), (0xD3B, 0xD3C), (0xD81, 0xD81), (0xEBA, 0xEBA), (0xECE, 0xECE), (0x1715, 
0x1715), (0x180F, 0x180F), (0x1ABF, 0x1ACE), (0x1CF7, 0x1CF7), (0x1DF6, 0x1DFA), (0x32FF, 0x32FF), (0xA7F2, 0xA7F4), 
(0xA82C, 0xA82C), (0xA8FF, 0xA8FF), (0xAB69, 0xAB69), (0x105C9, 0x105C9), (0x105E4, 0x105E4), (0x10781, 0x10785), 
(0x10787, 0x107B0), (0x107B2, 0x107BA), (0x10D24, 0x10D27), (0x10D69, 0x10D6D), (0x10EAB, 0x10EAC), (0x10EFC, 0x10EFF), 
(0x10F46, 0x10F50), (0x10F82, 0x10F85), (0x11070, 0x11070), (0x11073, 0x11074), (0x110C2, 0x110C2), (0x11145, 0x11146), 
(0x111C9, 0x111C9), (0x111CE, 0x111CF), (0x11241, 0x11241), (0x1133B, 0x1133B), (0x11383, 0x11383), (0x11385, 0x11385), 
(0x1138E, 0x1138E), (0x11391, 0x11391), (0x113B8, 0x113C0), (0x113C2, 0x113C2), (0x113C5, 0x113C5), (0x113C7, 0x113CA), 
(0x113CC, 0x113D0), (0x113D2, 0x113D2), (0x113E1, 0x113E2), (0x1145E, 0x1145E), (0x1182C, 0x1183A), (0x11930, 0x11935), 
(0x11937, 0x11938), (0x1193B, 0x1193E), (0x11940, 0x11940), (0x11942, 0x11943), (0x119D1, 0x119D7), (0x119DA, 0x119E0), 
(0x119E4, 0x119E4), (0x11A01, 0x11A0A), (0x11A33, 0x11A39), (0x11A3B, 0x11A3E), (0x11A47, 0x11A47), (0x11A51, 0x11A5B), 
(0x11A8A, 0x11A99), (0x11D31, 0x11D36), (0x11D3A, 0x11D3A), (0x11D3C, 0x11D3D), (0x11D3F, 0x11D45), (0x11D47, 0x11D47), 
(0x11D8A, 0x11D8E), (0x11D90, 0x11D91), (0x11D93, 0x11D97), (0x11EF3, 0x11EF6), (0x11F00, 0x11F01), (0x11F03, 0x11F03), 
(0x11F34, 0x11F3A), (0x11F3E, 0x11F42), (0x11F5A, 0x11F5A), (0x13440, 0x13440), (0x13447, 0x13455), (0x1611E, 0x1612F), 
(0x16D68, 0x16D6A), (0x16F4F, 0x16F4F), (0x16F7F, 0x16F87), (0x16FE4, 0x16FE4), (0x16FF0, 0x16FF1), (0x1CCD6, 0x1CCF9), 
(0x1CF00, 0x1CF2D), (0x1CF30, 0x1CF46), (0x1E030, 0x1E06D), (0x1E08F, 0x1E08F), (0x1E130, 0x1E136), (0x1E2AE, 0x1E2AE), 
(0x1E2EC, 0x1E2EF), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF), (0x1F16C, 0x1F16C), (0x1FBF0, 0x1FBF9)]
CATS = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
SPACE, WORD, NORM = 0x20, 0x40, 0x80
newer = {c for a, b in NEWER for c in range(a, b + 1)}
ALL = range(0x110000)
chars = [c for c in ALL if not 0xD800 <= c <= 0xDFFF]
alphabetic = regex.compile(r"\p{Alphabetic}")
spaces = set(range(9, 14)) | {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000} | set(range(0x2000, 0x200B))
hangul = range(0xAC00, 0xD7A4)


def points(s):
    return [ord(ch) for ch in s]


nfd, nfkd, ccc, compose = {}, {}, {}, {}
for c in chars:
    if c in newer or c in hangul:
        continue
    ch = chr(c)
    d, k = points(U.normalize("NFD", ch)), points(U.normalize("NFKD", ch))
    if d != [c]:
        nfd[c] = d
    if k != d:
        nfkd[c] = k
    if U.combining(ch):
        ccc[c] = U.combining(ch)
    one = U.decomposition(ch)
    if one and one[0] != "<" and len(one.split()) == 2 and U.normalize("NFC", ch) == ch:
        a, b = (int(x, 16) for x in one.split())
        compose[(a, b)] = c
seconds = {b for _, b in compose}


def props(c):
    if 0xD800 <= c <= 0xDFFF:
        return CATS.index("Cs")
    cat = U.category(chr(c))
    p = CATS.index(cat)
    p |= SPACE if c in spaces else 0
    p |= WORD if cat != "Cn" and (alphabetic.match(chr(c)) or cat[0] == "M" or cat in ("Nd", "Pc")) else 0
    # what NFC may change: anything but a starter that neither decomposes nor joins the one before it
    p |= NORM if c in nfd or c in ccc or c in seconds or 0x1161 <= c <= 0x1175 or 0x11A8 <= c <= 0x11C2 else 0
    return p


def table(kind, name, values, wide=24):
    values = list(values)
    print(f"const {kind} {name}[{len(values)}] = {{")
    for i in range(0, len(values), wide):
        print("    " + ", ".join(str(v) for v in values[i:i + wide]) + ",")
    print("};\n")


print("/* Written by tests/tools/make_unicode_tables.py from the Unicode Character Database; do not edit. */")
print('#include "tokenizer/unicode.h"\n')
blocks, index = {}, []
for start in range(0, 0x110000, 128):
    block = tuple(props(c) for c in range(start, start + 128))
    index.append(blocks.setdefault(block, len(blocks)))
table("uint16_t", "uni_block", index)
table("uint8_t", "uni_props", [p for b in blocks for p in b])

ranges = []
for c in sorted(ccc):
    if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == ccc[c]:
        ranges[-1][1] = c
    else:
        ranges.append([c, c, ccc[c]])
print(f"const struct uni_class uni_classes[{len(ranges)}] = {{")
for i in range(0, len(ranges), 6):
    print("    " + ", ".join("{ 0x%x, 0x%x, %d }" % tuple(r) for r in ranges[i:i + 6]) + ",")
print("};")
print(f"const int uni_n_classes = {len(ranges)};\n")

lower = {}
for c in chars:
    d = points(chr(c).lower()) if U.category(chr(c)) != "Cn" else [c]
    if d != [c]:
        lower[c] = d
# pairs that this Python's own data may be too old for: Unicode 16's simple mappings
NEW_LOWER = {0x1C89: 0x1C8A, 0xA7CB: 0x264, 0xA7CC: 0xA7CD, 0xA7DA: 0xA7DB, 0xA7DC: 0x19B}
NEW_LOWER |= {0x10D50 + i: 0x10D70 + i for i in range(22)}
NEW_LOWER |= {0xA7CE: 0xA7CF, 0xA7D2: 0xA7D3, 0xA7D4: 0xA7D5} | {0x16EA0 + i: 0x16EBB + i for i in range(25)}  # 17.0
lower |= {a: [b] for a, b in NEW_LOWER.items()}
pool = []
for name, what in (("uni_nfd", nfd), ("uni_nfkd", nfkd), ("uni_lower", lower)):
    rows = []
    for c in sorted(what):
        rows.append("{ 0x%x, %d, %d }" % (c, len(pool), len(what[c])))
        pool += what[c]
    print(f"const struct uni_map {name}[{len(rows)}] = {{")
    for i in range(0, len(rows), 6):
        print("    " + ", ".join(rows[i:i + 6]) + ",")
    print("};")
    print(f"const int {name}_n = {len(rows)};\n")
table("uint32_t", "uni_pool", [hex(c) for c in pool], 16)
pairs = sorted(compose)
print(f"const struct uni_pair uni_pairs[{len(pairs)}] = {{")
for i in range(0, len(pairs), 5):
    print("    " + ", ".join("{ 0x%x, 0x%x, 0x%x }" % (*p, compose[p]) for p in pairs[i:i + 5]) + ",")
print("};")
print(f"const int uni_n_pairs = {len(pairs)};")
