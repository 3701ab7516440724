/* The server's dialects as pure functions: JSON in, the job's fields out; events in, the reply's bytes out. */
#include "tests/api_ask.h"

/* ---- the table ---- */

static int check_one(uint32_t group, const char *text, bool strict, field_report *r) {
    arena a = { 0 };
    err e = { 0 };
    json *j;
    const json *v[F_COUNT] = { 0 };
    if (json_parse(&a, text, strlen(text), &j, &e)) fail_msg("%s: %s", text, e.msg);
    int rc = fields_check(group, j, "", strict, v, r);
    arena_free(&a);
    return rc;
}

static void test_every_field_is_checked(void **state) {
    (void)state;
    static const struct { int type; const char *value; } values[] = { { T_BOOL, "true" }, { T_INT | T_NUM, "7" }, { T_NUM, "0.5" },
                                                                      { T_STR, "\"x\"" }, { T_ARR, "[]" }, { T_OBJ, "{}" } };
    for (int i = 0; i < fields_n; i++) {
        const field *f = &fields_table[i];
        for (uint32_t g = 1; g <= FIELDS_TEMPLATE; g <<= 1) {
            char text[200];
            if (!(f->groups & g)) continue;
            if (fields_find(g, f->name, strlen(f->name)) != f) fail_msg("%s stands twice for group %x", f->name, g);
            snprintf(text, sizeof text, "{\"%s\":null}", f->name);
            assert_int_equal(check_one(g, text, true, &(field_report){ 0 }), 0);
            for (size_t k = 0; k < 6; k++) {
                field_report r = { 0 };
                snprintf(text, sizeof text, "{\"%s\":%s}", f->name, values[k].value);
                int rc = check_one(g, text, false, &r);
                bool fits = (f->types & values[k].type) && f->fate != FIELD_REFUSE;
                if (!fits && (!rc || strcmp(r.param, f->name))) fail_msg("%s was accepted", text);
                if (fits && rc && values[k].type == T_BOOL) fail_msg("%s was refused: %s", text, r.msg);
            }
            if ((f->types & (T_INT | T_NUM)) && f->min <= f->max && f->fate != FIELD_REFUSE) {
                field_report r = { 0 };
                snprintf(text, sizeof text, "{\"%s\":%.0f}", f->name, f->min - 1);
                if (!check_one(g, text, false, &r) || !strstr(r.msg, f->name)) fail_msg("%s was accepted", text);
            }
        }
    }
}

static void test_unknown_and_inert(void **state) {
    (void)state;
    buf w = { 0 };
    field_report r = { .warnings = &w };
    assert_int_equal(check_one(FIELDS_OPTIONS, "{\"mirostat\":1,\"bogus\":[]}", false, &r), 0);
    assert_int_equal(r.n_warnings, 2);
    buf_byte(&w, 0);
    assert_non_null(strstr(w.p, "mirostat: accepted, has no effect"));
    assert_non_null(strstr(w.p, "bogus: unknown field, ignored"));
    buf_free(&w);
    assert_int_equal(check_one(FIELDS_OPTIONS, "{\"bogus\":1}", true, &(field_report){ 0 }), -1);
    assert_int_equal(check_one(FIELDS_OPTIONS, "{\"mirostat\":1}", true, &(field_report){ 0 }), -1);
}

static void test_docs_are_current(void **state) {
    (void)state;
    buf made = { 0 }, there = { 0 };
    err e = { 0 };
    fields_markdown(&made);
    if (read_file("docs/api.md", 0, &there, &e)) fail_msg("%s", e.msg);
    if (made.n != there.n || memcmp(made.p, there.p, made.n)) fail_msg("docs/api.md is not what ./serve --api-markdown writes");
    buf_free(&made);
    buf_free(&there);
}

/* ---- OpenAI ---- */

static void test_chat_fills_the_job(void **state) {
    (void)state;
    ids want = { 0 };
    err e = { 0 };
    ask("/v1/chat/completions", "{\"model\":\"pip:latest\"," MESSAGES
        ",\"max_tokens\":9,\"max_completion_tokens\":5,\"temperature\":0.25,\"top_k\":3,\"seed\":42,\"stop\":[\"A\",\"B\"],"
        "\"logit_bias\":{\"17\":-100,\"18\":2.5},\"n\":2,\"logprobs\":true,\"top_logprobs\":3,\"user\":\"u\","
        "\"presence_penalty\":0.5,\"stream_options\":null}");
    job *j = accepted();
    assert_int_equal(j->max_tokens, 5);
    assert_true(j->sample.temperature == 0.25f && j->sample.top_k == 3 && j->sample.seed == 42 && j->sample.presence_penalty == 0.5f);
    assert_true(j->sample.top_p == 0.95f); /* the checkpoint's */
    assert_int_equal(j->sample.repeat_last_n, -1);
    assert_int_equal(j->n_stops, 2);
    assert_string_equal(j->stops[1], "B");
    assert_int_equal(j->sample.n_bias, 2);
    assert_true(j->sample.bias[0].id == 17 && isinf(j->sample.bias[0].bias) && j->sample.bias[1].bias == 2.5f);
    assert_true(j->n == 2 && j->logprobs && j->n_top == 3 && j->turn_end == 5);
    assert_string_equal(j->user, "u");
    static const char text[] = "<|bos|><|user|>Tell me a story<|end|><|assistant|>";
    assert_int_equal(tokenizer_encode(fake.m.tok, text, sizeof text - 1, TOK_PARSE_SPECIAL, &want, &e), 0);
    assert_int_equal(j->prompts[0].n, want.n);
    assert_memory_equal(j->prompts[0].p, want.p, want.n * sizeof *want.p);
    ids_free(&want);
    drop();
}

static void test_chat_whole(void **state) {
    (void)state;
    ask("/v1/chat/completions", "{" MESSAGES ",\"foo\":1,\"stop\":\"!\"}");
    accepted();
    answer_with(END_STOP_STRING, "!");
    assert_int_equal(x.status, 200);
    has("\"message\":{\"role\":\"assistant\",\"content\":\"Once upon \\\"\xc3\xa9\\\"\",\"refusal\":null}");
    has("\"finish_reason\":\"stop\",\"ended\":\"stop_string\",\"stop_string\":\"!\"");
    has("\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":2,\"total_tokens\":10,\"prompt_tokens_details\":{\"cached_tokens\":3}");
    has("\"timings\":{\"cache_n\":3,\"prompt_n\":5");
    has("\"warnings\":[\"foo: unknown field, ignored\"]");
    assert_int_equal(fake.held, 0);
}

/* All values of a key in the reply, strings joined: what a client that adds up pieces has. */
static void join(const char *key, buf *out) {
    for (const char *p = reply(); (p = strstr(p, key)); ) {
        p += strlen(key);
        while (*p && *p != '"') {
            if (*p == '\\') buf_byte(out, *p++);
            buf_byte(out, *p++);
        }
    }
    buf_byte(out, 0);
}

