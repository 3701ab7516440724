/* The editor of a message: keys to text and cursor; and what its drawing looks like on a small model of a terminal, which wraps,
 * scrolls and knows wide characters as xterm does. No terminal is needed. */
#include "tools/run/line.h"
#include "tools/run/screen.h"
#include "tools/run/width.h"
#include "tokenizer/unicode.h"

#include "tests/test.h"

#define UP "\x1b[A"
#define DOWN "\x1b[B"
#define RIGHT "\x1b[C"
#define LEFT "\x1b[D"
#define HOME "\x1b[H"
#define END "\x1b[F"
#define PASTE(text) "\x1b[200~" text "\x1b[201~"

static line_event feed(line *l, const char *keys, size_t n) {
    line_event e = LINE_MORE;
    for (size_t i = 0; i < n && e == LINE_MORE; i++) {
        e = line_byte(l, (uint8_t)keys[i]);
        assert_true(l->at <= l->text.n && (!l->text.n || utf8_valid(l->text.p, l->text.n)));
    }
    return e;
}

static line_event type(line *l, const char *keys) { return feed(l, keys, strlen(keys)); }

/* The text with | at the cursor. */
static const char *shown(const line *l) {
    static char s[4096];
    snprintf(s, sizeof s, "%.*s|%.*s", (int)l->at, l->text.p ? l->text.p : "", (int)(l->text.n - l->at), l->text.p ? l->text.p + l->at : "");
    return s;
}

static const char *taken(line *l, bool *literal) {
    static char s[4096];
    buf out = { 0 };
    err e = { 0 };
    if (line_take(l, &out, literal, &e)) fail_msg("%s", e.msg);
    snprintf(s, sizeof s, "%.*s", (int)out.n, out.p ? out.p : "");
    buf_free(&out);
    return s;
}

