/* api: what each path is answered by. 0: a reply was given or a job is on its way (and q may be gone); -1: q->failure says why not. */
#ifndef QUERN_SERVE_API_H
#define QUERN_SERVE_API_H

#include "tools/serve/messages.h"

int openai_models(request *q);
int openai_model(request *q);
int openai_chat(request *q);
int openai_completions(request *q);
int openai_embeddings(request *q);
int responses_create(request *q);
int anthropic_messages(request *q);
int anthropic_count(request *q);
int ollama_root(request *q);
int ollama_version(request *q);
int ollama_tags(request *q);
int ollama_ps(request *q);
int ollama_show(request *q);
int ollama_generate(request *q);
int ollama_chat(request *q);
int ollama_embed(request *q);
int ollama_old_embeddings(request *q);
int ollama_pull(request *q);
int ollama_not_here(request *q);
int ollama_delete(request *q);
int ollama_copy(request *q);
int native_health(request *q);
int native_props(request *q);
int native_slots(request *q);
int native_completion(request *q);
int native_infill(request *q);
int native_tokenize(request *q);
int native_detokenize(request *q);
int native_template(request *q);
int native_lora(request *q);
int native_metrics(request *q);
int native_slot_action(request *q);
void model_of_query(request *q);   /* ?model=NAME, for paths whose body cannot name it: plain names only */
bool infill_known(const model *m); /* has the model fill-in-the-middle tokens? */
int infill_prompt(request *q, const char *before, size_t before_n, const char *behind, size_t behind_n, ids *out);

#endif