static void test_streams_add_up(void **state) {
    (void)state;
    static const struct { const char *path, *body, *key, *last; } rows[] = {
        { "/v1/chat/completions", "{" MESSAGES ",\"stream\":true}", "\"content\":\"", "data: [DONE]\n\n" },
        { "/v1/completions", "{\"prompt\":\"a\",\"stream\":true}", "\"text\":\"", "data: [DONE]\n\n" },
        { "/api/chat", "{\"model\":\"pip\"," MESSAGES "}", "\"content\":\"", "}\n" },
        { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\"}", "\"response\":\"", "}\n" },
        { "/completion", "{\"prompt\":\"a\",\"stream\":true}", "\"content\":\"", "}\n\n" },
        { "/v1/messages", "{" MESSAGES ",\"max_tokens\":5,\"stream\":true}", "\"type\":\"text_delta\",\"text\":\"",
          "data: {\"type\":\"message_stop\"}\n\n" },
        { "/v1/responses", "{\"input\":\"a\",\"stream\":true}", "\"delta\":\"", "}\n\n" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf got = { 0 };
        ask(rows[i].path, rows[i].body);
        accepted();
        answer_with(END_EOS, NULL);
        assert_true(x.ended && !x.whole);
        join(rows[i].key, &got);
        if (strcmp(got.p, "Once upon \\\"\xc3\xa9\\\"")) fail_msg("%s: the pieces are %s", rows[i].path, got.p);
        size_t n = strlen(rows[i].last);
        if (x.body.n < n || memcmp(x.body.p + x.body.n - n, rows[i].last, n))
            fail_msg("%s ends with ...%s", rows[i].path, x.body.p + (x.body.n > 60 ? x.body.n - 60 : 0));
        if (strcmp(rows[i].path, "/api/chat") == 0) has_not("\n\n"); /* an empty line ends ollama-python */
        has("\"timings\":");
        buf_free(&got);
        assert_int_equal(fake.held, 0);
    }
}

static void test_stream_of_usage(void **state) {
    (void)state;
    ask("/v1/chat/completions", "{" MESSAGES ",\"stream\":true,\"n\":2,\"stream_options\":{\"include_usage\":true}}");
    accepted();
    fake_piece(0, 1, 559, "b");
    fake_piece(0, 0, 559, "a");
    fake_event((job_event){ .kind = EVENT_CHOICE_END, .choice = 1, .end = END_EOS });
    has("\"choices\":[{\"index\":1,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"");
    fake_event((job_event){ .kind = EVENT_CHOICE_END, .choice = 0, .end = END_LENGTH });
    fake_event((job_event){ .kind = EVENT_END, .timings = { .n_prompt = 8, .n_decoded = 2 } });
    has("\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"");
    has("\"choices\":[],\"usage\":{\"prompt_tokens\":8");
    has("\"usage\":null");
}

static void test_legacy_completions(void **state) {
    (void)state;
    ask("/v1/completions", "{\"prompt\":[\"Once\",[559,560]],\"n\":2,\"logprobs\":2,\"echo\":true}");
    job *j = accepted();
    assert_true(j->n_prompts == 2 && j->n == 2 && j->echo && j->max_tokens == 16 && j->prompts[1].n == 2);
    for (int p = 0; p < 2; p++)
        for (int c = 0; c < 2; c++) {
            fake_piece(p, c, 559, p ? "P1" : "P0");
            fake_piece(p, c, 560, c ? "c1" : "c0");
            fake_event((job_event){ .kind = EVENT_CHOICE_END, .prompt = p, .choice = c, .end = END_LENGTH });
        }
    fake_event((job_event){ .kind = EVENT_END, .timings = { .n_prompt = 4, .n_decoded = 8 } });
    has("\"index\":0,\"text\":\"P0c0\"");
    has("\"index\":1,\"text\":\"P0c1\"");
    has("\"index\":2,\"text\":\"P1c0\"");
    has("\"tokens\":[\"Once\",\" upon\"],\"token_logprobs\":[-0.25,-0.25],\"top_logprobs\":[{\"Once\":-0.5,\" upon\":-1.5}");
    has("\"text_offset\":[0,4]");
}

static void test_best_of(void **state) {
    (void)state;
    ask("/v1/completions", "{\"prompt\":\"a\",\"best_of\":3}");
    assert_int_equal(accepted()->n, 3);
    for (int c = 0; c < 3; c++) {
        char text[8];
        snprintf(text, sizeof text, "c%d", c);
        fake_event((job_event){ .kind = EVENT_PIECE, .choice = c, .id = 559, .text = text, .n = 2, .logprob = c == 1 ? -0.1f : -2.0f });
        fake_event((job_event){ .kind = EVENT_CHOICE_END, .choice = c, .end = END_LENGTH });
    }
    fake_event((job_event){ .kind = EVENT_END });
    has("\"choices\":[{\"index\":0,\"text\":\"c1\",\"logprobs\":null");
    has_not("c2");
    ask("/v1/completions", "{\"prompt\":\"a\",\"best_of\":3,\"stream\":true}");
    refused(400, "invalid_request", "best_of");
}

static void test_embeddings(void **state) {
    (void)state;
    static const float v[] = { 3, 4, 0, 0 };
    ask("/v1/embeddings", "{\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\"}");
    job *j = accepted();
    assert_true(j->kind == JOB_EMBED && j->n_prompts == 2);
    for (int p = 0; p < 2; p++) fake_event((job_event){ .kind = EVENT_EMBEDDING, .prompt = p, .embedding = v, .n_embedding = 4 });
    fake_event((job_event){ .kind = EVENT_END, .timings = { .n_prompt = 6 } });
    has("\"index\":1,\"embedding\":\"AABAQAAAgEAAAAAAAAAAAA==\"");
    has("\"usage\":{\"prompt_tokens\":6,\"total_tokens\":6}");
    ask("/api/embed", "{\"model\":\"pip\",\"input\":\"a\",\"dimensions\":2}");
    accepted();
    fake_event((job_event){ .kind = EVENT_EMBEDDING, .embedding = v, .n_embedding = 4 });
    fake_event((job_event){ .kind = EVENT_END });
    has("\"embeddings\":[[0.600000024,0.800000012]]");
    ask("/v1/embeddings", "{\"input\":\"a\",\"dimensions\":5}");
    refused(400, "invalid_request", "dimensions");
}

static char long_text[2000];

static void test_nothing_is_cut_in_silence(void **state) {
    (void)state;
    char body[4000];
    for (size_t i = 0; i + 6 < sizeof long_text; i += 6) memcpy(long_text + i, "story ", 6);
    static const char *const paths[] = { "/v1/completions", "/api/generate", "/completion", "/api/embed", "/v1/embeddings" };
    for (size_t i = 0; i < 5; i++) {
        snprintf(body, sizeof body, "{\"model\":\"pip\",\"%s\":\"%s\"}", i > 2 ? "input" : "prompt", long_text);
        ask(paths[i], body);
        refused(400, "context_length_exceeded", "\"n_ctx\":64");
        has("holds 64");
    }
    snprintf(body, sizeof body, "{\"model\":\"pip\",\"input\":\"%s\",\"truncate\":true}", long_text);
    ask("/api/embed", body);
    assert_int_equal(accepted()->prompts[0].n, 64);
    fake_event((job_event){ .kind = EVENT_EMBEDDING, .embedding = (float[]){ 1 }, .n_embedding = 1 });
    fake_event((job_event){ .kind = EVENT_END });
    has("was cut from");
    ask("/completion", "{\"prompt\":\"a\",\"n_predict\":1}");
    drop();
}

/* ---- what is refused ---- */

static const struct { const char *path, *body, *text; } mistakes[] = {
    { "/v1/chat/completions", "{" MESSAGES ",\"temperature\":\"hot\"}", "temperature: expected a number, found the string \\\"hot\\\"" },
    { "/v1/chat/completions", "{" MESSAGES ",\"temperature\":3}", "temperature: expected 0 to 2, found 3" },
    { "/v1/chat/completions", "{}", "messages: a required field is missing" },
    { "/v1/chat/completions", "{\"messages\":[]}", "messages: expected an array with at least one message" },
    { "/v1/chat/completions", "{\"messages\":[{\"role\":\"king\",\"content\":\"\"}]}",
      "messages[0].role: expected system, developer, user, assistant or tool, found \\\"king\\\"" },
    { "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"},{\"type\":\"image_url\"}]}]}",
      "messages[0].content[1]: a part of type image_url" },
    { "/v1/chat/completions", "{" MESSAGES ",\"response_format\":{\"type\":\"yaml\"}}", "response_format: type \\\"yaml\\\" is not known" },
    { "/v1/chat/completions", "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\"}}}",
      "response_format.json_schema.schema: expected a JSON schema" },
    { "/v1/chat/completions", "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\","
                                           "\"json_schema\":{\"schema\":{\"properties\":{\"a\":{\"not\":{}}}}}}}", "#/properties/a/not" },
    { "/v1/chat/completions", "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"strict\":true,"
                                           "\"schema\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}}}}}", "#/items: with strict:true" },
    { "/v1/chat/completions", "{" MESSAGES ",\"grammar\":\"root ::= a\",\"response_format\":{\"type\":\"json_object\"}}",
      "grammar: response_format asks for a structure already" },
    { "/v1/chat/completions", "{" MESSAGES ",\"grammar\":\"root ::= a\"}", "line 1, column 10" },
    { "/v1/responses", "{\"input\":\"a\",\"text\":{\"format\":{\"type\":\"json_schema\",\"schema\":{\"if\":{}}}}}", "text.format.schema" },
    { "/completion", "{\"prompt\":\"a\",\"json_schema\":{\"type\":\"what\"}}", "json_schema: JSON schema" },
    { "/v1/chat/completions", "{" MESSAGES ",\"tool_choice\":\"required\"}", "there are no tools" },
    { "/v1/chat/completions", "{" MESSAGES ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"required\"}",
      "does not know tools" },
    { "/v1/messages", "{" MESSAGES ",\"max_tokens\":5,\"tools\":[{\"name\":\"f\"}],\"tool_choice\":{\"type\":\"tool\",\"name\":\"g\"}}",
      "\\\"g\\\" is not among the tools" },
    { "/v1/chat/completions", "{" MESSAGES ",\"audio\":{}}", "audio: not supported" },
    { "/v1/chat/completions", "{" MESSAGES ",\"logit_bias\":{\"99999\":1}}", "logit_bias" },
    { "/v1/chat/completions", "{" MESSAGES ",\"top_logprobs\":3}", "top_logprobs: needs logprobs:true" },
    { "/v1/chat/completions", "[1]", "an array, expected a JSON object" },
    { "/v1/chat/completions", "{", "not JSON" },
    { "/v1/completions", "{\"prompt\":[4096]}", "token id 4096 is not in the vocabulary" },
    { "/v1/completions", "{\"prompt\":[]}", "prompt: an empty list" },
    { "/v1/responses", "{\"input\":\"a\",\"previous_response_id\":\"r\"}", "previous_response_id: not supported" },
    { "/v1/messages", "{" MESSAGES "}", "max_tokens: a required field is missing" },
    { "/api/chat", "{\"model\":\"pip\"," MESSAGES ",\"options\":{\"temperature\":-0.4}}", "options.temperature: expected 0 to 1000, found -0.4" },
    { "/api/chat", "{\"model\":\"pip\"," MESSAGES ",\"options\":{\"num_predict\":-512}}", "found -512" },
    { "/api/chat", "{\"model\":\"pip\"," MESSAGES ",\"options\":{\"top_k\":\"x\"}}", "option \\\"top_k\\\" must be of type a whole number" },
    { "/api/chat", "{\"model\":\"pip\"," MESSAGES ",\"options\":{\"num_ctx\":4096}}", "options.num_ctx: asked for 4096 positions" },
    { "/api/chat", "{\"model\":\"pip\"," MESSAGES ",\"format\":\"xml\"}", "format: expected \\\"json\\\" or a JSON schema" },
    { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"keep_alive\":\"soon\"}", "keep_alive: expected" },
    { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"suffix\":\"b\"}", "no fill-in-the-middle tokens" },
    { "/completion", "{\"prompt\":\"a\",\"mirostat\":2}", "mirostat: not supported" },
    { "/completion", "{\"prompt\":[1,\"a\",-1]}", "token id -1" },
    { "/detokenize", "{\"tokens\":[5000]}", "found 5000" },
    { "/api/pull", "{\"model\":\"\"}", "expected the name of a model, found an empty one" },
    { "/v1/chat/completions", "{" MESSAGES ",\"max_tokens\":1000000000000000000}",
      "max_tokens: expected at most 1e+15, found 1000000000000000000" },
    { "/v1/chat/completions", "{" MESSAGES ",\"seed\":18446744073709551615}", "seed: 18446744073709551615 is too large" },
    { "/v1/responses", "{\"input\":[{\"type\":\"function_call\",\"call_id\":\"c\",\"arguments\":\"{}\"}]}",
      "input[0].name: expected the name of the function that was called, found " },
    { "/v1/messages", "{\"max_tokens\":5,\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"c\","
                      "\"name\":5,\"input\":{}}]}]}", "messages[0].name: expected the name of the function that was called, found a number" },
    { "/v1/chat/completions", "{\"model\":\"pip\\u0000x\"," MESSAGES "}", "model: a NUL character" },
    { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"system\":\"a\\u0000b\"}", "system: a NUL character" },
    { "/v1/responses", "{\"input\":\"a\",\"instructions\":\"a\\u0000b\"}", "instructions: a NUL character" },
};

static void test_refusals_name_the_field(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        ask(mistakes[i].path, mistakes[i].body);
        if (fake.submitted) fail_msg("accepted: %s", mistakes[i].body);
        refused(400, mistakes[i].path[1] == 'v' || mistakes[i].path[1] == 'a' ? "\"code\":\"" : "\"code\":400", mistakes[i].text);
        has("\"phase\":");
        has("\"elapsed_ms\":");
    }
}

static void test_statuses(void **state) {
    (void)state;
    static const struct { job_error code; int status; const char *name; } rows[] = {
        { JOB_QUEUE_FULL, 503, "queue_full" }, { JOB_SHUTTING_DOWN, 503, "shutting_down" }, { JOB_MEMORY, 503, "out_of_memory" },
        { JOB_NOT_FINITE, 500, "not_finite" },
        { JOB_FAILED, 500, "internal_error" }, { JOB_DEADLINE, 504, "deadline" }, { JOB_CONTEXT, 400, "context_length_exceeded" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int late = 0; late < 2; late++) {
            job_failure f = { .code = rows[i].code, .msg = "no", .phase = "queue", .retry_after = 2.5 };
            fake.refuse = late ? (job_failure){ 0 } : f;
            ask("/v1/chat/completions", "{" MESSAGES ",\"stream\":true}");
            if (late) fake_event((job_event){ .kind = EVENT_FAILED, .failure = &f }); /* before any piece: still a status */
            fake.refuse.code = JOB_OK;
            refused(rows[i].status, rows[i].name, "\"message\":\"no\"");
            if (rows[i].status == 503) assert_non_null(strstr(x.extra, "Retry-After: 3\r\n"));
        }
}

/* Log-probabilities for which there is no room: an error, not an answer with some of them. */
static void test_no_room_for_probs(void **state) {
    (void)state;
    for (int full = 0; full < 2; full++) {
        ask("/v1/chat/completions", "{" MESSAGES ",\"logprobs\":true,\"top_logprobs\":2}");
        request *q = accepted()->arg;
        assert_true(q->mem.limit > 0);
        if (full) q->mem.limit = q->mem.used;
        answer_with(END_EOS, NULL);
        if (full) refused(503, "out_of_memory", NULL);
        else has("\"top_logprobs\":[{");
    }
}

/* llama-server's own defaults, sent back to it by clients that know them. */
static void test_native_defaults(void **state) {
    (void)state;
    ask("/completion", "{\"prompt\":\"a\",\"n_predict\":-2,\"t_max_predict_ms\":-1,\"n_keep\":0,\"min_keep\":0,"
                       "\"id_slot\":-1,\"n_indent\":0,\"mirostat\":0,\"dry_multiplier\":0.0}");
    assert_int_equal(accepted()->max_tokens, -1);
    assert_true(fake.submitted->deadline == 0);
    drop();
}

/* No name is the first model, but not where files are changed. */
static void test_deleting_nothing(void **state) {
    (void)state;
    static const char *const bodies[] = { "{\"model\":\"\"}", "{\"name\":\"\"}", "{}" };
    fake.s.allow_delete = true;
    for (size_t i = 0; i < 3; i++) {
        buf_free(&x.body);
        fake_ask(&x, "DELETE", "/api/delete", bodies[i], strlen(bodies[i]));
        refused(400, "invalid_request", "model");
    }
    ask("/api/copy", "{\"source\":\"\",\"destination\":\"b\"}");
    refused(400, "invalid_request", "an empty one");
    fake.s.allow_delete = false;
}

/* What all bodies take together has a bound, and is given back. */
static void test_bodies_at_once(void **state) {
    (void)state;
    size_t before = fake.s.parsed;
    atomic_fetch_add(&fake.s.parsed, (size_t)1 << 30);
    ask("/v1/chat/completions", "{" MESSAGES "}");
    refused(503, "out_of_memory", "the bodies of all requests under way");
    atomic_fetch_sub(&fake.s.parsed, (size_t)1 << 30);
    assert_int_equal(fake.s.parsed, before);
    ask("/v1/chat/completions", "{" MESSAGES "}");
    accepted();
    assert_true(fake.s.parsed > before);
    answer_with(END_EOS, NULL);
    assert_int_equal(fake.s.parsed, before);
}

static void test_failure_in_a_stream(void **state) {
    (void)state;
    job_failure f = { .code = JOB_NOT_FINITE, .msg = "broken weights", .phase = "decode" };
    static const char *const bodies[][2] = { { "/v1/chat/completions", "{" MESSAGES ",\"stream\":true}" },
                                             { "/api/chat", "{\"model\":\"pip\"," MESSAGES "}" },
                                             { "/v1/messages", "{" MESSAGES ",\"max_tokens\":9,\"stream\":true}" },
                                             { "/completion", "{\"prompt\":\"a\",\"stream\":true}" } };
    for (size_t i = 0; i < 4; i++) {
        ask(bodies[i][0], bodies[i][1]);
        accepted();
        fake_piece(0, 0, 559, "Once");
        fake_event((job_event){ .kind = EVENT_FAILED, .failure = &f });
        assert_true(x.ended && x.status == 200);
        has("broken weights");
        has("not_finite");
        if (!i) has("}}\n\ndata: [DONE]\n\n");
        if (i == 2) has("event: error\n");
    }
    ask("/v1/chat/completions", "{" MESSAGES ",\"stream\":true}"); /* cut by a shutdown: not an ordinary end */
    accepted();
    answer_with(END_SHUTDOWN, NULL);
    has("\"code\":\"shutting_down\"");
    has_not("\"finish_reason\":\"stop\"");
    ask("/v1/chat/completions", "{" MESSAGES "}");
    accepted();
    answer_with(END_SHUTDOWN, NULL);
    assert_int_equal(x.status, 503);
}

static void test_paths_and_methods(void **state) {
    (void)state;
    get("GET", "/v1/nothing");
    refused(404, "\"type\":\"invalid_request_error\"", "\"code\":\"not_found\"");
    get("GET", "/api/nothing");
    refused(404, "{\"error\":\"there is no path /api/nothing here\"", NULL);
    get("GET", "/v1/messages/nothing");
    refused(404, "{\"type\":\"error\",\"error\":{", "not_found_error");
    get("GET", "/nothing");
    refused(404, "\"code\":404", "not_found_error");
    get("GET", "/api/chat");
    refused(405, "method_not_allowed", NULL);
    assert_non_null(strstr(x.extra, "Allow: POST\r\n"));
    get("OPTIONS", "/api/chat");
    assert_int_equal(x.status, 204);
    get("OPTIONS", "*");
    assert_int_equal(x.status, 204);
    x.h.n_headers = 1;
    x.header[0] = (http_header){ "content-encoding", "gzip" };
    ask("/v1/chat/completions", "{" MESSAGES "}");
    refused(415, "unsupported_encoding", "gzip");
    x.header[0] = (http_header){ "content-encoding", "identity" };
    ask("/v1/chat/completions", "{" MESSAGES "}");
    accepted();
    drop();
    x.h.n_headers = 0;
    get("HEAD", "/");
    assert_int_equal(x.status, 200);
    get("GET", "/v1/models/pip");
    has("\"id\":\"pip\"");
    get("GET", "/v1/models/a/b:c");
    refused(404, "model_not_found", "a/b:c");
    get("GET", "/metrics");
    has("llamacpp:prompt_tokens_total 7\n");
    has("llamacpp:spec_decode_num_drafts_total 0\n");
    has("ollama_health_check_status 1\n");
    has("inference_duration_seconds_bucket{le=\"+Inf\"} 0\n");
    static const char *const gets[] = { "/health", "/v1/models", "/api/version", "/api/tags", "/api/ps", "/props", "/slots", "/lora-adapters" };
    for (size_t i = 0; i < 8; i++) {
        arena a = { 0 };
        json *j;
        err e = { 0 };
        get("GET", gets[i]);
        if (x.status != 200 || json_parse(&a, reply(), x.body.n, &j, &e)) fail_msg("%s: %d %s", gets[i], x.status, reply());
        arena_free(&a);
    }
}

/* Adapters by number or name; those that were set are for requests of every dialect that name none. */
static void test_adapters(void **state) {
    (void)state;
    get("GET", "/lora-adapters");
    has("[{\"id\":0,\"name\":\"polite\",\"path\":\"models/polite.lora\",\"scale\":0},{\"id\":1,\"name\":\"terse\"");
    ask("/completion", "{\"prompt\":\"a\",\"lora\":[{\"id\":1,\"scale\":0.5},{\"name\":\"polite\"},{\"id\":0,\"scale\":0}]}");
    refused(400, "invalid_request", "named twice");
    ask("/completion", "{\"prompt\":\"a\",\"lora\":[{\"id\":1,\"scale\":0.5},{\"name\":\"polite\"}]}");
    job *j = accepted();
    assert_int_equal(j->n_adapters, 2);
    assert_string_equal(j->adapters[0].name, "terse");
    assert_true(j->adapters[0].scale == 0.5f && j->adapters[1].scale == 1);
    drop();
    has("\"lora\":[{\"name\":\"terse\",\"scale\":0.5},{\"name\":\"polite\",\"scale\":1}]");
    ask("/completion", "{\"prompt\":\"a\",\"lora\":[{\"id\":5,\"scale\":0.5}]}");
    refused(400, "invalid_request", "lora: id 5: expected 0 to 1");
    static const char *const unknown[][3] = {
        { "/lora-adapters", "[{\"name\":\"polite\",\"scale\":1},{\"name\":\"rude\",\"scale\":0}]",
          "lora-adapters: adapter 'rude' not found: expected a file rude.lora" },
        { "/lora-adapters", "[{\"name\":\"politer\",\"scale\":1e-99}]", "adapter 'politer' not found" },
        { "/completion", "{\"prompt\":\"a\",\"lora\":[{\"name\":\"rude\",\"scale\":0}]}", "lora: adapter 'rude' not found" } };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) { /* what is switched off must be there, too */
        ask(unknown[i][0], unknown[i][1]);
        refused(400, "invalid_request", unknown[i][2]);
        assert_int_equal(fake.n_defaults, 0);
    }
    ask("/completion", "{\"prompt\":\"a\",\"lora\":[{\"name\":\"polite\",\"scale\":0},{\"name\":\"terse.lora\",\"scale\":1e-99}]}");
    assert_int_equal(accepted()->n_adapters, 0);
    drop();
    ask("/lora-adapters", "[{\"id\":0,\"scale\":0.5}]");
    has("{\"success\":true}");
    static const char *const asks[][2] = {
        { "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}" }, { "/v1/completions", "{\"prompt\":\"a\"}" },
        { "/v1/responses", "{\"input\":\"a\"}" }, { "/v1/messages", "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}" },
        { "/api/chat", "{\"model\":\"pip\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}" },
        { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\"}" }, { "/completion", "{\"prompt\":\"a\"}" },
        { "/v1/embeddings", "{\"input\":\"a\"}" } };
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        ask(asks[i][0], asks[i][1]);
        j = accepted();
        if (j->n_adapters != 1 || strcmp(j->adapters[0].name, "polite") || j->adapters[0].scale != 0.5f)
            fail_msg("%s: %d adapters", asks[i][0], j->n_adapters);
        drop();
    }
    ask("/completion", "{\"prompt\":\"a\",\"lora\":[]}");
    assert_int_equal(accepted()->n_adapters, 0);
    drop();
    ask("/lora-adapters", "[]");
    assert_int_equal(fake.n_defaults, 0);
}

/* How much may be proposed; what there is of a draft, what became of it. */
static void test_drafts(void **state) {
    (void)state;
    static const struct { const char *path, *body; int most; const char *warning; } rows[] = {
        { "/completion", "{\"prompt\":\"a\"}", -1, NULL },
        { "/completion", "{\"prompt\":\"a\",\"speculative.n_max\":3}", 3, "speculative.n_max: nothing proposes tokens for model 'pip'" },
        { "/completion", "{\"prompt\":\"a\",\"speculative.n_max\":3,\"lookup\":true}", 3, NULL },
        { "/completion", "{\"prompt\":\"a\",\"speculative.n_max\":0,\"speculative.p_min\":0.7}", 0, "speculative.p_min: accepted, has no effect" },
        { "/v1/completions", "{\"prompt\":\"a\",\"speculative.n_max\":99}", 16, "nothing proposes" },
        { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"stream\":false,\"options\":{\"draft_num_predict\":0}}", 0, NULL },
        { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"stream\":false,\"options\":{\"draft_num_predict\":4}}",
          4, "options.draft_num_predict: nothing proposes" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ask(rows[i].path, rows[i].body);
        assert_int_equal(accepted()->draft_most, rows[i].most);
        answer_with(END_EOS, NULL);
        if (rows[i].warning ? !strstr(reply(), rows[i].warning) : strstr(reply(), "warnings") != NULL) fail_msg("%s: %s", rows[i].body, reply());
    }
    fake.m.draft_name = "small";
    fake.m.draft_memory = 77;
    ask("/completion", "{\"prompt\":\"a\"}");
    snprintf(fake.submitted->draft_error, sizeof fake.submitted->draft_error, "it broke");
    answer_with(END_EOS, NULL);
    has("the draft of this model was switched off for this answer, which is the same without: it broke");
    get("GET", "/api/ps");
    has("\"draft\":{\"name\":\"small\",\"memory\":77}");
    get("GET", "/props");
    has("\"draft\":{\"name\":\"small\",\"memory\":77}");
    snprintf(fake.m.no_draft, sizeof fake.m.no_draft, "it is too large");
    get("GET", "/api/ps");
    has("\"draft\":{\"name\":\"small\",\"error\":\"it is too large\"}");
    ask("/completion", "{\"prompt\":\"a\"}");
    answer_with(END_EOS, NULL);
    has("the draft 'small' of this model is not used, the answer is the same without: it is too large");
    fake.m.draft_name = NULL;
    fake.m.no_draft[0] = 0;
}

/* Ollama's clients find Ollama, a browser finds the page. */
static void test_root(void **state) {
    (void)state;
    get("GET", "/");
    assert_string_equal(reply(), "Ollama is running");
    x.h.n_headers = 1;
    x.header[0] = (http_header){ "accept", "*/*" }; /* curl's */
    get("GET", "/");
    assert_string_equal(reply(), "Ollama is running");
    x.header[0] = (http_header){ "accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8" };
    get("GET", "/");
    x.h.n_headers = 0;
    assert_int_equal(x.status, 200);
    assert_int_equal(strncmp(reply(), "<!DOCTYPE html>", 15), 0);
}

/* What HTTP refuses by itself has the shape of its path's errors, too. */
static void test_errors_of_http(void **state) {
    (void)state;
    static const struct { const char *path; int status; const char *want; } rows[] = {
        { "/v1/chat/completions", 413, "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"invalid_request_error\","
                                       "\"code\":\"some_code\",\"param\":null,\"phase\":\"parse\"}}" },
        { "/v1/x", 503, "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"server_error\",\"code\":\"some_code\"," },
        { "/api/chat", 408, "{\"error\":\"a \\\"b\\\"\",\"code\":\"some_code\",\"param\":null,\"phase\":\"parse\"}" },
        { "/", 400, "{\"error\":\"a \\\"b\\\"\"," },
        { "/v1/messages", 413, "{\"type\":\"error\",\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"request_too_large\","
                               "\"code\":\"some_code\",\"param\":null},\"phase\":\"parse\"}" },
        { "/completion", 501, "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"not_supported_error\",\"code\":501,\"name\":\"some_code\"," },
        { "", 400, "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"invalid_request_error\",\"code\":\"some_code\"," },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf b = { 0 };
        server_error(&fake.s, rows[i].path, rows[i].status, "some_code", "a \"b\"", &b);
        buf_byte(&b, 0);
        if (strncmp(b.p, rows[i].want, strlen(rows[i].want))) fail_msg("%s: %s", rows[i].path, b.p);
        buf_free(&b);
    }
}

/* A page of the web that has made its name resolve to this machine gets nothing, in its path's dialect; health alone is for all. */
static void test_hosts(void **state) {
    (void)state;
    static const struct { const char *method, *path, *shape; } rows[] = {
        { "GET", "/", "{\"error\":\"the name \\\"evil.example\\\" is none" }, { "GET", "/api/version", "{\"error\":\"the name" },
        { "POST", "/api/chat", "{\"error\":\"the name" }, { "GET", "/v1/models", "{\"error\":{\"message\":\"the name" },
        { "POST", "/v1/chat/completions", "\"type\":\"permission_error\",\"code\":\"host_not_allowed\"" },
        { "POST", "/v1/messages", "{\"type\":\"error\",\"error\":{\"message\":\"the name" },
        { "GET", "/metrics", "\"code\":403,\"name\":\"host_not_allowed\"" }, { "GET", "/props", "\"code\":403" },
        { "OPTIONS", "/v1/models", "host_not_allowed" },
        { "GET", "/no/such/path", "\"code\":403" }, { "PUT", "/v1/models", "host_not_allowed" },
    };
    err e = { 0 };
    assert_int_equal(hosts_add(&fake.s.hosts, "llm.example.org", &e), 0);
    for (int round = 0; round < 2; round++) {
        fake.s.hosts.checked = round == 0;
        x.h.n_headers = 1;
        x.header[0] = (http_header){ "host", "evil.example:8080" };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            get(rows[i].method, rows[i].path);
            if ((x.status == 403) != fake.s.hosts.checked) fail_msg("%s: %d %s", rows[i].path, x.status, reply());
            if (round) continue;
            has(rows[i].shape);
            has("serve --allow-host NAME");
        }
    }
    fake.s.hosts.checked = true;
    get("GET", "/health");
    assert_int_equal(x.status, 200);
    static const char *const good[] = { "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "llm.example.org" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        x.header[0] = (http_header){ "host", good[i] };
        get("GET", "/v1/models");
        assert_int_equal(x.status, 200);
    }
    x.h.n_headers = 0;
    get("GET", "/v1/models"); /* HTTP/1.0 */
    assert_int_equal(x.status, 200);
    fake.s.hosts.checked = false;
}

/* A page of another site gets nothing either, in no dialect, before its body is looked at; who sends no Origin is no page. */
static void test_origins(void **state) {
    (void)state;
    static const struct { const char *method, *path, *shape; } rows[] = {
        { "POST", "/api/chat", "{\"error\":\"a page of \\\"https://evil.example\\\" may not" },
        { "GET", "/v1/models", "{\"error\":{\"message\":\"a page" }, { "GET", "/", "{\"error\":\"a page" },
        { "POST", "/v1/chat/completions", "\"type\":\"permission_error\",\"code\":\"origin_not_allowed\"" },
        { "POST", "/v1/messages", "{\"type\":\"error\"" }, { "POST", "/completion", "\"code\":403" },
        { "GET", "/metrics", "\"name\":\"origin_not_allowed\"" }, { "OPTIONS", "/v1/models", "origin_not_allowed" },
        { "DELETE", "/api/delete", "a page of" }, { "GET", "/no/such/path", "a page of" } };
    static const char body[] = "{\"prompt\":\"x\"}";
    x.h.n_headers = 3;
    x.header[0] = (http_header){ "host", "localhost:8080" };
    x.header[1] = (http_header){ "origin", "https://evil.example" };
    x.header[2] = (http_header){ "content-type", "text/plain" };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf_free(&x.body);
        fake_ask(&x, rows[i].method, rows[i].path, "no JSON", 7);
        refused(403, rows[i].shape, "serve --cors ORIGIN");
    }
    get("GET", "/health");
    assert_int_equal(x.status, 200);
    static const struct { const char *cors, *origin; bool passes; } allowed[] = {
        { NULL, "http://localhost:3000", true }, { NULL, "http://localhost:8080", true }, { NULL, "null", false },
        { "*", "https://evil.example", true }, { "*", "null", true }, { "null", "null", true },
        { "https://a.example", "https://a.example", true }, { "https://a.example", "https://b.example", false },
        { "https://a.example", "http://127.0.0.1:1", true } };
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        fake.s.cors = allowed[i].cors;
        x.header[1].value = allowed[i].origin;
        ask("/completion", body);
        if (!!fake.submitted != allowed[i].passes)
            fail_msg("%s, --cors %s: %d %s", allowed[i].origin, allowed[i].cors ? allowed[i].cors : "(none)", x.status, reply());
        drop();
    }
    fake.s.cors = NULL;
    x.header[1] = (http_header){ "referer", "https://evil.example" };
    ask("/completion", body);
    accepted();
    drop();
    static const char *const keys[] = { "sesame" };
    struct guard *open = fake.s.guard;
    err e = { 0 };
    assert_int_equal(guard_new(&fake.s.guard, keys, 1, 0, &e), 0); /* no page has one by itself; with one it may be any */
    x.header[1] = (http_header){ "origin", "https://evil.example" };
    ask("/completion", body);
    refused(401, "an API key is needed", NULL);
    x.header[2] = (http_header){ "authorization", "Bearer sesame" };
    ask("/completion", body);
    accepted();
    drop();
    guard_free(fake.s.guard);
    fake.s.guard = open;
    x.h.n_headers = 0;
}

