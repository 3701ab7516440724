/* terminal: the one that a chat is typed on. There is one for a process, because signals have to put it back. */
#ifndef QUERN_TERMINAL_H
#define QUERN_TERMINAL_H

#include <stdatomic.h>

#include "tools/run/line.h"

/* From here to terminal_close typing is not echoed and waits for the editor; Ctrl-C sets *stop, and a second one before it was
 * cleared ends the program. False: stdin and stdout are not both a terminal that can move its cursor, and nothing was changed. */
bool terminal_open(atomic_bool *stop);
void terminal_close(void); /* as it was found; signals that end the program do this too */

/* Edits l below what stands on the screen, until it is LINE_DONE, LINE_CANCEL or LINE_END; the cursor is on a new row then.
 * A message that was begun is gone on with. LINE_END also when the terminal has gone. */
line_event terminal_edit(line *l, const char *prompt, const char *more);
void terminal_forget(void); /* what was typed ahead and not read yet */

#endif
