/* grammar_build: a grammar out of a finished network, for those who write networks themselves. Not for others than grammar and schema. */
#ifndef QUERN_GRAMMAR_BUILD_H
#define QUERN_GRAMMAR_BUILD_H

#include "runtime/grammar_mask.h"

/* Takes n over (net_finish has been called), in any case. */
int grammar_of_net(grammar **g, const vocabulary *v, net *n, err *e);

#endif
