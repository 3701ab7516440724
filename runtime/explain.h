/* explain: where the time of forward passes goes: by step and by layer, with what each step read and computed, held against what this
 * machine can do, and one sentence that says what binds. It sees an engine from outside, through its tap. */
#ifndef QUERN_EXPLAIN_H
#define QUERN_EXPLAIN_H

#include "runtime/engine.h"

typedef struct explain explain;
int explain_new(explain **x, engine *g, err *e);
void explain_free(explain *x);

/* Between these two the engine's passes are counted; both may be called again. begin takes the engine's tap, end gives it back. */
void explain_begin(explain *x);
void explain_end(explain *x);

/* What the machine can do: bytes a second, operations a second of the weights' products and of attention's. Measured in the same run. */
typedef struct explain_limits {
    double read, matrix_ops, attention_ops;
} explain_limits;
explain_limits explain_measure(engine *g);

/* The table and the sentence; nothing if no pass was counted. what: "prompt", "decode". */
void explain_report(const explain *x, const char *what, const explain_limits *l, buf *out);

#endif
