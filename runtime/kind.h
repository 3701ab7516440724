/* kind: what a file is, by its first bytes: enough to list a folder, without opening anything. */
#ifndef QUERN_KIND_H
#define QUERN_KIND_H

#include "runtime/base.h"

typedef enum file_kind {
    KIND_OTHER,     /* it cannot be read, is no file of quern's, or is damaged where this is read: who opens it says how */
    KIND_MODEL,
    KIND_ADAPTER,   /* LoRA: for --lora, and for requests that name it */
    KIND_TOKENIZER  /* a tokenizer alone (convert --vocab-only) */
} file_kind;
file_kind file_kind_of(const char *path); /* reads the header and the keys of the records; checks no hash */

#endif