static void test_keys_and_rates(void **state) {
    (void)state;
    static const char *const keys[] = { "sesame", "k2" };
    struct guard *open = fake.s.guard;
    err e = { 0 };
    assert_int_equal(guard_new(&fake.s.guard, keys, 2, 2, &e), 0);
    assert_int_equal(guard_key(fake.s.guard, "sesam", 5), -1);
    assert_int_equal(guard_key(fake.s.guard, "sesamesesame", 12), -1);
    assert_int_equal(guard_key(fake.s.guard, "", 0), -1);
    x.h.n_headers = 0;
    get("GET", "/v1/models");
    refused(401, "authentication_error", "invalid_api_key");
    get("GET", "/health");
    assert_int_equal(x.status, 200);
    x.h.n_headers = 1;
    x.header[0] = (http_header){ "authorization", "bearer sesame" };
    get("GET", "/v1/models");
    assert_int_equal(x.status, 200);
    get("GET", "/v1/models");
    get("GET", "/v1/models");
    refused(429, "rate_limit_exceeded", NULL);
    assert_non_null(strstr(x.extra, "Retry-After: "));
    x.header[0] = (http_header){ "x-api-key", "k2" }; /* another key has its own count */
    get("GET", "/v1/models");
    assert_int_equal(x.status, 200);
    x.h.n_headers = 0;
    guard_free(fake.s.guard);
    fake.s.guard = open;
}

