/* layers: what varies by layer, and the few settings that are more than a key: windows, rope tables, shared keys and values,
 * experts, sparsity. Each function is the `special` of one or more rows of families.c; each follows transformers' configuration
 * class of that family where a key is missing. It must not know tensors. */
#include <math.h>
#include <string.h>

#include "tools/convert/families.h"

static bool absent(const json *j) { return !j || j->type == JSON_NULL; }
static const char *shown(const json *j) { return j && j->s ? j->s : json_type_name(j); }

/* ---- windows ---- */

/* sliding_window: 0 for null; otherwise where the key is missing. */
static int read_window(checkpoint *c, double otherwise, int *window, err *e) {
    const json *j = json_get(c->config, "sliding_window");
    *window = 0;
    return j && j->type == JSON_NULL ? 0 : config_int(c, "sliding_window", 1, 1 << 28, otherwise, window, e);
}

static int window_everywhere(checkpoint *c, double otherwise, err *e) {
    int window;
    if (read_window(c, otherwise, &window, e)) return -1;
    for (int l = 0; l < c->arch.n_layers; l++) c->arch.window[l] = window;
    return 0;
}

int layers_window(checkpoint *c, err *e) { return window_everywhere(c, 0, e); }

/* transformers: MistralConfig.sliding_window is 4096 where the key is missing; null means none. */
int layers_mistral(checkpoint *c, err *e) { return window_everywhere(c, 4096, e); }

/* layer_types, where it stands, says it of each layer; else all but each pattern-th have a window (pattern 0: none has). */
static int windows_by_type(checkpoint *c, int window, int pattern, err *e) {
    const json *types = json_get(c->config, "layer_types");
    int n = c->arch.n_layers, l = 0;
    for (int i = 0; i < n; i++) c->arch.window[i] = pattern && (i + 1) % pattern ? window : 0;
    if (absent(types)) return 0;
    if (types->type != JSON_ARRAY || types->n != (uint32_t)n)
        return fail(e, "%s: layer_types: expected a list of %d, found %s of %u", c->config_path, n, json_type_name(types),
                    types->n);
    for (const json *t = types->child; t; t = t->next, l++) {
        bool sliding = json_is(t, "sliding_attention");
        if (!sliding && !json_is(t, "full_attention"))
            return fail(e, "%s: layer_types: expected \"full_attention\" or \"sliding_attention\", found %.40s", c->config_path,
                        shown(t));
        c->arch.window[l] = sliding ? window : 0;
    }
    return 0;
}

/* transformers: without use_sliding_window no layer has a window; with it those from max_window_layers on. */
int layers_qwen(checkpoint *c, err *e) {
    int window = 0, first = 0;
    if (config_true(c, "use_sliding_window") && read_window(c, 4096, &window, e)) return -1;
    if (windows_by_type(c, window, 0, e)) return -1;
    if (!window || !absent(json_get(c->config, "layer_types"))) return 0;
    if (config_int(c, "max_window_layers", 0, 1 << 20, 28, &first, e)) return -1;
    for (int l = first; l < c->arch.n_layers; l++) c->arch.window[l] = window;
    return 0;
}

int layers_alternate(checkpoint *c, err *e) {
    int window;
    return read_window(c, 4096, &window, e) || windows_by_type(c, window, 2, e) ? -1 : 0;
}

/* ---- experts ---- */

static int dense_layers(checkpoint *c, err *e) {
    const json *list = json_get(c->config, "mlp_only_layers");
    if (absent(list)) return 0;
    if (list->type != JSON_ARRAY)
        return fail(e, "%s: mlp_only_layers: expected a list, found %s", c->config_path, json_type_name(list));
    for (const json *j = list->child; j; j = j->next) {
        int64_t l;
        if (json_int(j, &l) || l < 0)
            return fail(e, "%s: mlp_only_layers: expected numbers of layers, found %.40s", c->config_path, shown(j));
        if (l < c->arch.n_layers) c->mixture[l] = false;
    }
    return 0;
}

static int read_mixture(checkpoint *c, err *e) {
    int n = c->arch.n_layers, step;
    if (config_int(c, "decoder_sparse_step", 1, 1 << 20, 1, &step, e)) return -1;
    if (!(c->mixture = arena_alloc(&c->mem, (size_t)n * sizeof *c->mixture))) return fail_memory(e, (size_t)n, "layers");
    for (int l = 0; l < n; l++) c->mixture[l] = (l + 1) % step == 0;
    return dense_layers(c, e);
}

/* transformers: with use_sliding_window each second layer of the first max_window_layers has a window; */
int layers_qwen2_moe(checkpoint *c, err *e) {
    int window = 0, first;
    if (read_mixture(c, e) || config_int(c, "max_window_layers", 0, 1 << 20, 28, &first, e)) return -1;
    if (config_true(c, "use_sliding_window") && read_window(c, 4096, &window, e)) return -1;
    if (windows_by_type(c, window, 2, e)) return -1;
    for (int l = first; l < c->arch.n_layers && absent(json_get(c->config, "layer_types")); l++) c->arch.window[l] = 0;
    return 0;
}

