/* line: edits one message. Bytes as a terminal sends them go in, a text with a cursor comes out; keys are those of readline.
 *
 *   line l = { 0 };
 *   for (...) switch (line_byte(&l, byte)) { case LINE_DONE: line_take(&l, &message, &literal, &e); ... }
 *
 * A message has several lines after Alt-Enter, after a backslash at its end, after a paste, or between two """. */
#ifndef QUERN_LINE_H
#define QUERN_LINE_H

#include "runtime/base.h"

typedef enum line_event {
    LINE_MORE,    /* the text or the cursor may have changed */
    LINE_DONE,    /* Enter on a finished message: line_take */
    LINE_CANCEL,  /* Ctrl-C; the text is as it was: line_clear */
    LINE_END,     /* Ctrl-D on an empty message */
    LINE_REDRAW,  /* Ctrl-L: on an empty screen, please */
    LINE_SUSPEND, /* Ctrl-Z */
} line_event;

typedef struct line {
    buf text;                        /* well-formed UTF-8; of the control characters only \n and \t */
    size_t at;                       /* the cursor: in bytes, where a character begins or at the end */
    const char *const *words;        /* [n_words] what Tab completes at the beginning of a message; borrowed */
    int n_words;
    buf cut, draft;                  /* for Ctrl-Y; the new message while an older one is shown */
    buf *past;                       /* [n_past] earlier messages */
    int n_past, cap_past, shown;     /* shown: which one is being edited; n_past: none */
    char key[32];                    /* bytes of a key or character that is not complete yet */
    size_t n_key;
    bool pasting, after_cr;
} line;

line_event line_byte(line *l, int byte);
/* The finished message, appended to out; the history keeps it as it was typed, and the editor is empty again. literal: it stood
 * between """ and is no command, whatever it begins with. */
int line_take(line *l, buf *out, bool *literal, err *e);
void line_clear(line *l); /* forgets the text, keeps the history */
void line_free(line *l);

/* The rules of several lines, for input that comes line by line as well. */
bool message_open(const char *s, size_t n);                        /* is more to come? */
void message_go_on(buf *message, size_t *at);                      /* Enter on an open one: a new line, where the cursor is then */
void message_text(const char *s, size_t n, buf *out, bool *literal); /* what a finished one says, without the signs that held it open */

#endif
