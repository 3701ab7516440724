/* screen: draws an edited message on a terminal, below whatever stands there. It gives the bytes to write; it writes nothing. */
#ifndef QUERN_SCREEN_H
#define QUERN_SCREEN_H

#include "tools/run/line.h"

typedef struct screen_row {
    size_t end; /* where its bytes end */
    int width;  /* columns used */
} screen_row;

typedef struct screen {
    const char *prompt, *more;  /* before the first line of a message and before its others; ASCII */
    int columns, rows;          /* of the terminal */
    int at_row, at_column;      /* where the cursor is: rows below the first that was drawn */
    int first, shown;           /* rows of the message that stand there: first .. first + shown */
    buf bytes, drawn;           /* the message's rows one after the other; a screen_row for each */
} screen;

void screen_draw(screen *v, const line *l, buf *out);  /* in the place of what was drawn before */
void screen_leave(screen *v, const line *l, buf *out); /* the whole message, and the cursor on a new row below it */
void screen_clear(screen *v, buf *out);                /* empties the terminal; draw next */
void screen_resize(screen *v, int columns, int rows);  /* the terminal has this size now, and has wrapped its rows anew; draw next */
void screen_free(screen *v);

#endif
