/* pooling: how hidden states become an embedding, from the files that sentence-transformers lays beside a model: modules.json
 * lists what follows the transformer, 1_Pooling/config.json says how it pools. It must not know tensors. */
#include <string.h>

#include "tools/convert/convert.h"

/* pooling_mode_*: exactly one is true. */
static int read_modes(checkpoint *c, const char *folder, err *e) {
    static const struct {
        const char *key;
        int pooling;
    } modes[] = { { "pooling_mode_cls_token", 1 }, { "pooling_mode_mean_tokens", 2 }, { "pooling_mode_lasttoken", 3 } };
    char *dir = path_join(&c->mem, c->folder, folder), *path = dir ? path_join(&c->mem, dir, "config.json") : NULL;
    json *root;
    int n = 0;
    if (!path) return fail_memory(e, strlen(folder), "a path");
    if (config_json(&c->mem, path, &root, e)) return -1;
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
        const json *type = json_get(j, "type"), *folder = json_get(j, "path");
        const char *dot = type && type->type == JSON_STRING ? strrchr(type->s, '.') : NULL, *name = dot ? dot + 1 : "";
        if (strcmp(name, "Transformer") == 0) continue;
        if (strcmp(name, "Normalize") == 0) c->arch.normalize = 1;
        else if (strcmp(name, "Pooling") != 0)
            return fail(e, "%s: a module of type %.80s is not known; known: Transformer, Pooling, Normalize", path,
                        type && type->s ? type->s : "missing");
        else if (!folder || folder->type != JSON_STRING || strchr(folder->s, '/'))
            return fail(e, "%s: the pooling module's path: expected a folder's name", path);
        else if (read_modes(c, folder->s, e)) return -1;
    }
    return 0;
}
