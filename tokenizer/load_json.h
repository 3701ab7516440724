/* load_json: what the readers of tokenizer.json share. */
#ifndef QUERN_TOKENIZER_LOAD_JSON_H
#define QUERN_TOKENIZER_LOAD_JSON_H

#include "tokenizer/parts.h"

int json_only(const json *j, const char *names, const char *where, err *e); /* names: the members that may be there, by spaces */
int json_bool(const json *j, const char *key, bool otherwise, bool *out, const char *where, err *e);

#endif