/* Behind a proxy that is trusted its clients are counted, each by itself; who is not trusted is counted himself, whatever he says. */
static void test_proxies(void **state) {
    (void)state;
    struct guard *open = fake.s.guard;
    err e = { 0 };
    assert_int_equal(guard_new(&fake.s.guard, NULL, 0, 1, &e), 0);
    static const struct { const char *trust, *client; int status; } rows[] = {
        { "10.0.0.1", "203.0.113.7", 200 }, { "10.0.0.1", "203.0.113.8", 429 }, { "127.0.0.1", "203.0.113.7", 200 },
        { "127.0.0.1", "203.0.113.8", 200 }, { "127.0.0.1", "1.1.1.1, 203.0.113.8", 429 }, { "127.0.0.1", "2001:db8::1", 200 },
        { "127.0.0.1", "2001:DB8::1", 429 }, { "127.0.0.1", "bogus", 429 } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake.s.proxies.n = 0;
        assert_int_equal(proxies_add(&fake.s.proxies, rows[i].trust, &e), 0);
        x.h.n_headers = 1;
        x.header[0] = (http_header){ "x-forwarded-for", rows[i].client };
        get("GET", "/v1/models");
        if (x.status != rows[i].status) fail_msg("row %zu: %d", i, x.status);
    }
    guard_free(fake.s.guard);
    fake.s.guard = open;
    x.header[0] = (http_header){ "x-forwarded-for", "203.0.113.7" };
    ask("/v1/completions", "{\"prompt\":\"a\"}");
    assert_string_equal(accepted()->user, "203.0.113.7");
    drop();
    x.h.n_headers = 0;
    fake.s.proxies.n = 0;
}

