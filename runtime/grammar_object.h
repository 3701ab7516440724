/* grammar_object: what an object keeps beside its phase: which properties have come. Not for others than grammar_stacks.c. */
#ifndef QUERN_GRAMMAR_OBJECT_H
#define QUERN_GRAMMAR_OBJECT_H

#include "runtime/grammar_stacks.h"

typedef struct object_data {
    uint32_t prefix;  /* blob: of the key being written */
    uint32_t others;  /* blob: the last other key and those before it */
    uint32_t count;   /* properties that have come */
    uint32_t value;   /* rule of the value that comes now */
    uint8_t text;     /* json_text_step's state within the key */
    bool apart;       /* masks: the key is none that could be forbidden */
    bool lost;        /* masks: another key came that was not kept */
    uint8_t pad[5];
    uint64_t seen[];  /* bits by property */
} object_data;

uint32_t stacks_blob(stacks *s, const void *p, uint32_t n); /* the number of these bytes; 0: none of them */
const void *stacks_blob_at(const stacks *s, uint32_t id, uint32_t *n);
uint32_t object_begin(stacks *s, const net_object *o);
/* A byte in a phase: the phase behind it and its data; PHASES: not allowed. */
uint32_t object_byte(stacks *s, const net_object *o, uint32_t phase, uint32_t *data, uint8_t byte);
bool object_may_close(const stacks *s, const net_object *o, uint32_t data);
bool object_may_go_on(const stacks *s, const net_object *o, uint32_t data); /* can another property come? */
uint32_t object_value(const stacks *s, uint32_t data); /* its rule */
uint32_t object_settled(stacks *s, const net_object *o, uint32_t data); /* what is kept while the value is written */
uint32_t object_copy(stacks *to, const stacks *from, const net_object *o, uint32_t data);
uint32_t object_for_walk(stacks *s, const net_object *o, uint32_t phase, uint32_t data);

#endif
