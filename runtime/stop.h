/* stop: stop strings in a stream of text: found across token borders, and never given out, not even in part. */
#ifndef QUERN_STOP_H
#define QUERN_STOP_H

#include "runtime/base.h"

typedef struct stop_filter {
    const char *const *stops; /* [n] borrowed, not empty strings */
    int n;
    buf held;                 /* text that may be the beginning of a stop string */
    int found;                /* once stop_feed returned true: which one it was */
} stop_filter;

/* Appends to out what is certain not to belong to a stop string; true: one was found, and generation ends before it. */
bool stop_feed(stop_filter *s, const char *text, size_t n, buf *out);
void stop_end(stop_filter *s, buf *out); /* no more text comes: what was held back is given out */
void stop_free(stop_filter *s);

#endif