/* The request's pooling, else the checkpoint's, else the server's, and then the reply says so. */
static void test_poolings(void **state) {
    (void)state;
    static const struct { int own, server; const char *asked; int want; bool said; } rows[] = {
        { 0, 0, NULL, 0, false }, { 2, 3, NULL, 0, false }, { 0, 3, NULL, 3, true }, { 0, 2, ",\"pooling\":\"cls\"", 1, false },
        { 2, 0, ",\"pooling\":\"last\"", 3, false }, { 0, 2, ",\"pooling\":null", 2, true } };
    static const char *const paths[] = { "/v1/embeddings", "/api/embed", "/api/embeddings" };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t k = 0; k < sizeof paths / sizeof *paths; k++) {
            char body[120];
            fake.info.pooling = rows[i].own;
            fake.s.pooling = rows[i].server;
            snprintf(body, sizeof body, "{\"model\":\"pip\",\"%s\":\"a\"%s}", k == 2 ? "prompt" : "input", rows[i].asked ? rows[i].asked : "");
            ask(paths[k], body);
            if (accepted()->pooling != rows[i].want) fail_msg("row %zu: %d", i, accepted()->pooling);
            float one[2] = { 0.6f, 0.8f };
            fake_event((job_event){ .kind = EVENT_EMBEDDING, .embedding = one, .n_embedding = 2 });
            drop();
            if (rows[i].said != (strstr(reply(), "as serve --pooling says") != NULL)) fail_msg("row %zu: %s", i, reply());
        }
    fake.info.pooling = fake.s.pooling = 0;
    ask("/v1/embeddings", "{\"input\":\"a\",\"pooling\":\"sum\"}");
    refused(400, "invalid_request", "pooling: expected first, mean or last, found");
}