/* here, every layer. */
int layers_qwen3_moe(checkpoint *c, err *e) {
    return read_mixture(c, e) || (config_true(c, "use_sliding_window") && window_everywhere(c, 4096, e)) ? -1 : 0;
}

/* ---- Gemma 3 and 3n ---- */

/* Layers with a window rotate by the second table. */
static void local_ropes(checkpoint *c) {
    for (int l = 0; l < c->arch.n_layers; l++) c->arch.rope[l] = c->arch.window[l] ? 1 : 0;
}

int layers_gemma3(checkpoint *c, err *e) {
    int window, pattern;
    const char *key = absent(json_get(c->config, "_sliding_window_pattern")) ? "sliding_window_pattern" : "_sliding_window_pattern";
    if (read_window(c, 4096, &window, e) || config_int(c, key, 1, 1 << 20, 6, &pattern, e) ||
        windows_by_type(c, window, pattern, e))
        return -1;
    local_ropes(c);
    return 0;
}

/* The last layers read the keys and values of the last layer of their kind before them. */
static int share_kv(checkpoint *c, err *e) {
    arch *a = &c->arch;
    int n;
    if (config_int(c, "num_kv_shared_layers", 0, a->n_layers, 15, &n, e)) return -1;
    if (n > a->n_layers) return fail(e, "%s: num_kv_shared_layers is %d, num_hidden_layers %d", c->config_path, n, a->n_layers);
    for (int l = a->n_layers - n; n < a->n_layers && l < a->n_layers; l++) {
        int owner = a->n_layers - n - 1;
        while (owner >= 0 && a->window[owner] != a->window[l]) owner--;
        if (owner < 0)
            return fail(e, "%s: num_kv_shared_layers: layer %d has no layer of its kind before layer %d", c->config_path, l,
                        a->n_layers - n);
        a->kv_layer[l] = owner;
    }
    return 0;
}

/* The standard normal distribution's quantile: the multiple of the deviation that a share p of gates lies below. */
static double normal_quantile(double p) {
    double low = -40, high = 40;
    for (int i = 0; i < 200; i++) {
        double x = (low + high) / 2;
        if (0.5 * erfc(-x / sqrt(2)) < p) low = x;
        else high = x;
    }
    return (low + high) / 2;
}

static int sparsity_of(checkpoint *c, const json *j, int l, err *e) {
    double p;
    if (json_num(j, &p) || !(p >= 0 && p < 1))
        return fail(e, "%s: activation_sparsity_pattern: expected numbers from 0, below 1, found %.40s", c->config_path, shown(j));
    float x = p > 0 ? (float)normal_quantile(p) : 0;
    c->arch.sparsity[l] = p > 0 && fabsf(x) < 1e-30f ? 1e-30f : x; /* 0 would mean: off */
    return 0;
}

/* The multiples themselves, as GGUF files have them. */
static int read_sparsity_scale(checkpoint *c, const json *list, err *e) {
    int l = 0;
    if (list->type != JSON_ARRAY || list->n != (uint32_t)c->arch.n_layers)
        return fail(e, "%s: activation_sparsity_scale: expected a list of %d, found %s of %u", c->config_path, c->arch.n_layers,
                    json_type_name(list), list->n);
    for (const json *j = list->child; j; j = j->next) {
        double x;
        if (json_num(j, &x)) return fail(e, "%s: activation_sparsity_scale: expected numbers, found %.40s", c->config_path, shown(j));
        c->arch.sparsity[l++] = (float)x;
    }
    return 0;
}

static int read_sparsity(checkpoint *c, err *e) {
    const json *list = json_get(c->config, "activation_sparsity_pattern"), *scale = json_get(c->config, "activation_sparsity_scale");
    int n = c->arch.n_layers, l = 0;
    if (!absent(scale)) return read_sparsity_scale(c, scale, e);
    if (absent(list)) {
        for (int i = 0; n > 10 && i < 10; i++) c->arch.sparsity[i] = (float)normal_quantile(0.95);
        return 0;
    }
    if (list->type != JSON_ARRAY) {
        for (int i = 0; i < n; i++)
            if (sparsity_of(c, list, i, e)) return -1;
        return 0;
    }
    if (list->n != (uint32_t)n)
        return fail(e, "%s: activation_sparsity_pattern: expected a list of %d, found %u", c->config_path, n, list->n);
    for (const json *j = list->child; j; j = j->next)
        if (sparsity_of(c, j, l++, e)) return -1;
    return 0;
}

void widths_settle(arch *a) {
    a->d_ff = 0;
    for (int l = 0; l < a->n_layers; l++) a->d_ff = max_int(a->d_ff, a->ff[l]);
    for (int l = 0; l < a->n_layers; l++)
        if (a->ff[l] == a->d_ff) a->ff[l] = 0;
}

