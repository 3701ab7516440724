/* saved: sessions as bytes of a stream, and back: what they hold, with a hash of all of it (engine.h has what a session is). */
#ifndef QUERN_SAVED_H
#define QUERN_SAVED_H

#include "runtime/engine.h"

int session_save(const session *s, FILE *f, err *e);
uint64_t engine_cache_key(const engine *g); /* equal where what one saves the other loads: the model, its adapters, the cache's type */
int session_load(session *s, FILE *f, err *e); /* refuses another model's, other adapters', another cache type's, and damaged ones; s is empty then */
/* The same in pieces, between which the engine may work on other sessions. f is borrowed, s is empty for whoever asks, and nothing else is done
 * with it but freeing it, until a piece of about `most` bytes returns 0: all is there, or -1: refused. */
int session_load_begin(session *s, FILE *f, err *e);
int session_load_piece(session *s, size_t most, err *e); /* 1: there is more */

#endif