/* ---- Ollama ---- */

static void test_ollama_loads(void **state) {
    (void)state;
    ask("/api/generate", "{\"model\":\"pip\",\"keep_alive\":\"1h30m\"}");
    assert_int_equal(accepted()->kind, JOB_LOAD);
    fake_event((job_event){ .kind = EVENT_END });
    has("\"done_reason\":\"load\"");
    assert_true(fake.keep_alive == 5400);
    ask("/api/chat", "{\"model\":\"pip\",\"messages\":[],\"keep_alive\":0,\"stream\":false}");
    assert_int_equal(accepted()->kind, JOB_LOAD);
    fake_event((job_event){ .kind = EVENT_END });
    has("\"done_reason\":\"unload\"");
    assert_true(fake.keep_alive == 0);
}

static void test_ollama_figures(void **state) {
    (void)state;
    ask("/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"stream\":false,\"raw\":true,\"context\":[7],"
                         "\"options\":{\"seed\":-1,\"keep_alive\":\"5m\"}}");
    job *j = accepted();
    assert_true(j->sample.top_k == 40 && j->turn_end == -1 && j->prompts[0].p[0] == 7);
    answer_with(END_EOS, NULL);
    has("\"eval_count\":2");
    has("\"prompt_eval_duration\":500000000");
    has(",559,560],");
    has("options.keep_alive: accepted, has no effect");
    ask("/api/show", "{\"model\":\"pip\"}");
    has("\"llama.attention.head_count\":8");
    has("\"capabilities\":[\"completion\"]");
    has("\"llama.context_length\":64");
    has("\"general.architecture\":\"llama\"");
    fake.info.ctx = 4096; /* VS Code computes no room at all from it */
    ask("/api/show", "{\"name\":\"pip\"}");
    has("\"llama.context_length\":4095");
    fake.info.ctx = 64;
}

