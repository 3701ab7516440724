/* pooling: how hidden states become an embedding, from the files that sentence-transformers lays beside a model: modules.json
 * lists what follows the transformer, 1_Pooling/config.json says how it pools, 2_Dense has a matrix of its own. */
#include <string.h>

#include "tools/convert/convert.h"

/* pooling_mode_*: exactly one is true; or pooling_mode, since sentence-transformers 6. */
static int read_modes(checkpoint *c, const char *folder, err *e) {
    static const struct {
        const char *key, *newer;
        int pooling;
    } modes[] = { { "pooling_mode_cls_token", "cls", 1 },
                  { "pooling_mode_mean_tokens", "mean", 2 },
                  { "pooling_mode_lasttoken", "lasttoken", 3 } };
    char *dir = path_join(&c->mem, c->folder, folder), *path = dir ? path_join(&c->mem, dir, "config.json") : NULL;
    json *root;
    int n = 0;
    if (!path) return fail_memory(e, strlen(folder), "a path");
    if (config_json(&c->mem, path, &root, e)) return -1;
    const json *mode = json_get(root, "pooling_mode");
    for (size_t i = 0; mode && i < sizeof modes / sizeof *modes; i++)
        if (json_is(mode, modes[i].newer)) return c->arch.pooling = modes[i].pooling, 0;
    if (mode)
        return fail(e, "%s: pooling_mode: %.60s is not a known way to pool; known: cls, mean, lasttoken", path,
                    mode->s ? mode->s : json_type_name(mode));
    for (const json *j = root->child; j; j = j->next) {
        bool known = false;
        if (strncmp(j->key, "pooling_mode_", 13) != 0 || j->type != JSON_TRUE) continue;
        for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
            if (strcmp(j->key, modes[i].key) == 0) c->arch.pooling = modes[i].pooling, known = true;
        if (!known) return fail(e, "%s: %.60s: not a known way to pool; known: cls_token, mean_tokens, lasttoken", path, j->key);
        n++;
    }
    return n == 1 ? 0 : fail(e, "%s: expected one pooling_mode_... that is true, found %d", path, n);
}

/* A Dense module: a matrix, perhaps a bias, and tanh or nothing. */
static int read_dense(checkpoint *c, const char *folder, err *e) {
    char *dir = path_join(&c->mem, c->folder, folder), *path = dir ? path_join(&c->mem, dir, "config.json") : NULL;
    json *root;
    if (!path) return fail_memory(e, strlen(folder), "a path");
    if (config_json(&c->mem, path, &root, e)) return -1;
    const json *act = json_get(root, "activation_function"), *input = json_get(root, "module_input_name"),
               *to = json_get(root, "module_output_name"), *residual = json_get(root, "use_residual");
    const char *dot = act && act->type == JSON_STRING ? strrchr(act->s, '.') : NULL, *name = dot ? dot + 1 : act ? "" : "Tanh";
    if (c->n_dense == MAX_DENSE) return fail(e, "%s: more than %d Dense modules", path, MAX_DENSE);
    if (strcmp(name, "Tanh") != 0 && strcmp(name, "Identity") != 0)
        return fail(e, "%s: activation_function: %.80s is not known; known: Tanh, Identity", path, act->s ? act->s : json_type_name(act));
    if ((input && input->type != JSON_NULL && !json_is(input, "sentence_embedding")) ||
        (to && to->type != JSON_NULL && !json_is(to, "sentence_embedding")))
        return fail(e, "%s: of a Dense module only one from sentence_embedding to sentence_embedding is known", path);
    if (residual && residual->type != JSON_NULL && residual->type != JSON_FALSE)
        return fail(e, "%s: use_residual is not supported", path);
    if (strcmp(name, "Tanh") == 0) c->arch.dense_tanh |= 1 << c->n_dense;
    c->dense_folder[c->n_dense++] = dir;
    return 0;
}

int pooling_open(checkpoint *c, err *e) {
    for (int i = 0; i < c->n_dense; i++) {
        static const char *const parts[][2] = { { "linear.weight", "weight" }, { "linear.bias", "bias" } };
        safetensors *st = &c->dense[i];
        if (safetensors_open(st, c->dense_folder[i], e)) return -1;
        for (int k = 0; k < 2; k++) {
            char name[32], *copy;
            const st_tensor *t = safetensors_find(st, parts[k][0]);
            snprintf(name, sizeof name, "dense.%d.%s", i, parts[k][1]);
            if (!t && k) continue;
            if (!t) return fail(e, "%s: has no tensor linear.weight", st->shards[0].path);
            if (!(copy = arena_copy(&c->mem, name, strlen(name)))) return fail_memory(e, sizeof name, "a name");
            if (safetensors_put(&c->st, copy, st, t, e)) return -1;
        }
        if (st->n > 2 || (st->n == 2 && !safetensors_find(st, "linear.bias")))
            return fail(e, "%s: expected linear.weight and linear.bias alone", st->shards[0].path);
    }
    return 0;
}

void checkpoint_close(checkpoint *c) {
    safetensors_close(&c->st); /* before those that it borrows */
    for (int i = 0; i < c->n_dense; i++) safetensors_close(&c->dense[i]);
    c->n_dense = 0;
}

static const char *module_folder(const json *j) {
    const json *folder = json_get(j, "path");
    return folder && folder->type == JSON_STRING && !strchr(folder->s, '/') ? folder->s : NULL;
}

/* One entry of modules.json, of the class `name`: pooling, then matrices, then the scaling. */
static int read_module(checkpoint *c, const char *path, const json *j, const char *name, err *e) {
    const char *folder = module_folder(j);
    bool pooling = strcmp(name, "Pooling") == 0, dense = strcmp(name, "Dense") == 0;
    if (strcmp(name, "Transformer") == 0) return 0;
    if (!pooling && !dense && strcmp(name, "Normalize") != 0)
        return fail(e, "%s: a module of type %.80s is not known; known: Transformer, Pooling, Dense, Normalize", path,
                    json_get(j, "type") && json_get(j, "type")->s ? json_get(j, "type")->s : "missing");
    if ((pooling || dense) && !folder) return fail(e, "%s: the %s module's path: expected a folder's name", path, name);
    if (c->arch.normalize || (pooling && c->arch.pooling) || (dense && !c->arch.pooling))
        return fail(e, "%s: the order of the modules is not known: expected Pooling, Dense, Normalize", path);
    if (pooling) return read_modes(c, folder, e);
    if (dense) return read_dense(c, folder, e);
    return c->arch.normalize = 1, 0;
}

int pooling_load(checkpoint *c, err *e) {
    if (c->gguf.path) return gguf_pooling(c, e);
    char *path = path_join(&c->mem, c->folder, "modules.json");
    json *root;
    buf text = { 0 };
    err inner = { 0 };
    if (!path) return fail_memory(e, strlen(c->folder), "a path");
    if (!file_exists(path)) return 0;
    int rc = read_file(path, 1 << 20, &text, e);
    if (!rc && json_parse(&c->mem, text.p, text.n, &root, &inner)) rc = fail_code(e, inner.code, "%s: %s", path, inner.msg);
    buf_free(&text);
    if (rc) return -1;
    if (root->type != JSON_ARRAY) return fail(e, "%s: expected a list, found %s", path, json_type_name(root));
    for (const json *j = root->child; j; j = j->next) {
        const json *type = json_get(j, "type");
        const char *dot = type && type->type == JSON_STRING ? strrchr(type->s, '.') : NULL;
        if (read_module(c, path, j, dot ? dot + 1 : "", e)) return -1;
    }
    return 0;
}
