/* wordpiece: the longest entry first, again and again (Schuster and Nakajima 2012; as BERT does it). Entries inside a word carry a
 * prefix in the vocabulary ("##"). A word that cannot be taken apart whole, or is too long, is unknown. It must not know where
 * words come from. */
#include "tokenizer/encode.h"

int wordpiece_encode(struct encoder *x, struct slice w) {
    const tokenizer *t = x->t;
    struct slice prefix = section(t, SEC_CONTINUE);
    size_t had = x->out->n, chars = 0;
    for (size_t i = 0; i < w.n; i += (size_t)utf8_len(w.p[i])) chars++;
    bool known = chars <= t->h.max_chars;
    for (size_t at = 0; at < w.n && known;) {
        size_t skip = at ? prefix.n : 0, most = skip < t->longest ? t->longest - skip : 0, n = w.n - at < most ? w.n - at : most;
        buf *key = &x->key;
        key->n = 0;
        buf_add(key, prefix.p, skip);
        buf_add(key, w.p + at, n);
        if (key->failed) return fail_memory(x->e, n, "a word of the text");
        int32_t id = -1;
        for (; n && id < 0; n--)
            if (at + n == w.n || ((uint8_t)w.p[at + n] & 0xc0) != 0x80) id = vocab_find(t, key->p, skip + n);
        known = id >= 0;
        ids_add(x->out, id);
        at += n + 1; /* the loop counted one past the entry it found */
    }
    if (!known) {
        x->out->n = had;
        if (t->h.unk >= 0) ids_add(x->out, t->h.unk);
    }
    return 0;
}