/* ---- messages ---- */

static void rendered_is(const char *path, const char *body, const char *text) {
    ask(path, body);
    has(text);
}

static void test_messages_are_normalised(void **state) {
    (void)state;
    rendered_is("/apply-template", "{\"messages\":[{\"role\":\"developer\",\"content\":\"S\"},{\"role\":\"user\","
                                   "\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},"
                "{\"role\":\"assistant\",\"content\":null}]}", "<|bos|><|system|>S<|end|><|user|>a\\nb<|end|><|assistant|><|end|><|assistant|>");
    rendered_is("/apply-template", "{\"messages\":[{\"role\":\"user\",\"content\":\"<|end|>\"}],\"add_generation_prompt\":false}",
                "<|user|><|end|><|end|>\"");
    ask("/v1/messages/count_tokens", "{\"system\":[{\"type\":\"text\",\"text\":\"S\"}],\"messages\":[{\"role\":\"user\","
                                     "\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t\",\"content\":\"r\"},"
        "{\"type\":\"text\",\"text\":\"a\"}]}]}");
    has("{\"input_tokens\":");
    ask("/v1/chat/completions", "{" MESSAGES ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}");
    accepted();
    answer_with(END_EOS, NULL);
    has("does not know tools: the model does not see them");
}

static void test_calls_have_objects(void **state) {
    (void)state;
    static const char text[] = "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\","
                               "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]},"
                               "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"r\"}]";
    request q = { .s = &fake.s };
    json *in, *out;
    err e = { 0 };
    assert_int_equal(json_parse(&q.mem, text, sizeof text - 1, &in, &e), 0);
    assert_int_equal(messages_normalise(&q, &(conversation_in){ .messages = in }, &out), 0);
    const json *call = json_get(out->child, "tool_calls")->child, *arguments = json_get(json_get(call, "function"), "arguments");
    assert_int_equal(arguments->type, JSON_OBJECT);
    assert_non_null(json_get(arguments, "a"));
    assert_true(json_is(json_get(out->child->next, "tool_call_id"), "c"));
    assert_true(json_is(json_get(out->child, "content"), ""));
    arena_free(&q.mem);
}

