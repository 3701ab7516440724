/* schema: a JSON Schema (2020-12, the part that can be kept exactly) as a grammar: what is completed under it validates. Whatever cannot be
 * kept is an error that names its place, "#/properties/a/not: ...". README.md lists what can.
 *
 * The grammar is narrower than the schema where JSON writes one thing in several ways: characters are written as themselves or with the
 * shortest escape, numbers have up to 15 digits (whole ones 18) and two of exponent, space between tokens is bounded. */
#ifndef QUERN_SCHEMA_H
#define QUERN_SCHEMA_H

#include "runtime/grammar.h"

enum {
    SCHEMA_MAX_PROPERTIES = 4096, /* of one object */
    SCHEMA_MAX_CHOICES = 1024,    /* alternatives that anyOf and oneOf within one another multiply to */
};

int schema_compile(grammar **g, const vocabulary *v, const char *schema, size_t n, err *e);
/* A grammar in GBNF that uses rules which it does not define: each a JSON value that a schema allows. *which: the schema an error is of;
 * -1: the grammar itself. */
typedef struct schema_rule {
    const char *name, *schema;
    size_t n;
    const char *at; /* the value's place in the schema, a JSON pointer ("/properties/x"); NULL: the whole */
    bool raw;       /* only its strings, as they are: no quotes, no escapes, no '<', no control characters but tab and line end */
} schema_rule;
int schema_compile_within(grammar **g, const vocabulary *v, const char *gbnf, size_t n, const schema_rule *r, int n_rules, int *which, err *e);
/* What a JSON pointer ("/properties/x", escaped as in a URI) leads to; NULL: nowhere. */
const json *schema_at(const json *root, const char *pointer);
/* One more step of a JSON pointer as it stands in a URI and in a message: ~ and / escaped, control characters in per cent. */
void schema_pointer_add(buf *b, const char *key, size_t n);
int schema_any_object(grammar **g, const vocabulary *v, err *e); /* any JSON object */

#endif
