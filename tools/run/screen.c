/* screen: lays a message out in rows and gives the bytes that draw them (screen.h). Every row is written by itself and ended by a
 * line feed, never by the terminal's own wrapping, whose moment differs from one terminal to the next. It knows the cursor
 * movements of ECMA-48; it must not know keys, descriptors or signals. */
#include "tools/run/screen.h"

#include <string.h>

#include "tokenizer/unicode.h"
#include "tools/run/width.h"

enum { TAB = 8 };

typedef struct layout {
    screen *v;
    int columns, n_rows;
    int column;                /* in the row that is being filled */
    int cursor_row, cursor_column;
} layout;

static const screen_row *row_at(const screen *v, int i) { return (const screen_row *)(const void *)v->drawn.p + i; }

static void put(layout *y, const char *s, size_t n, int width) {
    buf_add(&y->v->bytes, s, n);
    y->column += width;
}

static void end_row(layout *y) {
    screen_row r = { y->v->bytes.n, y->column };
    buf_add(&y->v->drawn, &r, sizeof r);
    y->n_rows++;
    y->column = 0;
}

static void put_prompt(layout *y, const char *prompt) {
    int width = (int)strlen(prompt);
    if (width + 2 <= y->columns) put(y, prompt, (size_t)width, width);
}

static void put_cursor(layout *y) {
    if (y->column == y->columns) end_row(y); /* a row that is full has no place for it */
    y->cursor_row = y->n_rows;
    y->cursor_column = y->column;
}

static int width_at(const layout *y, uint32_t c) {
    if (c != '\t') return char_width(c);
    return y->column == y->columns ? min_int(TAB, y->columns) : min_int(TAB - y->column % TAB, y->columns - y->column);
}

/* place: keep one for the cursor behind the last character. */
static layout lay_out(screen *v, const line *l, bool place) {
    layout y = { .v = v, .columns = max_int(v->columns, 2) };
    v->bytes.n = v->drawn.n = 0;
    put_prompt(&y, v->prompt);
    for (size_t at = 0; at < l->text.n;) {
        int len;
        uint32_t c = utf8_next(l->text.p + at, &len);
        int width = c == '\n' ? 0 : width_at(&y, c);
        if (y.column + width > y.columns) end_row(&y);
        if (at == l->at) put_cursor(&y);
        if (c == '\n') {
            end_row(&y);
            put_prompt(&y, v->more);
        } else put(&y, c == '\t' ? "        " : l->text.p + at, c == '\t' ? (size_t)width : (size_t)len, width);
        at += (size_t)len;
    }
    if (place && l->at == l->text.n) put_cursor(&y);
    end_row(&y);
    return y;
}

static void move(buf *out, int n, char direction) {
    if (n > 0) buf_fmt(out, "\x1b[%d%c", n, direction);
}

static void to_first_row(const screen *v, buf *out) {
    move(out, v->at_row, 'A');
    buf_str(out, "\r\x1b[J"); /* and nothing below */
}

static void put_rows(const screen *v, int from, int n, buf *out) {
    for (int i = from; i < from + n; i++) {
        size_t start = i ? row_at(v, i - 1)->end : 0;
        if (i > from) buf_str(out, "\r\n");
        if (row_at(v, i)->end > start) buf_add(out, v->bytes.p + start, row_at(v, i)->end - start);
    }
}

/* Of a message with more rows than the terminal those around the cursor are shown. */
static void choose_rows(screen *v, const layout *y) {
    int rows = max_int(v->rows, 1);
    v->shown = min_int(y->n_rows, rows);
    v->first = min_int(v->first, y->n_rows - v->shown);
    if (y->cursor_row < v->first) v->first = y->cursor_row;
    if (y->cursor_row >= v->first + rows) v->first = y->cursor_row - rows + 1;
}

void screen_draw(screen *v, const line *l, buf *out) {
    to_first_row(v, out);
    layout y = lay_out(v, l, true);
    if (v->bytes.failed || v->drawn.failed) { /* nothing to draw with; line_take will say it */
        v->at_row = v->shown = 0;
        return;
    }
    choose_rows(v, &y);
    put_rows(v, v->first, v->shown, out);
    v->at_row = y.cursor_row - v->first;
    v->at_column = y.cursor_column;
    move(out, v->shown - 1 - v->at_row, 'A');
    buf_byte(out, '\r');
    move(out, v->at_column, 'C');
}

void screen_leave(screen *v, const line *l, buf *out) {
    to_first_row(v, out);
    layout y = lay_out(v, l, false);
    if (!v->bytes.failed && !v->drawn.failed) put_rows(v, 0, y.n_rows, out);
    buf_str(out, "\r\n");
    v->at_row = v->at_column = v->first = v->shown = 0;
}

void screen_clear(screen *v, buf *out) {
    buf_str(out, "\x1b[H\x1b[2J");
    v->at_row = v->at_column = v->shown = 0;
}

void screen_resize(screen *v, int columns, int rows) {
    int above = 0;
    columns = max_int(columns, 2);
    for (int i = v->first; i < v->first + v->at_row; i++) above += max_int(1, (row_at(v, i)->width + columns - 1) / columns);
    v->at_row = v->shown ? min_int(above + v->at_column / columns, max_int(rows, 1) - 1) : 0;
    v->columns = columns;
    v->rows = rows;
}

void screen_free(screen *v) {
    buf_free(&v->bytes);
    buf_free(&v->drawn);
}