/* ---- llama-server ---- */

static void test_native(void **state) {
    (void)state;
    ask("/tokenize", "{\"content\":\"Once upon\",\"with_pieces\":true}");
    has("{\"tokens\":[{\"id\":559,\"piece\":\"Once\"},{\"id\":560,\"piece\":\" upon\"}]}");
    ask("/detokenize", "{\"tokens\":[559,560]}");
    has("{\"content\":\"Once upon\"}");
    ask("/completion", "{\"prompt\":[559,\" upon\"],\"n_predict\":4,\"logit_bias\":[[17,false],[\" upon\",1.5]],"
                       "\"n_probs\":1,\"return_tokens\":true,\"seed\":7}");
    job *j = accepted();
    assert_true(j->n_prompts == 1 && j->prompts[0].n == 2 && j->sample.n_bias == 2 && j->sample.bias[1].id == 560 && j->sample.seed == 7);
    assert_true(j->sample.min_p == 0.05f && j->n_top == 1);
    answer_with(END_LENGTH, NULL);
    has("\"stop_type\":\"limit\"");
    has("\"tokens\":[559,560]");
    has("\"completion_probabilities\":[{\"id\":559,\"token\":\"Once\",\"bytes\":[79,110,99,101],\"logprob\":-0.25");
    has("\"prompt\":\"Once upon\"");
    ask("/completion", "{\"prompt\":[\"a\",\"b\"]}");
    assert_int_equal(accepted()->n_prompts, 2);
    drop();
}

/* ---- a client that goes ---- */

static void test_cancel(void **state) {
    (void)state;
    fake.cancelled = 0;
    ask("/v1/chat/completions", "{" MESSAGES ",\"stream\":true}");
    accepted();
    fake_piece(0, 0, 559, "Once");
    x.closed(x.closed_arg);
    assert_int_equal(fake.cancelled, 1);
    fake_event((job_event){ .kind = EVENT_CHOICE_END, .end = END_CANCELLED });
    fake_event((job_event){ .kind = EVENT_END });
    assert_true(x.ended);
    assert_int_equal(fake.held, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field_is_checked), cmocka_unit_test(test_unknown_and_inert), cmocka_unit_test(test_docs_are_current),
        cmocka_unit_test(test_chat_fills_the_job), cmocka_unit_test(test_chat_whole), cmocka_unit_test(test_streams_add_up),
        cmocka_unit_test(test_stream_of_usage), cmocka_unit_test(test_legacy_completions), cmocka_unit_test(test_best_of),
        cmocka_unit_test(test_embeddings), cmocka_unit_test(test_nothing_is_cut_in_silence), cmocka_unit_test(test_refusals_name_the_field),
        cmocka_unit_test(test_statuses), cmocka_unit_test(test_bodies_at_once), cmocka_unit_test(test_deleting_nothing),
        cmocka_unit_test(test_no_room_for_probs), cmocka_unit_test(test_native_defaults), cmocka_unit_test(test_failure_in_a_stream),
        cmocka_unit_test(test_paths_and_methods), cmocka_unit_test(test_hosts), cmocka_unit_test(test_origins),
        cmocka_unit_test(test_errors_of_http), cmocka_unit_test(test_keys_and_rates), cmocka_unit_test(test_root),
        cmocka_unit_test(test_ollama_loads), cmocka_unit_test(test_ollama_figures), cmocka_unit_test(test_messages_are_normalised),
        cmocka_unit_test(test_calls_have_objects), cmocka_unit_test(test_native), cmocka_unit_test(test_cancel), cmocka_unit_test(test_proxies),
        cmocka_unit_test(test_poolings), cmocka_unit_test(test_adapters), cmocka_unit_test(test_drafts),
    };
    return cmocka_run_group_tests(tests, open_fakes, close_fakes);
}
