/* infill: the text around a gap as the prompt of a model that was trained to fill it. The tokens are known by their names; a model
 * without them is told so, nothing is guessed. */
#include <string.h>

#include "tools/serve/api.h"

/* Names of the families' tokens: before the gap, behind it, and where the answer begins. */
static const char *const fim_tokens[][3] = {
    { "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>" },                                     /* Qwen, CodeGemma */
    { "<fim_prefix>", "<fim_suffix>", "<fim_middle>" },                                           /* StarCoder, Granite */
    { "<fim-prefix>", "<fim-suffix>", "<fim-middle>" },
    { "\xe2\x96\x81<PRE>", "\xe2\x96\x81<SUF>", "\xe2\x96\x81<MID>" },                            /* Code Llama */
    { "<PRE>", "<SUF>", "<MID>" },
    /* DeepSeek */
    { "<\xef\xbd\x9c" "fim\xe2\x96\x81" "begin\xef\xbd\x9c>", "<\xef\xbd\x9c" "fim\xe2\x96\x81hole\xef\xbd\x9c>",
      "<\xef\xbd\x9c" "fim\xe2\x96\x81" "end\xef\xbd\x9c>" },
    { "<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>" },
};

static bool find(const tokenizer *t, int32_t out[3]) {
    for (size_t i = 0; i < sizeof fim_tokens / sizeof *fim_tokens; i++) {
        bool all = true;
        for (int k = 0; k < 3; k++) {
            out[k] = tokenizer_id(t, fim_tokens[i][k], strlen(fim_tokens[i][k]));
            all &= out[k] >= 0;
        }
        if (all) return true;
    }
    return false;
}

bool infill_known(const model *m) {
    int32_t unused[3];
    return m->tok && find(m->tok, unused);
}

/* prefix-suffix-middle, the order all of these families know; BOS where the tokenizer adds one. */
int infill_prompt(request *q, const char *before, size_t before_n, const char *behind, size_t behind_n, ids *out) {
    int32_t fim[3];
    if (request_tokenizer(q)) return -1;
    if (!find(q->m->tok, fim))
        return request_fail(q, JOB_UNSUPPORTED, "suffix",
                            "model '%s' has no fill-in-the-middle tokens (such as <|fim_prefix|>): it was not trained to fill gaps", q->m->name);
    size_t start = out->n;
    if (request_encode(q, "", 0, TOK_SPECIAL, out)) return -1;
    int32_t bos = tokenizer_bos(q->m->tok);
    if (out->n > start) out->n = start + (bos >= 0 && out->p[start] == bos); /* BOS alone: no EOS before the text */
    ids_add(out, fim[0]);
    if (request_encode(q, before, before_n, 0, out)) return -1;
    ids_add(out, fim[1]);
    if (request_encode(q, behind, behind_n, 0, out)) return -1;
    ids_add(out, fim[2]);
    return out->failed ? request_fail(q, JOB_MEMORY, NULL, "out of memory") : 0;
}