static void test_keys(void **state) {
    (void)state;
    static const struct { const char *keys, *want; } cases[] = {
        { "hello", "hello|" },
        { "hello" LEFT LEFT "X", "helX|lo" },
        { "hello\x02\x02X\x06Y", "helXlY|o" },
        { "hello" HOME "X" END "Y", "XhelloY|" },
        { "hello\x01X\x05Y", "XhelloY|" },
        { "hello\x1bOHX\x1bOFY\x1b[1~Z\x1b[4~!", "ZXhelloY!|" },
        { "hello\x7f\x7f", "hel|" },
        { "hello\x08", "hell|" },
        { "\x7f" LEFT RIGHT "\x0b\x15\x17\x1b[3~", "|" },
        { "hello" LEFT LEFT "\x1b[3~", "hel|o" },
        { "hello\x01\x04\x04", "|llo" },
        { "one two three\x17", "one two |" },
        { "one two  \x17", "one |" },
        { "one two three\x15", "|" },
        { "one two" LEFT LEFT "\x15", "|wo" },
        { "one two" LEFT LEFT "\x0b", "one t|" },
        { "one two\x17" HOME "\x19", "two|one " },
        { "one two\x1b" "b\x1b" "bX", "X|one two" },
        { "one two\x1b[1;5D\x1b[1;3DX\x1b[1;5CY", "XoneY| two" },
        { "one, two.three\x1b\x7f", "one, two.|" },
        { "one, two" HOME "\x1b" "d", "|, two" },
        { "one, two" HOME "\x1b[3;5~", "|, two" },
        { "a\x1b[5~\x1b[6~\x1b[2~\x1b[15~\x1b[1;2P\x1bOP\x1b[[A\x1bxb", "ab|" }, /* keys that mean nothing leave nothing */
        { "a\x1b[1234567890;1234567890;1234567890;1234567890~b", "ab|" },
        { "a\x1b\x1b[Db", "b|a" },
        { "a\x1b[200", "a|" },
        { "a\x1b\rb", "a\nb|" },
        { "a\x1b[13;2ub", "a\nb|" },
        { "a\\\rb", "a\nb|" },
        { "\"\"\"\ra\rb", "\"\"\"\na\nb|" },
        { "\"\"\"a\rb" UP "X", "\"X|\"\"a\nb" },
        { "abc\x1b\rdefg\x1b\rh" UP UP DOWN "X", "abc\ndX|efg\nh" },
        { "abc\x1b\rd" UP "\x0b", "a|\nd" }, { "abc\x1b\rd" UP "\x0b\x0b", "a|d" },
        { "abcd\x1b\re" UP END "\x0b", "abcd|e" },
        { "abc\x1b\rdef" HOME "\x15X", "abc\nX|def" },
        { "a\x00\x0e\x0f\x10\x11\x12\x13\x14\x16\x18\x1c\x1d\x1e\x1f" "b", "a|" }, /* up to the NUL of this literal */
        { "a\x0e\x0f\x10\x11\x12\x13\x14\x16\x18\x1c\x1d\x1e\x1f" "b", "ab|" },
        { "a\tb", "ab|" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        line l = { 0 };
        assert_int_equal(type(&l, cases[i].keys), LINE_MORE);
        if (strcmp(shown(&l), cases[i].want)) fail_msg("case %zu: expected %s, found %s", i, cases[i].want, shown(&l));
        line_free(&l);
    }
}

static void test_events(void **state) {
    (void)state;
    line l = { 0 };
    bool literal;
    assert_int_equal(type(&l, "\x04"), LINE_END);
    assert_int_equal(type(&l, "\x03"), LINE_CANCEL);
    assert_int_equal(type(&l, "\x0c"), LINE_REDRAW);
    assert_int_equal(type(&l, "\x1a"), LINE_SUSPEND);
    assert_int_equal(type(&l, "\r"), LINE_DONE);
    assert_string_equal(taken(&l, &literal), "");
    assert_int_equal(type(&l, "hi\x03"), LINE_CANCEL);
    assert_string_equal(shown(&l), "hi|");
    line_clear(&l);
    assert_int_equal(type(&l, "two words" LEFT LEFT "\r"), LINE_DONE);
    assert_string_equal(shown(&l), "two words|"); /* it is left with the cursor behind it */
    assert_string_equal(taken(&l, &literal), "two words");
    assert_false(literal);
    assert_int_equal(type(&l, "a\\\rb\n"), LINE_DONE);
    assert_string_equal(taken(&l, &literal), "a\nb");
    assert_int_equal(type(&l, "\"\"\"\r/help\rme\\\r\"\"\"\r"), LINE_DONE);
    assert_string_equal(taken(&l, &literal), "/help\nme\\");
    assert_true(literal);
    assert_int_equal(type(&l, "\"\"\"one\"\"\" \r"), LINE_DONE);
    assert_string_equal(taken(&l, &literal), "one");
    assert_int_equal(type(&l, "\"\"\"\"\"\r"), LINE_MORE); /* five are not yet six */
    assert_int_equal(type(&l, "\x7f\"\r"), LINE_DONE);
    assert_string_equal(taken(&l, &literal), "");
    assert_true(literal);
    line_free(&l);
}

/* A character moves and dies as a whole, however many bytes and code points it has. */
static void test_characters(void **state) {
    (void)state;
    static const char *const characters[] = { "a", "é", "e\u0301", "漢", "😀", "👨\u200d👩\u200d👧", "क\u094d", "\ufffd" };
    for (size_t i = 0; i < sizeof characters / sizeof *characters; i++) {
        char keys[200], want[200];
        line l = { 0 };
        const char *c = characters[i];
        snprintf(keys, sizeof keys, "x%sy" LEFT LEFT, c);
        snprintf(want, sizeof want, "x|%sy", c);
        assert_int_equal(type(&l, keys), LINE_MORE);
        assert_string_equal(shown(&l), want);
        type(&l, RIGHT);
        snprintf(want, sizeof want, "x%s|y", c);
        assert_string_equal(shown(&l), want);
        type(&l, "\x7f");
        assert_string_equal(shown(&l), "x|y");
        line_free(&l);
    }
    static const struct { const char *keys, *want; } broken[] = {
        { "a\xff" "b", "a\ufffdb|" }, { "a\xe6\xbc" "b", "a\ufffdb|" }, { "a\xe6\xbc\xe6\xbc\xa2", "a\ufffd漢|" },
        { "a\x80" "b", "a\ufffdb|" }, { "\xe6\xbc" LEFT "b", "b|\ufffd" }, { "\xc2\x9b" "b", "b|" }, { "\xed\xa0\x80", "\ufffd\ufffd|" },
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        line l = { 0 };
        type(&l, broken[i].keys);
        if (strcmp(shown(&l), broken[i].want)) fail_msg("broken %zu: expected %s, found %s", i, broken[i].want, shown(&l));
        line_free(&l);
    }
}

static void test_paste(void **state) {
    (void)state;
    static const struct { const char *keys, *want; } cases[] = {
        { PASTE("one\rtwo\n"), "one\ntwo\n|" },      /* a pasted line feed is none of Enter's */
        { PASTE("one\r\ntwo\n\r"), "one\ntwo\n\n|" },
        { "ab" LEFT PASTE("1\t2"), "a1\t2|b" },
        { PASTE("a\x03\x04\x1a\x7f\x01" "b"), "ab|" }, /* control characters are no keys and no text */
        { PASTE("a\x1b[31mred\x1b[0m"), "ared|" },
        { PASTE("a\\\r") "b", "a\\\nb|" },
        { PASTE("漢\xff"), "漢\ufffd|" },
        { PASTE("") "x" PASTE("y"), "xy|" },
        { PASTE(UP UP) "x", "x|" },
        { "\x1b[201~x", "x|" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        line l = { 0 };
        bool literal;
        assert_int_equal(type(&l, cases[i].keys), LINE_MORE);
        if (strcmp(shown(&l), cases[i].want)) fail_msg("case %zu: expected %s, found %s", i, cases[i].want, shown(&l));
        line_clear(&l);
        assert_int_equal(type(&l, "/x\r"), LINE_DONE); /* the paste has ended */
        assert_string_equal(taken(&l, &literal), "/x");
        line_free(&l);
    }
}

static void test_history(void **state) {
    (void)state;
    line l = { 0 };
    bool literal;
    type(&l, UP DOWN UP);
    assert_string_equal(shown(&l), "|");
    static const char *const lines[] = { "first\r", "second\r", "second\r", "\r", "third\\\rline\r" };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        assert_int_equal(type(&l, lines[i]), LINE_DONE);
        taken(&l, &literal);
    }
    assert_int_equal(l.n_past, 3);
    type(&l, "draft" LEFT UP);
    assert_string_equal(shown(&l), "third\nline|");
    type(&l, UP); /* within the message first */
    assert_string_equal(shown(&l), "thir|d\nline");
    type(&l, UP);
    assert_string_equal(shown(&l), "second|");
    type(&l, "!" UP UP UP);
    assert_string_equal(shown(&l), "first|");
    type(&l, DOWN DOWN);
    assert_string_equal(shown(&l), "third\nline|");
    type(&l, "\x0e");
    assert_string_equal(shown(&l), "draft|");
    type(&l, DOWN UP "\x10\x10");
    assert_string_equal(shown(&l), "second|");
    assert_int_equal(type(&l, " time\r"), LINE_DONE);
    assert_string_equal(taken(&l, &literal), "second time");
    assert_int_equal(l.n_past, 4);
    line_free(&l);
}

static void test_completion(void **state) {
    (void)state;
    static const char *const words[] = { "/save", "/system", "/show", "/help" };
    static const struct { const char *keys, *want; } cases[] = {
        { "/h\t", "/help |" }, { "/s\t", "/s|" }, { "/sy\t", "/system |" }, { "/s\tho\tx", "/show x|" }, { "/x\t", "/x|" },
        { "\t", "|" }, { "/h" LEFT "\t", "/|h" }, { "say /h\t", "say /h|" }, { "/help \t", "/help |" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        line l = { .words = words, .n_words = 4 };
        type(&l, cases[i].keys);
        if (strcmp(shown(&l), cases[i].want)) fail_msg("case %zu: expected %s, found %s", i, cases[i].want, shown(&l));
        line_free(&l);
    }
}

/* Random keys and bytes: the text stays well-formed and the cursor on a border of characters. */
static void test_random_keys(void **state) {
    (void)state;
    static const char *const keys[] = { UP, DOWN, LEFT, RIGHT, HOME, END, "\x7f", "\x17", "\x15", "\x0b", "\x19",
                                        "\x1b" "d", "\x1b" "b", "\x1b" "f", "a", "b ", "漢", "e\u0301",
                                        "👨\u200d👩", "\\\r", "\"\"\"", "\r", "\x1b\r", "\x1b[200~", "\x1b[201~", "\x1b",
                                        "[", "\xe6", "\xbc", "\xff", "\t", "\x10", "\x0e", "\x04" };
    uint32_t seed = 1;
    for (int run = 0; run < 300; run++) {
        line l = { 0 };
        for (int i = 0; i < 200; i++) {
            seed = seed * 1664525u + 1013904223u;
            const char *k = keys[(seed >> 8) % (sizeof keys / sizeof *keys)];
            for (; *k; k++) {
                bool literal;
                if (line_byte(&l, (uint8_t)*k) == LINE_DONE) taken(&l, &literal);
                assert_true(l.at <= l.text.n && (!l.text.n || utf8_valid(l.text.p, l.text.n)));
                assert_true(l.at == l.text.n || ((uint8_t)l.text.p[l.at] & 0xc0) != 0x80);
            }
        }
        line_free(&l);
    }
}

/* ---- a terminal ---- */

enum { MOST_COLUMNS = 100, MOST_ROWS = 400 };

typedef struct vt {
    int columns, rows, x, y, base; /* x may be columns: the next character wraps; base: the screen's first row */
    char cell[MOST_ROWS][MOST_COLUMNS][40];
} vt;

static vt *vt_new(int columns, int rows) {
    vt *t = calloc(1, sizeof *t);
    t->columns = columns;
    t->rows = rows;
    return t;
}

static void vt_down(vt *t) {
    t->y++;
    assert_true(t->y < MOST_ROWS);
    if (t->y - t->base >= t->rows) t->base++;
}

static void vt_char(vt *t, const char *s, size_t n, uint32_t c) {
    int width = char_width(c);
    if (width == 0) {
        assert_true(t->x > 0);
        int x = t->x - 1;
        while (x && !t->cell[t->y][x][0]) x--;
        strncat(t->cell[t->y][x], s, n);
        return;
    }
    /* the drawing wraps, not the terminal */
    if (t->x + width > t->columns) fail_msg("a character at column %d of %d: the row is full", t->x, t->columns);
    memset(t->cell[t->y][t->x], 0, (size_t)width * sizeof t->cell[0][0]);
    memcpy(t->cell[t->y][t->x], s, n);
    t->x += width;
}

static void vt_erase(vt *t, int y, int x) {
    for (; y < MOST_ROWS; y++, x = 0) memset(t->cell[y][x], 0, (size_t)(MOST_COLUMNS - x) * sizeof t->cell[0][0]);
}

static size_t vt_sequence(vt *t, const char *s) {
    int n = 0, digits = 0;
    size_t at = 2;
    assert_int_equal(s[1], '[');
    for (; s[at] >= '0' && s[at] <= '9'; at++, digits++) n = n * 10 + s[at] - '0';
    if (!digits && s[at] != 'J') n = 1;
    if (t->x == t->columns) t->x--; /* a pending wrap is forgotten */
    switch (s[at]) {
    case 'A': t->y = max_int(t->y - n, t->base); break;
    case 'C': t->x = min_int(t->x + n, t->columns - 1); break;
    case 'H': t->y = t->base, t->x = 0; break;
    case 'J':
        if (n == 2) vt_erase(t, t->base, 0);
        else vt_erase(t, t->y, t->x);
        break;
    default: fail_msg("unknown sequence ESC[%c", s[at]);
    }
    return at + 1;
}

static void vt_write(vt *t, buf *b) {
    for (size_t at = 0; at < b->n;) {
        int len;
        uint32_t c = utf8_next(b->p + at, &len);
        if (c == '\r') t->x = 0, at++;
        else if (c == '\n') vt_down(t), at++;
        else if (c == 0x1b) at += vt_sequence(t, b->p + at);
        else vt_char(t, b->p + at, (size_t)len, c), at += (size_t)len;
    }
    b->n = 0;
}

/* What the terminal shows from `row` of its history on, rows ended by /, with | at the cursor; spaces at the ends left out. */
static const char *vt_text(const vt *t, int row) {
    static char s[20000];
    size_t n = 0;
    int last = t->y;
    for (int y = 0; y < MOST_ROWS; y++)
        for (int x = 0; x < t->columns; x++)
            if (t->cell[y][x][0] && y > last) last = y;
    for (int y = row; y <= last; y++) {
        size_t end = n;
        for (int x = 0; x < t->columns; x++) {
            if (y == t->y && x == t->x) s[n++] = '|', end = n;
            const char *c = t->cell[y][x];
            if (*c) n += (size_t)sprintf(s + n, "%s", c), end = *c == ' ' ? end : n;
            else if (!(x && char_width(utf8_next(t->cell[y][x - 1][0] ? t->cell[y][x - 1] : "a", &(int){ 0 })) == 2)) s[n++] = ' ';
        }
        n = end;
        s[n++] = '/';
    }
    s[n - 1] = 0;
    return s;
}

typedef struct desk {
    line l;
    screen v;
    vt *t;
    buf out;
} desk;

static desk desk_new(int columns, int rows) {
    return (desk){ .v = { .prompt = ">>> ", .more = "... ", .columns = columns, .rows = rows }, .t = vt_new(columns, rows) };
}

static void desk_draw(desk *d) {
    screen_draw(&d->v, &d->l, &d->out);
    vt_write(d->t, &d->out);
}

static void desk_type(desk *d, const char *keys) {
    for (; *keys; keys++) {
        assert_int_equal(line_byte(&d->l, (uint8_t)*keys), LINE_MORE);
        desk_draw(d);
    }
}

static void desk_free(desk *d) {
    line_free(&d->l);
    screen_free(&d->v);
    buf_free(&d->out);
    free(d->t);
}

static void test_drawing(void **state) {
    (void)state;
    static const struct { int columns; const char *keys, *want; } cases[] = {
        { 20, "hello", ">>> hello|" },
        { 20, "hello" LEFT LEFT, ">>> hel|lo" },
        { 20, "hello\x1b\rworld", ">>> hello/... world|" },
        { 20, "hello\x1b\rworld" UP, ">>> hello|/... world" },
        { 20, "hello\x1b\rworld" UP "\x15", ">>> |/... world" },
        { 10, "12345", ">>> 12345|" },
        { 10, "123456", ">>> 123456/|" }, /* a full row: the cursor waits on the next */
        { 10, "1234567", ">>> 123456/7|" },
        { 10, "1234567" LEFT, ">>> 123456/|7" },
        { 10, "1234567" LEFT LEFT, ">>> 12345|6/7" },
        { 10, "1234567\x7f\x7f", ">>> 12345|" },
        { 10, "1234567890123456789", ">>> 123456/7890123456/789|" },
        { 10, "1234567890123456789" HOME "x", ">>> x|12345/6789012345/6789" },
        { 10, "漢字漢", ">>> 漢字漢/|" },
        { 10, "1漢字漢", ">>> 1漢字/漢|" }, /* one column is left, and it needs two */
        { 10, "1漢字漢" LEFT, ">>> 1漢字/|漢" },
        { 10, "12345e\u0301", ">>> 12345e\u0301/|" },
        { 20, "a" PASTE("\t") "b", ">>> a   b|" },
        { 3, "hello", "hel/lo|" }, /* too narrow for the prompt */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        desk d = desk_new(cases[i].columns, 10);
        desk_draw(&d);
        desk_type(&d, cases[i].keys);
        if (strcmp(vt_text(d.t, 0), cases[i].want)) fail_msg("case %zu: expected %s, found %s", i, cases[i].want, vt_text(d.t, 0));
        desk_free(&d);
    }
}

/* At the lower edge of the terminal; what stood above is left alone, and the finished message stays whole. */
static void test_drawing_scrolls(void **state) {
    (void)state;
    desk d = desk_new(10, 4);
    buf_str(&d.out, "one\r\ntwo\r\nthree\r\n");
    vt_write(d.t, &d.out);
    desk_draw(&d);
    desk_type(&d, "123456789" HOME "x" END);
    assert_string_equal(vt_text(d.t, 0), "one/two/three/>>> x12345/6789|");
    screen_leave(&d.v, &d.l, &d.out);
    vt_write(d.t, &d.out);
    assert_string_equal(vt_text(d.t, 0), "one/two/three/>>> x12345/6789/|");
    line_clear(&d.l);
    desk_draw(&d);
    desk_type(&d, "a\x1b\rb\x1b\rc\x1b\rd\x1b\re\x1b\rf"); /* six lines on four rows */
    assert_string_equal(vt_text(d.t, d.t->base), "... c/... d/... e/... f|");
    desk_type(&d, UP UP UP UP);
    assert_string_equal(vt_text(d.t, d.t->base), "... b|/... c/... d/... e");
    desk_type(&d, DOWN DOWN "\x7f\x7f");
    assert_string_equal(vt_text(d.t, d.t->base), "... b/... c|/... e/... f");
    screen_leave(&d.v, &d.l, &d.out);
    vt_write(d.t, &d.out);
    assert_string_equal(vt_text(d.t, d.t->base - 2), ">>> a/... b/... c/... e/... f/|");
    screen_clear(&d.v, &d.out);
    vt_write(d.t, &d.out);
    desk_draw(&d);
    assert_string_equal(vt_text(d.t, d.t->base), ">>> a/... b/... c|/... e"); /* f is out of sight */
    desk_free(&d);
}

/* A terminal that wraps its rows anew when it gets narrower, as most do; the next drawing stands where the last one stood. */
static void test_resize(void **state) {
    (void)state;
    for (int columns = 5; columns <= 40; columns++) {
        desk d = desk_new(20, 10);
        desk_draw(&d);
        desk_type(&d, "1234567890123456789012345\x1b\rabcdefghijkl" LEFT LEFT);
        vt *t = vt_new(columns, 30);
        for (int y = 0; y < 3; y++) { /* the old rows, wrapped */
            int width = y == 0 ? 20 : y == 1 ? 9 : 16;
            for (int x = 0; x < width; x++) {
                if (x && x % columns == 0) t->x = 0, vt_down(t);
                vt_char(t, d.t->cell[y][x], 1, (uint8_t)d.t->cell[y][x][0]);
                if (y == d.t->y && x == d.t->x) t->base = t->y * 1000 + x % columns; /* remembers the cursor's place */
            }
            t->x = 0;
            if (y < 2) vt_down(t);
        }
        t->y = t->base / 1000, t->x = t->base % 1000, t->base = 0;
        free(d.t);
        d.t = t;
        screen_resize(&d.v, columns, 30);
        desk_draw(&d);
        desk fresh = desk_new(columns, 30);
        buf_add(&fresh.l.text, d.l.text.p, d.l.text.n);
        fresh.l.at = d.l.at;
        desk_draw(&fresh);
        char want[2000];
        snprintf(want, sizeof want, "%s", vt_text(fresh.t, 0));
        if (strcmp(vt_text(d.t, 0), want)) fail_msg("20 columns to %d: expected %s, found %s", columns, want, vt_text(d.t, 0));
        desk_free(&d);
        desk_free(&fresh);
    }
}

static void test_width(void **state) {
    (void)state;
    static const struct { uint32_t c; int width; } cases[] = { { 'a', 1 }, { 0xe9, 1 }, { 0x301, 0 }, { 0x200b, 0 },
                                                               { 0x200d, 0 }, { 0xfe0f, 0 }, { 0x6f22, 2 }, { 0x1f600, 2 },
                                                              { 0xac00, 2 }, { 0x1100, 2 }, { 0x1161, 0 }, { 0xff21, 2 },
                                                              { 0xff71, 1 }, { 0x20ac, 1 }, { 0x3000, 2 }, { 0x2fffd, 2 },
                                                              { 0x10ffff, 1 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (char_width(cases[i].c) != cases[i].width)
            fail_msg("U+%04X: expected %d columns, found %d", cases[i].c, cases[i].width, char_width(cases[i].c));
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_keys),    cmocka_unit_test(test_events),     cmocka_unit_test(test_characters),
                                        cmocka_unit_test(test_paste),   cmocka_unit_test(test_history),    cmocka_unit_test(test_completion),
                                        cmocka_unit_test(test_random_keys), cmocka_unit_test(test_drawing), cmocka_unit_test(test_drawing_scrolls),
                                        cmocka_unit_test(test_resize),  cmocka_unit_test(test_width) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
