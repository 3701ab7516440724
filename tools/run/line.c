/* line: the editor of a message (line.h): a state machine from bytes to a text and a cursor. It owns the text, the history and the
 * bytes of a key that has not come in whole. It must not know terminals: no descriptor is read, and nothing is drawn. */
#include "tools/run/line.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer/unicode.h"
#include "tools/run/width.h"

#define CTRL(letter) ((letter) & 0x1f)
enum { ESCAPE = 0x1b, DELETE = 0x7f };

/* ---- several lines ---- */

static bool blank(char c) { return c == ' ' || c == '\n' || c == '\t'; }

static bool quoted(const char *s, size_t n, size_t *from) {
    for (*from = 0; *from < n && blank(s[*from]);) ++*from;
    return n - *from >= 3 && memcmp(s + *from, "\"\"\"", 3) == 0;
}

static bool closed(const char *s, size_t n, size_t from, size_t *to) {
    for (*to = n; *to > from && blank(s[*to - 1]);) --*to;
    return *to - from >= 6 && memcmp(s + *to - 3, "\"\"\"", 3) == 0;
}

bool message_open(const char *s, size_t n) {
    size_t from, to;
    if (quoted(s, n, &from)) return !closed(s, n, from, &to);
    return n && s[n - 1] == '\\';
}

static void insert(buf *b, size_t *at, const char *s, size_t n) {
    size_t tail = b->n - *at;
    buf_add(b, s, n);
    if (b->failed) return;
    memmove(b->p + *at + n, b->p + *at, tail);
    memcpy(b->p + *at, s, n);
    *at += n;
}

void message_go_on(buf *m, size_t *at) {
    size_t from;
    if (!quoted(m->p, m->n, &from)) { /* a backslash at the end */
        m->p[m->n - 1] = '\n';
        *at = m->n;
    } else insert(m, at, "\n", 1);
}

void message_text(const char *s, size_t n, buf *out, bool *literal) {
    size_t from, to;
    *literal = quoted(s, n, &from) && closed(s, n, from, &to);
    if (!*literal) {
        buf_add(out, s, n);
        return;
    }
    from += 3, to -= 3;
    if (from < to && s[from] == '\n') from++;
    if (from < to && s[to - 1] == '\n') to--;
    buf_add(out, s + from, to - from);
}

/* ---- moving ---- */

static size_t line_start(const line *l, size_t at) {
    while (at && l->text.p[at - 1] != '\n') at--;
    return at;
}

static size_t line_end(const line *l, size_t at) {
    while (at < l->text.n && l->text.p[at] != '\n') at++;
    return at;
}

static size_t next_char(const line *l, size_t at) { return char_end(l->text.p, l->text.n, at); }
static size_t previous_char(const line *l, size_t at) { return char_start(l->text.p, l->text.n, at); }

static bool word_at(const line *l, size_t at) {
    int len;
    return at < l->text.n && (uni_of(utf8_next(l->text.p + at, &len)) & UNI_WORD);
}

static size_t next_word(const line *l) {
    size_t at = l->at;
    while (at < l->text.n && !word_at(l, at)) at = next_char(l, at);
    while (word_at(l, at)) at = next_char(l, at);
    return at;
}

static size_t previous_word(const line *l) {
    size_t at = l->at;
    while (at && !word_at(l, previous_char(l, at))) at = previous_char(l, at);
    while (at && word_at(l, previous_char(l, at))) at = previous_char(l, at);
    return at;
}

/* Back over blanks, then over what is none: what Ctrl-W takes. */
static size_t previous_blank(const line *l) {
    size_t at = l->at;
    while (at && blank(l->text.p[at - 1])) at--;
    while (at && !blank(l->text.p[at - 1])) at--;
    return at;
}

/* As many characters into the line that begins at `to` as the cursor is into its own. */
static size_t same_column(const line *l, size_t to) {
    size_t end = line_end(l, to);
    for (size_t from = line_start(l, l->at); from < l->at && to < end; from = next_char(l, from)) to = next_char(l, to);
    return to;
}

/* ---- changing ---- */

static void erase(line *l, size_t from, size_t to) {
    if (from >= to) return;
    memmove(l->text.p + from, l->text.p + to, l->text.n - to);
    l->text.n -= to - from;
    l->at = from;
}

static void cut(line *l, size_t from, size_t to) {
    if (from >= to) return;
    l->cut.n = 0;
    buf_add(&l->cut, l->text.p + from, to - from);
    erase(l, from, to);
}

static void set_text(line *l, const buf *b) {
    l->text.n = 0;
    buf_add(&l->text, b->p, b->n);
    l->at = l->text.n;
}

static void show_past(line *l, int which) {
    if (which < 0 || which > l->n_past || which == l->shown) return;
    if (l->shown == l->n_past) {
        l->draft.n = 0;
        buf_add(&l->draft, l->text.p, l->text.n);
    }
    l->shown = which;
    set_text(l, which == l->n_past ? &l->draft : &l->past[which]);
}

