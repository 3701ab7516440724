/* schedule_text: texts to embed, and those that encoders read, one of their pieces at a time between the steps of a lane. */
#ifndef QUERN_SERVE_SCHEDULE_TEXT_H
#define QUERN_SERVE_SCHEDULE_TEXT_H

#include "tools/serve/schedule_parts.h"

bool text_embeds(const lane *l, const user *u);    /* is one of u's texts being embedded? */
void text_begin(lane *l, job_state *js, int unit); /* an embedding; nothing is computed yet */
seq *text_next(const lane *l);                     /* whose text comes next; NULL: there is none */
/* A piece of it, and more while they fit in so many seconds. q may be gone afterwards, with its job. */
void text_step(lane *l, seq *q, double room);
void text_drop(job_state *js);                     /* those of a job that ends */

#endif