/* intermediate_size may be a list, one for each layer; config.c took the largest. */
static int read_widths(checkpoint *c, err *e) {
    const json *list = json_get(c->config, "intermediate_size");
    int l = 0;
    if (absent(list) || list->type != JSON_ARRAY) return 0;
    if (list->n != (uint32_t)c->arch.n_layers)
        return fail(e, "%s: intermediate_size: expected a list of %d, one for each layer, found %u", c->config_path,
                    c->arch.n_layers, list->n);
    for (const json *j = list->child; j; j = j->next, l++) {
        int64_t v;
        if (json_int(j, &v) == 0) c->arch.ff[l] = (int)v;
    }
    widths_settle(&c->arch);
    return 0;
}

int layers_gemma3n(checkpoint *c, err *e) {
    int window;
    if (read_window(c, 512, &window, e) || windows_by_type(c, window, 5, e) ||
        config_int(c, "laurel_rank", 1, 1 << 20, 64, &c->laurel_rank, e))
        return -1;
    local_ropes(c);
    return read_widths(c, e) || share_kv(c, e) || read_sparsity(c, e) ? -1 : 0;
}

/* ---- the others ---- */

/* no_rope_layers: 1 rotates, 0 does not. With a window, the layers that do not rotate have it. */
int layers_smollm3(checkpoint *c, err *e) {
    const json *list = json_get(c->config, "no_rope_layers");
    int n = c->arch.n_layers, every, window = 0, l = 0;
    if (config_int(c, "no_rope_layer_interval", 1, 1 << 20, 4, &every, e)) return -1;
    for (int i = 0; i < n; i++) c->arch.rope[i] = (i + 1) % every ? 0 : -1;
    if (!absent(list)) {
        if (list->type != JSON_ARRAY || list->n != (uint32_t)n)
            return fail(e, "%s: no_rope_layers: expected a list of %d, found %s of %u", c->config_path, n, json_type_name(list),
                        list->n);
        for (const json *j = list->child; j; j = j->next, l++) {
            int64_t rotates;
            if (json_int(j, &rotates) || rotates < 0 || rotates > 1)
                return fail(e, "%s: no_rope_layers: expected 0 or 1, found %.40s", c->config_path, shown(j));
            c->arch.rope[l] = rotates ? 0 : -1;
        }
    }
    if (config_true(c, "use_sliding_window") && read_window(c, 0, &window, e)) return -1;
    if (windows_by_type(c, window, 0, e)) return -1;
    for (int i = 0; i < n && absent(json_get(c->config, "layer_types")); i++) c->arch.window[i] = c->arch.rope[i] < 0 ? window : 0;
    return 0;
}

/* feed_forward_proj: "relu", or "gated-gelu", whose gelu is the tanh form. A tied head reads hidden states times d_model^-0.5;
 * transformers 5, which ties always, says so in scale_decoder_outputs. */
int layers_t5(checkpoint *c, err *e) {
    const json *j = json_get(c->config, "feed_forward_proj");
    const char *name = absent(j) || !j->s ? "relu" : j->s;
    c->gated = strncmp(name, "gated-", 6) == 0;
    if (config_activation(c, "feed_forward_proj", strcmp(name, "gated-gelu") == 0 ? "gelu_new" : c->gated ? name + 6 : name, e))
        return -1;
    if (config_int(c, "relative_attention_num_buckets", 4, 1 << 16, 32, &c->n_buckets, e)) return -1;
    if (config_int(c, "relative_attention_max_distance", 1, 1 << 18, 128, &c->max_distance, e)) return -1;
    if (c->max_distance <= c->n_buckets / 2)
        return fail(e,
                    "%s: relative_attention_max_distance: expected more than half of relative_attention_num_buckets, %d, found %d",
                    c->config_path, c->n_buckets, c->max_distance);
    const json *scaled = json_get(c->config, "scale_decoder_outputs");
    if (absent(scaled) ? c->tied : scaled->type == JSON_TRUE) c->arch.logit_scale = (float)(1 / sqrt(c->arch.d_model));
    return 0;
}

int layers_bert(checkpoint *c, err *e) { return config_int(c, "type_vocab_size", 1, 1 << 20, 2, &c->n_types, e); }

/* transformers: the new architecture has num_kv_heads, and two norms unless it says 1; the old one has one key and value for all
 * queries (multi_query) or one for each, and one norm, or a second one behind attention where the MLP follows it. */
int layers_falcon(checkpoint *c, err *e) {
    arch *a = &c->arch;
    bool new_kind = config_true(c, "new_decoder_architecture");
    const json *parallel = json_get(c->config, "parallel_attn"), *queries = json_get(c->config, "multi_query");
    int norms;
    if (config_int(c, "num_ln_in_parallel_attn", 1, 2, new_kind ? 2 : 1, &norms, e)) return -1;
    if (!absent(parallel) && parallel->type == JSON_FALSE) a->parallel = 0;
    if (new_kind && !a->parallel)
        return fail(e, "%s: parallel_attn: false is not known together with new_decoder_architecture", c->config_path);
    if (!new_kind && norms == 2)
        return fail(e, "%s: num_ln_in_parallel_attn: 2 is not known without new_decoder_architecture", c->config_path);
    if (!new_kind) a->n_kv_heads = !absent(queries) && queries->type == JSON_FALSE ? a->n_heads : 1;
    c->two_norms = norms == 2;
    return 0;
}