static void up(line *l) {
    size_t start = line_start(l, l->at);
    if (start) l->at = same_column(l, line_start(l, start - 1));
    else show_past(l, l->shown - 1);
}

static void down(line *l) {
    size_t end = line_end(l, l->at);
    if (end < l->text.n) l->at = same_column(l, end + 1);
    else show_past(l, l->shown + 1);
}

/* Tab: the longest beginning that all fitting words share, and a space after the only one. */
static void complete(line *l) {
    const char *first = NULL;
    size_t common = 0;
    int fitting = 0;
    if (l->at != l->text.n || !l->text.n) return;
    for (int i = 0; i < l->n_words; i++) {
        const char *w = l->words[i];
        if (strncmp(w, l->text.p, l->text.n)) continue;
        if (!fitting++) first = w, common = strlen(w);
        for (size_t k = l->text.n; k < common; k++)
            if (w[k] != first[k]) common = k;
    }
    if (!fitting || common < l->text.n) return;
    insert(&l->text, &l->at, first + l->text.n, common - l->text.n);
    if (fitting == 1) insert(&l->text, &l->at, " ", 1);
}

static line_event enter(line *l) {
    if (!message_open(l->text.p, l->text.n)) {
        l->at = l->text.n;
        return LINE_DONE;
    }
    message_go_on(&l->text, &l->at);
    return LINE_MORE;
}

/* ---- keys ---- */

typedef enum action { NOTHING, LEFT, RIGHT, WORD_LEFT, WORD_RIGHT, HOME, END, UP, DOWN, ERASE, CUT_WORD, CUT_WORD_LEFT, NEW_LINE, PASTE } action;

static void act(line *l, action a) {
    switch (a) {
    case NOTHING: break;
    case LEFT: l->at = previous_char(l, l->at); break;
    case RIGHT: l->at = next_char(l, l->at); break;
    case WORD_LEFT: l->at = previous_word(l); break;
    case WORD_RIGHT: l->at = next_word(l); break;
    case HOME: l->at = line_start(l, l->at); break;
    case END: l->at = line_end(l, l->at); break;
    case UP: up(l); break;
    case DOWN: down(l); break;
    case ERASE: erase(l, l->at, next_char(l, l->at)); break;
    case CUT_WORD: cut(l, l->at, next_word(l)); break;
    case CUT_WORD_LEFT: cut(l, previous_word(l), l->at); break;
    case NEW_LINE: insert(&l->text, &l->at, "\n", 1); break;
    case PASTE: l->pasting = true, l->after_cr = false; break;
    }
}

/* What follows an escape: of xterm and its kin, rxvt, the Linux console; 13;2u and 27;2;13~ are Shift-Enter. */
static const struct sequence {
    const char *bytes;
    action action;
} sequences[] = {
    { "[A", UP },           { "OA", UP },           { "[B", DOWN },          { "OB", DOWN },         { "[C", RIGHT },
    { "OC", RIGHT },        { "[D", LEFT },         { "OD", LEFT },          { "[H", HOME },         { "OH", HOME },
    { "[1~", HOME },        { "[7~", HOME },        { "[F", END },           { "OF", END },          { "[4~", END },
    { "[8~", END },         { "[3~", ERASE },       { "[1;5C", WORD_RIGHT }, { "[1;3C", WORD_RIGHT }, { "[5C", WORD_RIGHT },
    { "Oc", WORD_RIGHT },   { "f", WORD_RIGHT },    { "[1;5D", WORD_LEFT },  { "[1;3D", WORD_LEFT }, { "[5D", WORD_LEFT },
    { "Od", WORD_LEFT },    { "b", WORD_LEFT },     { "d", CUT_WORD },       { "[3;5~", CUT_WORD },  { "[3;3~", CUT_WORD },
    { "\x7f", CUT_WORD_LEFT }, { "\b", CUT_WORD_LEFT }, { "\r", NEW_LINE },  { "\n", NEW_LINE },     { "[13;2u", NEW_LINE },
    { "[27;2;13~", NEW_LINE }, { "[200~", PASTE },
};

/* Is key[0 .. n), which begins with an escape, a whole sequence (ECMA-48, 5.4)? */
static bool sequence_ended(const char *key, size_t n) {
    if (n < 2) return false;
    char last = key[n - 1];
    if (key[1] == 'O') return n == 3;
    if (key[1] != '[') return true;
    if (n == 2 || (n == 3 && last == '[')) return false; /* the console's function keys: [[A */
    return (uint8_t)last < 0x20 || (uint8_t)last >= 0x40;
}

static void escape_byte(line *l, int byte) {
    if (l->n_key == sizeof l->key) l->n_key--; /* longer than any key: its end is still to be found */
    l->key[l->n_key++] = (char)byte;
    if (byte == ESCAPE && l->n_key > 1) l->n_key = 1; /* a new one begins */
    if (!sequence_ended(l->key, l->n_key)) return;
    size_t n = l->n_key - 1;
    l->n_key = 0;
    if (l->pasting) {
        if (n == 5 && memcmp(l->key + 1, "[201~", 5) == 0) l->pasting = false;
        return; /* any other is no text */
    }
    for (size_t i = 0; i < sizeof sequences / sizeof *sequences; i++)
        if (strlen(sequences[i].bytes) == n && memcmp(sequences[i].bytes, l->key + 1, n) == 0) act(l, sequences[i].action);
}

