/* unicode: properties of code points (Unicode 16.0) and normalization. Text here is well-formed UTF-8 unless said otherwise. */
#ifndef QUERN_UNICODE_H
#define QUERN_UNICODE_H

#include "runtime/base.h"

/* General categories, in the order of the table's low five bits. */
enum {
    UNI_LU,
    UNI_LL,
    UNI_LT,
    UNI_LM,
    UNI_LO,
    UNI_MN,
    UNI_MC,
    UNI_ME,
    UNI_ND,
    UNI_NL,
    UNI_NO,
    UNI_PC,
    UNI_PD,
    UNI_PS,
    UNI_PE,
    UNI_PI,
    UNI_PF,
    UNI_PO,
    UNI_SM,
    UNI_SC,
    UNI_SK,
    UNI_SO,
    UNI_ZS,
    UNI_ZL,
    UNI_ZP,
    UNI_CC,
    UNI_CF,
    UNI_CS,
    UNI_CO,
    UNI_CN,
    UNI_CATEGORIES
};
enum { UNI_CATEGORY = 0x1f, UNI_SPACE = 0x20, UNI_WORD = 0x40, UNI_NORM = 0x80 }; /* bits of a code point's properties */

struct uni_class {
    uint32_t first, last;
    int ccc;
}; /* canonical combining classes other than 0, sorted */
struct uni_map {
    uint32_t from;
    uint16_t at;
    uint8_t n;
}; /* from -> uni_pool[at .. at + n), sorted */
struct uni_pair {
    uint32_t a, b, joined;
}; /* canonical compositions, sorted */
extern const uint16_t uni_block[0x110000 / 128];
extern const uint8_t uni_props[];
extern const struct uni_class uni_classes[];
extern const struct uni_map uni_nfd[], uni_nfkd[], uni_lower[], uni_upper[], uni_title[]; /* title: where it is not upper */
extern const uint32_t uni_pool[], uni_case_pool[]; /* the second of upper and title */
extern const struct uni_pair uni_pairs[];
extern const int uni_n_classes, uni_nfd_n, uni_nfkd_n, uni_lower_n, uni_upper_n, uni_title_n, uni_n_pairs;

static inline uint8_t uni_of(uint32_t c) { return uni_props[(uint32_t)uni_block[c >> 7] << 7 | (c & 127)]; } /* c < 0x110000 */
static inline bool uni_in(uint32_t c, uint32_t categories) { return categories >> (uni_of(c) & UNI_CATEGORY) & 1; }
static inline bool uni_is_space(uint32_t c) { return uni_of(c) & UNI_SPACE; }
static inline bool uni_is_mark(uint32_t c) { return uni_in(c, 1u << UNI_MN | 1u << UNI_MC | 1u << UNI_ME); }

/* One character of well-formed UTF-8. */
static inline uint32_t utf8_next(const char *s, int *len) {
    const uint8_t *p = (const uint8_t *)s;
    if (p[0] < 0x80) return *len = 1, p[0];
    if (p[0] < 0xe0) return *len = 2, (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    if (p[0] < 0xf0) return *len = 3, (uint32_t)(p[0] & 0xf) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    *len = 4;
    return (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 0x3f) << 12 | (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}
static inline int utf8_len(char lead) {
    uint8_t c = (uint8_t)lead;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

bool utf8_valid(const char *s, size_t n);
void utf8_sanitise(const char *s, size_t n, buf *out); /* any bytes in; each byte of no character becomes U+FFFD */
#define UTF8_ILL_FORMED "\xed\xa0\x80" /* a surrogate: no well-formed text has it */
void utf8_mark(const char *s, size_t n, buf *out); /* the same, but with this sign in the place of U+FFFD */
void utf8_lossy(const char *s, size_t n, buf *out);    /* the same, but one U+FFFD for each longest beginning of a character */
void utf8_escape(const char *s, size_t n, buf *out);   /* each byte of no character becomes the surrogate U+DC00 + byte */
void utf8_unescape(const char *s, size_t n, buf *out); /* and back */
void buf_char(buf *out, uint32_t c);

enum { UNI_COMPOSE = 1, UNI_COMPAT = 2 }; /* NFD 0, NFC 1, NFKD 2, NFKC 3 (Unicode Standard Annex 15) */
void uni_normalize(const char *s, size_t n, int form, buf *out);
void uni_lowercase(const char *s, size_t n, buf *out); /* full mappings, without context */
const uint32_t *uni_lower_of(uint32_t c, int *n);      /* NULL: itself */
const uint32_t *uni_upper_of(uint32_t c, bool title, int *n); /* of c >= 0x80; NULL: itself */

#endif
