/* fault: a mapped file that becomes shorter while it is read (cp over a model that is served) costs a process its life: SIGBUS. Here it gets
 * a page of zeros instead, and who computes with the file asks afterwards whether that happened. */
#ifndef QUERN_SERVE_FAULT_H
#define QUERN_SERVE_FAULT_H

#include "runtime/base.h"

enum { FAULTS_KEPT = 64 };

void fault_begin(void); /* of the whole process, from now on */
int fault_count(void);  /* pages that were not there, so far */
int fault_recent(const void *at[FAULTS_KEPT]); /* where: the last ones; how many */

#endif