/* A byte of a character beyond ASCII. What is not UTF-8 becomes U+FFFD. */
static void character_byte(line *l, int byte) {
    l->key[l->n_key++] = (char)byte;
    if (utf8_incomplete_tail(l->key, l->n_key) == l->n_key) return;
    int len;
    int32_t c = utf8_decode(l->key, l->n_key, &len);
    bool whole = c >= 0 && (size_t)len == l->n_key;
    if (whole && c >= 0xa0) insert(&l->text, &l->at, l->key, l->n_key);
    else if (!whole) insert(&l->text, &l->at, "\xef\xbf\xbd", 3);
    l->n_key = 0;
}

static void pasted_byte(line *l, int byte) {
    char c = byte == '\r' ? '\n' : (char)byte;
    bool second = byte == '\n' && l->after_cr;
    l->after_cr = byte == '\r';
    if (!second && (byte >= 0x20 || c == '\n' || c == '\t') && byte != DELETE) insert(&l->text, &l->at, &c, 1);
}

static line_event control(line *l, int byte) {
    switch (byte) {
    case '\r': case '\n': return enter(l);
    case CTRL('C'): return LINE_CANCEL;
    case CTRL('D'):
        if (!l->text.n) return LINE_END;
        act(l, ERASE);
        break;
    case CTRL('L'): return LINE_REDRAW;
    case CTRL('Z'): return LINE_SUSPEND;
    case CTRL('A'): act(l, HOME); break;
    case CTRL('B'): act(l, LEFT); break;
    case CTRL('E'): act(l, END); break;
    case CTRL('F'): act(l, RIGHT); break;
    case CTRL('H'): case DELETE: erase(l, previous_char(l, l->at), l->at); break;
    case CTRL('I'): complete(l); break;
    case CTRL('K'): /* at the end of a line: its end */
        cut(l, l->at, line_end(l, l->at) > l->at ? line_end(l, l->at) : next_char(l, l->at));
        break;
    case CTRL('N'): act(l, DOWN); break;
    case CTRL('P'): act(l, UP); break;
    case CTRL('U'): cut(l, line_start(l, l->at), l->at); break;
    case CTRL('W'): cut(l, previous_blank(l), l->at); break;
    case CTRL('Y'): insert(&l->text, &l->at, l->cut.p ? l->cut.p : "", l->cut.n); break;
    }
    return LINE_MORE;
}

line_event line_byte(line *l, int byte) {
    if (l->n_key && l->key[0] != ESCAPE && (byte < 0x80 || byte >= 0xc0)) { /* a character that was cut off */
        l->n_key = 0;
        insert(&l->text, &l->at, "\xef\xbf\xbd", 3);
    }
    if (byte == ESCAPE || (l->n_key && l->key[0] == ESCAPE)) escape_byte(l, byte);
    else if (byte >= 0x80) character_byte(l, byte);
    else if (l->pasting) pasted_byte(l, byte);
    else if (byte < 0x20 || byte == DELETE) return control(l, byte);
    else insert(&l->text, &l->at, &(char){ (char)byte }, 1);
    return LINE_MORE;
}

/* ---- the whole message ---- */

static int remember(line *l, err *e) {
    const buf *last = l->n_past ? &l->past[l->n_past - 1] : NULL;
    if (last && last->n == l->text.n && memcmp(last->p, l->text.p, last->n) == 0) return 0;
    if (l->n_past == l->cap_past) {
        int cap = max_int(32, 2 * l->cap_past);
        buf *p = realloc(l->past, (size_t)cap * sizeof *p);
        if (!p) return fail_memory(e, (size_t)cap * sizeof *p, "the history");
        l->past = p;
        l->cap_past = cap;
    }
    buf *b = &l->past[l->n_past];
    *b = (buf){ 0 };
    buf_add(b, l->text.p, l->text.n);
    if (b->failed) return fail_memory(e, l->text.n, "the history");
    l->n_past++;
    return 0;
}

int line_take(line *l, buf *out, bool *literal, err *e) {
    int rc = l->text.failed || l->draft.failed || l->cut.failed ? fail_memory(e, l->text.cap, "a message") : 0;
    if (!rc) message_text(l->text.p, l->text.n, out, literal);
    if (!rc && l->text.n) rc = remember(l, e);
    line_clear(l);
    return rc;
}

void line_clear(line *l) {
    l->text.n = l->at = 0;
    l->text.failed = l->draft.failed = l->cut.failed = false;
    l->shown = l->n_past;
}

void line_free(line *l) {
    for (int i = 0; i < l->n_past; i++) buf_free(&l->past[i]);
    free(l->past);
    buf_free(&l->text);
    buf_free(&l->cut);
    buf_free(&l->draft);
    *l = (line){ 0 };
}
