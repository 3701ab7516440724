/* Any bytes typed into the editor of a chat: the text stays well-formed, the cursor on a character, the drawing within the terminal. */
#include <stdlib.h>

#include "tokenizer/unicode.h"
#include "tools/run/screen.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const words[] = { "/help", "/save" };
    line l = { .words = words, .n_words = 2 };
    screen v = { .prompt = ">>> ", .more = "... ", .columns = 20, .rows = 5 };
    buf out = { 0 }, message = { 0 };
    for (size_t i = 0; i < n; i++) {
        bool literal;
        line_event event = line_byte(&l, data[i]);
        if (l.at > l.text.n || (l.text.n && !utf8_valid(l.text.p, l.text.n))) abort();
        if (l.at < l.text.n && ((uint8_t)l.text.p[l.at] & 0xc0) == 0x80) abort();
        if (event == LINE_REDRAW) screen_resize(&v, data[i / 2] % 50, data[i / 3] % 20);
        screen_draw(&v, &l, &out);
        if (v.at_row >= v.shown || v.at_row >= (v.rows > 1 ? v.rows : 1) || v.at_column >= (v.columns > 2 ? v.columns : 2)) abort();
        out.n = 0;
        if (event == LINE_DONE && line_take(&l, &message, &literal, NULL)) abort();
    }
    screen_leave(&v, &l, &out);
    buf_free(&out);
    buf_free(&message);
    screen_free(&v);
    line_free(&l);
    return 0;
}
