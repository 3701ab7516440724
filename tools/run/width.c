/* width: columns and borders of characters (width.h). It owns the table of wide characters; it must not know terminals. */
#include "tools/run/width.h"

#include "tokenizer/unicode.h"
#include "tools/run/width.table.h"

enum { ZERO_WIDTH_JOINER = 0x200d };

static bool is_wide(uint32_t c) {
    size_t from = 0, to = sizeof wide / sizeof *wide;
    while (from < to) {
        size_t mid = (from + to) / 2;
        if (c > wide[mid][1]) from = mid + 1;
        else if (c < wide[mid][0]) to = mid;
        else return true;
    }
    return false;
}

int char_width(uint32_t c) {
    if (c < 0x300) return 1;
    if (uni_in(c, 1u << UNI_MN | 1u << UNI_ME | 1u << UNI_CF)) return 0;
    if (c >= 0x1160 && c <= 0x11ff) return 0; /* vowels and finals that join a Hangul syllable */
    return is_wide(c) ? 2 : 1;
}

size_t char_end(const char *s, size_t n, size_t at) {
    int len;
    uint32_t c = 0;
    if (at >= n || s[at] == '\n') return at < n ? at + 1 : n;
    for (bool first = true; at < n; first = false) {
        bool joined = c == ZERO_WIDTH_JOINER;
        c = utf8_next(s + at, &len);
        if (!first && (c == '\n' || (!joined && char_width(c)))) break;
        at += (size_t)len;
    }
    return at;
}

size_t char_start(const char *s, size_t n, size_t at) {
    size_t from = at, line;
    while (from && s[from - 1] != '\n') from--; /* forward from the line's beginning: joiners are read in one direction only */
    if (from == at) return at ? at - 1 : 0;
    for (line = from; line < at; line = char_end(s, n, line)) from = line;
    return from;
}
