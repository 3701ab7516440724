/* families: what convert does with settings of a family that it does not have, with tensors that do not fit, and with the other
 * types of weights. Each refusal is made of a fixture by changing one setting in its config.json, and must name it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <math.h>
#include "tests/models.h"
#include "weights/safetensors.h"

/* A copy of a fixture in the work folder, its config.json changed: `from`, which must be there, becomes `to`. */
static const char *changed(const char *name, const char *file, const char *from, const char *to) {
    static char folder[512];
    char path[1024], command[2600];
    buf text = { 0 }, out = { 0 };
    err e = { 0 };
    snprintf(folder, sizeof folder, "%s/changed", work_dir);
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r 'tests/fixtures/golden/%s' '%s'", folder, name, folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    must(read_file(path, 0, &text, &e), &e);
    const char *at = strstr(text.p, from);
    if (!at) fail_msg("%s/%s: %s is not there", name, file, from);
    buf_add(&out, text.p, (size_t)(at - text.p));
    buf_str(&out, to);
    buf_str(&out, at + strlen(from));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(out.p, 1, out.n, f), out.n);
    fclose(f);
    buf_free(&text);
    buf_free(&out);
    return folder;
}

/* Converts a folder; the exit status, and in *said what it printed. The output lies at work_dir/changed.bin. */
static int convert(const char *folder, buf *said) {
    char command[2600], log[512];
    err e = { 0 };
    snprintf(log, sizeof log, "%s/log", work_dir);
    snprintf(command, sizeof command, "rm -f '%s/changed.bin'; '%s/convert' '%s' -o '%s/changed.bin' --type f32 2>'%s'", work_dir,
             bin_dir(), folder, work_dir, log);
    int status = system(command);
    must(read_file(log, 0, said, &e), &e);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool written(void) {
    char path[512];
    snprintf(path, sizeof path, "%s/changed.bin", work_dir);
    return access(path, F_OK) == 0;
}

static const struct {
    const char *name, *from, *to, *mention;
} refusals[] = {
    { "phi", "\"qk_layernorm\": false", "\"qk_layernorm\": true", "self_attn.q_layernorm.weight is missing" },
    { "phi", "\"partial_rotary_factor\": 0.4", "\"partial_rotary_factor\": 0.01", "partial_rotary_factor" },
    { "stablelm", "\"qk_layernorm\": false", "\"qk_layernorm\": true", "q_layernorm.norms.0.weight is missing" },
    { "stablelm_qk", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 1", "k_proj.weight" },
    { "cohere", "\"use_qk_norm\": false", "\"use_qk_norm\": true", "self_attn.q_norm.weight is missing, expected of shape [4, 16]" },
    { "falcon", "\"alibi\": false", "\"alibi\": true", "alibi" },
    { "falcon", "\"new_decoder_architecture\": true", "\"new_decoder_architecture\": false", "input_layernorm.weight is missing" },
    { "falcon", "\"parallel_attn\": true", "\"parallel_attn\": false", "parallel_attn" },
    { "falcon_one_norm", "\"num_ln_in_parallel_attn\": 1", "\"num_ln_in_parallel_attn\": 3", "num_ln_in_parallel_attn" },
    { "falcon_old", "\"multi_query\": true", "\"num_ln_in_parallel_attn\": 2", "num_ln_in_parallel_attn" },
    { "falcon_old", "\"multi_query\": true", "\"multi_query\": false", "query_key_value.weight" },
    { "olmo", "\"clip_qkv\": null", "\"clip_qkv\": 8.0", "clip_qkv" },
    { "gpt2", "\"n_embd\": 64", "\"scale_attn_by_inverse_layer_idx\": true, \"n_embd\": 64", "scale_attn_by_inverse_layer_idx" },
    { "gpt2", "\"gelu_new\"", "\"quick_gelu\"", "quick_gelu" },
    { "gpt2", "\"n_positions\": 64", "\"n_positions\": 65", "transformer.wpe.weight" },
    { "gpt2", "\"n_layer\": 3", "\"n_layer\": 4", "n_layer is 4" },
    { "bert", "\"absolute\"", "\"relative_key\"", "position_embedding_type" },
    { "bert", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", "encoder.layer.2" },
    { "bert", "\"type_vocab_size\": 2", "\"type_vocab_size\": 3", "token_type_embeddings" },
    { "t5", "\"relu\"", "\"gated-relu\"", "wi_0" },
    { "t5", "\"relu\"", "\"tanh\"", "tanh" },
    { "t5", "\"relative_attention_max_distance\": 40", "\"relative_attention_max_distance\": 9", "relative_attention_max_distance" },
    { "t5_v11", "\"num_decoder_layers\": 2", "\"num_decoder_layers\": 3", "num_decoder_layers is 3" },
    { "gemma2", "\"attn_logit_softcapping\": 2.0", "\"attn_logit_softcapping\": \"two\"", "attn_logit_softcapping" },
    { "gemma2", "\"query_pre_attn_scalar\": 24", "\"query_pre_attn_scalar\": 0", "query_pre_attn_scalar" },
    { "gemma3", "\"sliding_window_pattern\": 6", "\"layer_types\": [\"chunked_attention\"]", "layer_types" },
    { "gemma3_multimodal", "\"text_config\"", "\"text_configuration\"", "text_config" },
    { "gemma3n", "\"altup_active_idx\": 0", "\"altup_active_idx\": 1", "altup_active_idx" },
    { "gemma3n", "\"num_kv_shared_layers\": 3", "\"num_kv_shared_layers\": 6", "num_kv_shared_layers" },
    { "gemma3n", "\"num_kv_shared_layers\": 3", "\"num_kv_shared_layers\": 70", "num_kv_shared_layers" },
    { "gemma3n", "[\n    0.95,", "[\n    1.0,", "activation_sparsity_pattern" },
    { "gemma3n", "\"intermediate_size\": [\n    80,", "\"intermediate_size\": [\n    96,", "layers.0.mlp.gate_proj.weight" },
    { "gemma3n", "\"intermediate_size\": [\n    80,", "\"intermediate_size\": [\n    80, 80,", "intermediate_size" },
    { "gemma3n", "\"intermediate_size\": [\n    80,", "\"intermediate_size\": [\n    0,", "intermediate_size" },
    { "llama", "\"intermediate_size\": ", "\"intermediate_size\": [1, 2], \"was\": ", "intermediate_size" },
    { "mixtral", "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 5", "n_used" },
    { "mixtral", "\"num_local_experts\": 4", "\"num_local_experts\": 5", "block_sparse_moe.gate.weight" },
    { "qwen3_moe", "\"mlp_only_layers\": [\n    1\n  ]", "\"mlp_only_layers\": [\"one\"]", "mlp_only_layers" },
    { "qwen3_moe", "\"mlp_only_layers\": [\n    1\n  ]", "\"mlp_only_layers\": []", "model.layers.1.mlp.gate.weight" },
    { "smollm3", "\"no_rope_layers\": [\n    1,", "\"no_rope_layers\": [\n    2,", "no_rope_layers" },
    { "phi3", "\"long_factor\": [\n      1.1,", "\"long_factor\": [", "long_factor" },
    { "granite", "\"logits_scaling\": 0.5", "\"logits_scaling\": 0", "logits_scaling" },
    { "gpt_neox", "\"use_parallel_residual\": true", "\"use_parallel_residual\": \"yes\"", "use_parallel_residual" },
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        buf said = { 0 };
        const char *folder = changed(refusals[i].name, "config.json", refusals[i].from, refusals[i].to);
        int rc = convert(folder, &said);
        if (rc != 1 || written() || !strstr(said.p, refusals[i].mention))
            fail_msg("%s with %s: status %d, said: %s", refusals[i].name, refusals[i].to, rc, said.p);
        buf_free(&said);
    }
}

static void test_pooling_refusals(void **state) {
    (void)state;
    static const struct { const char *file, *from, *to, *mention, *name; } cases[] = {
        { "1_Pooling/config.json", "\"pooling_mode_max_tokens\": false", "\"pooling_mode_max_tokens\": true", "pooling_mode_max_tokens", NULL },
        { "1_Pooling/config.json", "\"pooling_mode_mean_tokens\": true", "\"pooling_mode_mean_tokens\": false", "pooling_mode", NULL },
        { "modules.json", "sentence_transformers.models.Normalize", "sentence_transformers.models.CNN", "models.CNN", NULL },
        { "modules.json", "sentence_transformers.models.Normalize", "sentence_transformers.models.Dense", "2_Normalize/config.json", NULL },
        { "modules.json", "sentence_transformers.models.Pooling", "sentence_transformers.models.Normalize", "order of the modules", "bert_dense" },
        { "1_Pooling/config.json", "\"mean\"", "\"max\"", "pooling_mode: max", "bert_dense" },
        { "2_Dense/config.json", "activation.Tanh", "activation.GELU", "activation.GELU", "bert_dense" },
        { "2_Dense/config.json", "\"bias\": true", "\"use_residual\": true", "use_residual", "bert_dense" },
        { "2_Dense/config.json", "\"sentence_embedding\"", "\"token_embeddings\"", "sentence_embedding", "bert_dense" },
        { "modules.json", "3_Dense", "2_Dense", "linear.weight: expected 80 columns, found [80, 48]", "bert_dense" },
        { "modules.json", "1_Pooling", "../1_Pooling", "modules.json", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf said = { 0 };
        int rc = convert(changed(cases[i].name ? cases[i].name : "bert", cases[i].file, cases[i].from, cases[i].to), &said);
        if (rc != 1 || written() || !strstr(said.p, cases[i].mention)) fail_msg("%s: status %d, said: %s", cases[i].to, rc, said.p);
        buf_free(&said);
    }
}

/* The text model of a multimodal checkpoint: what is left aside is said, by name. */
static void test_towers(void **state) {
    (void)state;
    buf said = { 0 };
    assert_int_equal(convert("tests/fixtures/golden/gemma3_multimodal", &said), 0);
    assert_true(strstr(said.p, "vision_tower.") && strstr(said.p, "multi_modal_projector.") && strstr(said.p, "left aside"));
    assert_null(strstr(said.p, "has no place"));
    buf_free(&said);
}

static uint64_t hash_of_output(void) {
    char path[512];
    buf bytes = { 0 };
    err e = { 0 };
    snprintf(path, sizeof path, "%s/changed.bin", work_dir);
    must(read_file(path, 0, &bytes, &e), &e);
    uint64_t h = hash_bytes(bytes.p, bytes.n);
    buf_free(&bytes);
    return h;
}

/* LayerNorm.gamma and LayerNorm.beta, as old checkpoints have them, make the same file. */
static void test_older_names(void **state) {
    (void)state;
    buf said = { 0 };
    char command[1200];
    const char *folder = changed("bert", "config.json", "\"bert\"", "\"bert\"");
    assert_int_equal(convert(folder, &said), 0);
    uint64_t want = hash_of_output();
    snprintf(command, sizeof command,
             "LC_ALL=C sed -i -e 's/LayerNorm\\.weight\"/LayerNorm.gamma\" /g' -e 's/LayerNorm\\.bias\"/LayerNorm.beta\"/g' "
             "'%s/model.safetensors' && grep -q LayerNorm.gamma '%s/model.safetensors'", folder, folder);
    assert_int_equal(system(command), 0);
    said.n = 0;
    if (convert(folder, &said)) fail_msg("%s", said.p);
    assert_true(hash_of_output() == want);
    buf_free(&said);
}

/* ---- experts in one tensor, as transformers 5 saves them in its own form ---- */

static const char *name_without_expert(const char *name, int *expert, char out[256]) {
    const char *at = strstr(name, ".experts."), *dot = at ? strchr(at + 9, '.') : NULL;
    if (!dot) return NULL;
    *expert = (int)strtol(at + 9, NULL, 10);
    snprintf(out, 256, "%.*s", (int)(at - name), name);
    return dot + 1;
}

/* Appends the values of `part` of all experts of a layer; gates and ups in turn. */
static void add_experts(const safetensors *st, const char *prefix, const char *const *parts, int n_parts, int n_experts, buf *data) {
    for (int x = 0; x < n_experts; x++)
        for (int p = 0; p < n_parts; p++) {
            char name[300];
            snprintf(name, sizeof name, "%s.experts.%d.%s.weight", prefix, x, parts[p]);
            const st_tensor *t = safetensors_find(st, name);
            if (!t) fail_msg("%s is not there", name);
            for (uint64_t i = 0; i < t->n; i++) {
                float v;
                st_read(st, t, i, 1, &v);
                buf_add(data, &v, sizeof v);
            }
        }
}

static void add_entry(buf *head, const char *name, const char *shape, size_t from, size_t to) {
    buf_fmt(head, "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", head->n ? ',' : '{', name, shape, from, to);
}

/* The golden checkpoint with its experts fused; `names`: gate, up, down as it has them. */
static void write_fused(const char *golden, const char *folder, const char *const *names, int n_experts) {
    char command[1200], path[600], shape[100], prefix[256], name[300];
    safetensors st;
    buf head = { 0 }, data = { 0 }, all = { 0 };
    err e = { 0 };
    snprintf(command, sizeof command, "mkdir -p '%s' && cp tests/fixtures/golden/%s/config.json '%s'", folder, golden, folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "tests/fixtures/golden/%s", golden);
    must(safetensors_open(&st, path, &e), &e);
    for (size_t i = 0; i < st.n; i++) {
        const st_tensor *t = &st.tensors[i];
        int expert = -1;
        size_t from = data.n;
        const char *part = name_without_expert(t->name, &expert, prefix);
        if (part && (expert || strncmp(part, names[1], strlen(names[1])) == 0)) continue; /* with the first, or the gate */
        const char *block = strstr(prefix, "block_sparse_moe");
        if (part) {
            bool down = strncmp(part, names[2], strlen(names[2])) == 0;
            add_experts(&st, prefix, down ? names + 2 : names, down ? 1 : 2, n_experts, &data);
            snprintf(name, sizeof name, "%.*smlp.experts.%s", (int)(block ? block - prefix : (int)strlen(prefix) - 3),
                     prefix, down ? "down_proj" : "gate_up_proj");
            snprintf(shape, sizeof shape, "%d,%llu,%llu", n_experts, (unsigned long long)t->dims[0] * (down ? 1 : 2), (unsigned long long)t->dims[1]);
        } else {
            const char *gate = strstr(t->name, "block_sparse_moe.gate.");
            snprintf(name, sizeof name, "%.*s%s", gate ? (int)(gate - t->name) : 299, t->name, gate ? "mlp.gate.weight" : "");
            snprintf(shape, sizeof shape, t->n_dims == 2 ? "%llu,%llu" : "%llu", (unsigned long long)t->dims[0], (unsigned long long)t->dims[1]);
            for (uint64_t k = 0; k < t->n; k++) {
                float v;
                st_read(&st, t, k, 1, &v);
                buf_add(&data, &v, sizeof v);
            }
        }
        add_entry(&head, name, shape, from, data.n);
    }
    safetensors_close(&st);
    buf_byte(&head, '}');
    buf_u64(&all, head.n);
    buf_add(&all, head.p, head.n);
    buf_add(&all, data.p, data.n);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(all.p, 1, all.n, f), all.n);
    assert_int_equal(fclose(f), 0);
    buf_free(&head);
    buf_free(&data);
    buf_free(&all);
}

static void test_fused_experts(void **state) {
    (void)state;
    static const struct { const char *golden, *names[3]; int n; } cases[] = {
        { "qwen3_moe", { "gate_proj", "up_proj", "down_proj" }, 6 },
        { "qwen2_moe", { "gate_proj", "up_proj", "down_proj" }, 6 },
        { "mixtral", { "w1", "w3", "w2" }, 4 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[300], golden[300];
        buf said = { 0 };
        snprintf(golden, sizeof golden, "tests/fixtures/golden/%s", cases[i].golden);
        if (convert(golden, &said)) fail_msg("%s", said.p);
        uint64_t want = hash_of_output();
        snprintf(folder, sizeof folder, "%s/fused/%s", work_dir, cases[i].golden); /* of the same name: it is in the file */
        write_fused(cases[i].golden, folder, cases[i].names, cases[i].n);
        said.n = 0;
        if (convert(folder, &said)) fail_msg("%s", said.p);
        if (said.p && strstr(said.p, "has no place")) fail_msg("%s", said.p);
        assert_true(hash_of_output() == want);
        buf_free(&said);
    }
}

/* Logits of a fixture's prompt in a type of weights. The caller frees. */
static float *logits_of(const char *dir, const char *type, const json *j, size_t *n) {
    ids tokens = { 0 }, text = { 0 };
    err e = { 0 };
    engine *g = open_or_fail(converted(dir, type), (engine_opts){ .ctx = 60 });
    const engine_info *i = engine_about(g);
    session *s = new_session(g);
    json_ids(json_get(j, i->has_encoder ? "decoder_tokens" : "tokens"), &tokens);
    if (i->has_encoder) {
        json_ids(json_get(j, "encoder_tokens"), &text);
        must(session_encode(s, text.p, (int)text.n, NULL, &e), &e);
    }
    size_t ld = (size_t)i->logits_ld;
    float *rows = alloc_aligned(tokens.n * ld * sizeof *rows);
    must(engine_step(g, &(step){ s, tokens.p, (int)tokens.n, rows }, 1, &e), &e);
    *n = tokens.n * ld;
    session_free(s);
    engine_close(g);
    ids_free(&tokens);
    ids_free(&text);
    return rows;
}

/* Root mean square of the difference over that of the reference. */
static double distance(const float *a, const float *b, size_t n) {
    double difference = 0, power = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        power += (double)b[i] * b[i];
    }
    return sqrt(difference / power);
}

static void check_types(const char *dir) {
    static const struct { const char *type; double limit; } types[] = { { "bf16", 0.1 }, { "q8", 0.2 } };
    char path[600];
    buf text = { 0 };
    arena mem = { 0 };
    json *j;
    err e = { 0 };
    size_t n, m;
    snprintf(path, sizeof path, "%s/expected.json", dir);
    must(read_file(path, 0, &text, &e), &e);
    must(json_parse(&mem, text.p, text.n, &j, &e), &e);
    if (!json_get(j, "texts") && !json_is(json_get(j, "kind"), "lora")) { /* embeddings and adapters: golden_test, lora_test */
        float *exact = logits_of(dir, "f32", j, &n);
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            float *rows = logits_of(dir, types[t].type, j, &m);
            double d = distance(rows, exact, n);
            print_message("%-40s %-4s off by %.4f\n", dir, types[t].type, d);
            if (!(d < types[t].limit)) fail_msg("%s as %s: off by %g of the f32 logits", dir, types[t].type, d);
            free_aligned(rows);
        }
        free_aligned(exact);
    }
    arena_free(&mem);
    buf_free(&text);
}

static void test_types(void **state) {
    (void)state;
    DIR *d = opendir("tests/fixtures/golden");
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[512];
        snprintf(path, sizeof path, "tests/fixtures/golden/%s", entry->d_name);
        if (entry->d_name[0] != '.') check_types(path);
    }
    closedir(d);
}

/* README.md holds the table that the converter's rows make. */
static void test_readme(void **state) {
    (void)state;
    buf page = { 0 }, table = { 0 };
    err e = { 0 };
    char command[400];
    snprintf(command, sizeof command, "%s/convert --families", bin_dir());
    FILE *f = popen(command, "r");
    assert_non_null(f);
    must(read_stream(f, 0, &table, &e), &e);
    assert_int_equal(pclose(f), 0);
    must(read_file("README.md", 0, &page, &e), &e);
    if (!strstr(page.p, table.p)) fail_msg("README.md lacks this table:\n%s", table.p);
    buf_free(&page);
    buf_free(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_refusals), cmocka_unit_test(test_pooling_refusals),
                                        cmocka_unit_test(test_towers), cmocka_unit_test(test_older_names), cmocka_unit_test(test_fused_experts),
                                        cmocka_unit_test(test_types),    cmocka_unit_test(test_readme) };
    make_work_dir();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    remove_work_dir();
    return rc;
}
