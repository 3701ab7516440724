/* template_sequences: the table of filters over sequences, which ends with an entry without a name. */
#ifndef QUERN_TOKENIZER_TEMPLATE_SEQUENCES_H
#define QUERN_TOKENIZER_TEMPLATE_SEQUENCES_H

#include "tokenizer/template_parts.h"

extern const struct filter sequence_filters[];

#endif
