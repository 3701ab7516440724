#!/usr/bin/env python3
"""Writes tokenizer/case_tables.c: upper and title case as Python's str has them (development only). A template's `upper`, `title`
and `capitalize` need it; lower case is in unicode_tables.c.

    python3 tests/tools/make_case_tables.py > tokenizer/case_tables.c
"""
upper, title, pool = [], [], []
for c in range(0x80, 0x110000):
    ch = chr(c)
    up, ti = ("", "") if 0xD800 <= c <= 0xDFFF else (ch.upper(), ch.title())
    for rows, text, same in ((upper, up, ch), (title, ti, up)):
        if text != same and text:
            rows.append("{ 0x%x, %d, %d }" % (c, len(pool), len(text)))
            pool += [hex(ord(x)) for x in text]
print("/* Written by tests/tools/make_case_tables.py; do not edit. */")
print('#include "tokenizer/unicode.h"\n')
for name, rows in (("uni_upper", upper), ("uni_title", title)):
    print(f"const struct uni_map {name}[{len(rows)}] = {{")
    for i in range(0, len(rows), 6):
        print("    " + ", ".join(rows[i:i + 6]) + ",")
    print("};")
    print(f"const int {name}_n = {len(rows)};\n")
print(f"const uint32_t uni_case_pool[{len(pool)}] = {{")
for i in range(0, len(pool), 16):
    print("    " + ", ".join(pool[i:i + 16]) + ",")
print("};")
