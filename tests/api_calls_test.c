/* Structured answers and calls of tools through the dialects: what reaches the job, what goes back, whole and streamed, and what is refused. */
#include "tests/api_ask.h"

#define TOOL_F "{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":false}}"
#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":" TOOL_F "}]"

static void know_tools(bool yes) {
    fake.m.calls = yes ? call_format_of("tools <tool_call> arguments", 27) : NULL;
    fake.m.think = yes ? think_marks_of("</think>", 8) : (think_marks){ 0 };
}

/* Thought, text and two calls, in pieces that cut the markers. */
static void answer_with_calls(job_end end) {
    static const char *const pieces[] = { "<thi", "nk>H", "m</think>\n\nL", "ook.\n<tool",
                                          "_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}</tool_call>\n<tool_call>{\"name\":\"f\"",
                                          ",\"arguments\":{", "\"a\":2}}", "</tool_call>" };
    for (size_t i = 0; i < 8; i++) {
        if (end == END_LENGTH && i == 6) break;
        job_event v = { .kind = EVENT_PIECE, .id = 600, .text = pieces[i], .n = strlen(pieces[i]), .logprob = NAN, .constrained = i > 3 };
        fake_event(v);
    }
    fake_event((job_event){ .kind = EVENT_CHOICE_END, .end = end });
    fake_event((job_event){ .kind = EVENT_END, .timings = { .n_prompt = 8, .n_decoded = 8 } });
}

static void test_calls_whole(void **state) {
    (void)state;
    know_tools(true);
    ask("/v1/chat/completions", "{" MESSAGES "," TOOLS "}");
    assert_int_equal(accepted()->constraint.n_triggers, 1);
    assert_non_null(accepted()->grammar);
    answer_with_calls(END_GRAMMAR);
    has("\"content\":\"Look.\",\"reasoning_content\":\"Hm\",\"tool_calls\":[{\"id\":\"call_");
    has("\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},{");
    has("\"finish_reason\":\"tool_calls\"");
    has("\"reasoning_tokens\":2");
    ask("/v1/chat/completions", "{" MESSAGES "," TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}");
    assert_int_equal(accepted()->constraint.n_triggers, 0);
    answer_with_calls(END_LENGTH);
    has("\"arguments\":\"{\"");
    has("\"finish_reason\":\"length\"");
    has("cut within a call");
    ask("/api/chat", "{\"model\":\"pip\",\"stream\":false," MESSAGES "," TOOLS "}");
    accepted();
    answer_with_calls(END_EOS);
    has("\"content\":\"Look.\",\"thinking\":\"Hm\",\"tool_calls\":[{\"id\":\"call_");
    has("\"function\":{\"index\":1,\"name\":\"f\",\"arguments\":{\"a\":2}}}]}");
    ask("/v1/messages", "{" MESSAGES ",\"max_tokens\":50,\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}],"
                                     "\"tool_choice\":{\"type\":\"any\"}}");
    accepted();
    answer_with_calls(END_EOS);
    has("\"content\":[{\"type\":\"thinking\",\"thinking\":\"Hm\",\"signature\":\"\"},{\"type\":\"text\","
        "\"text\":\"Look.\"},{\"type\":\"tool_use\",\"id\":\"call_");
    has("\"input\":{\"a\":2}}],\"stop_reason\":\"tool_use\"");
    ask("/v1/responses", "{\"input\":\"a\",\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{}}]}");
    accepted();
    answer_with_calls(END_EOS);
    has("\"output\":[{\"type\":\"reasoning\"");
    has("{\"type\":\"function_call\",\"id\":\"fc_");
    has("\"name\":\"f\",\"arguments\":\"{\\\"a\\\":2}\",\"status\":\"completed\"}]");
    know_tools(false);
}

/* A reply of Ollama's is one line, whatever space stands in arguments. */
static void test_calls_on_one_line(void **state) {
    (void)state;
    static const char text[] = "<tool_call>{\"name\":\"f\",\"arguments\":\n{\n \"a\":\r\n1}}</tool_call>";
    know_tools(true);
    for (int constrained = 0; constrained < 2; constrained++) {
        ask("/api/chat", "{\"model\":\"pip\"," MESSAGES "," TOOLS "}");
        accepted();
        for (size_t i = 0; i + 1 < sizeof text; i++)
            fake_event((job_event){ .kind = EVENT_PIECE, .id = 600, .text = text + i, .n = 1, .logprob = NAN, .constrained = constrained });
        fake_event((job_event){ .kind = EVENT_CHOICE_END, .end = END_GRAMMAR });
        fake_event((job_event){ .kind = EVENT_END });
        has("\"tool_calls\":[{");
        for (const char *p = reply(); *p;) { /* each line is an object */
            const char *end = strchr(p, '\n');
            arena a = { 0 };
            json *j;
            err e = { 0 };
            assert_non_null(end);
            if (json_parse(&a, p, (size_t)(end - p), &j, &e)) fail_msg("%s: %.*s", e.msg, (int)(end - p), p);
            arena_free(&a);
            p = end + 1;
        }
    }
    know_tools(false);
}

static void test_calls_streamed(void **state) {
    (void)state;
    know_tools(true);
    ask("/v1/chat/completions", "{" MESSAGES ",\"stream\":true," TOOLS "}");
    accepted();
    answer_with_calls(END_GRAMMAR);
    has("\"delta\":{\"reasoning_content\":\"H\"}");
    has("\"delta\":{\"content\":\"ook.\"}");
    has("\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"call_");
    has("\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}");
    has("\"delta\":{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{\"}}]}");
    has("\"delta\":{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"\\\"a\\\":2}\"}}]}");
    has_not("tool_call>");
    has("\"finish_reason\":\"tool_calls\"");
    ask("/api/chat", "{\"model\":\"pip\"," MESSAGES "," TOOLS "}");
    accepted();
    answer_with_calls(END_EOS);
    has("\"content\":\"\",\"thinking\":\"m\"}");
    has("\"content\":\"\",\"tool_calls\":[{\"id\":\"call_");
    has("\"function\":{\"index\":1,\"name\":\"f\",\"arguments\":{\"a\":2}}}]},\"done\":false}");
    ask("/v1/messages", "{" MESSAGES ",\"max_tokens\":50,\"stream\":true,\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}]}");
    accepted();
    answer_with_calls(END_EOS);
    has("{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\"");
    has("{\"type\":\"content_block_start\",\"index\":3,\"content_block\":{\"type\":\"tool_use\",\"id\":\"call_");
    has("{\"type\":\"content_block_delta\",\"index\":3,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\\\"a\\\":2}\"}}");
    has("{\"type\":\"content_block_stop\",\"index\":3}");
    has("\"stop_reason\":\"tool_use\"");
    ask("/v1/responses", "{\"input\":\"a\",\"stream\":true,\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{}}]}");
    accepted();
    answer_with_calls(END_EOS);
    has("\"response.reasoning_text.delta\"");
    has("\"type\":\"response.output_item.added\"");
    has("\"output_index\":3,\"delta\":\"\\\"a\\\":2}\"");
    has("\"type\":\"response.function_call_arguments.done\"");
    know_tools(false);
}

/* Every keyword that cannot be kept is refused with its place, by every dialect. */
static void test_keywords_are_refused(void **state) {
    (void)state;
    static const struct { const char *name, *value; } keywords[] = {
        { "uniqueItems", "true" }, { "patternProperties", "{\"^a\":{}}" }, { "not", "{\"type\":\"null\"}" }, { "if", "{}" },
        { "then", "{}" }, { "else", "{}" }, { "contains", "{}" }, { "minContains", "1" },
        { "dependentRequired", "{\"a\":[\"b\"]}" }, { "dependentSchemas", "{\"a\":{}}" }, { "dependencies", "{\"a\":[\"b\"]}" },
        { "propertyNames", "{\"maxLength\":3}" }, { "unevaluatedItems", "false" },
        { "unevaluatedProperties", "false" }, { "$dynamicRef", "\"#x\"" }, { "additionalItems", "false" }, { "unheard", "1" },
    };
    static const struct { const char *path, *before, *after, *param; } dialects[] = {
        { "/v1/chat/completions", MESSAGES ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":",
          "}}", "response_format.json_schema.schema: " },
        { "/v1/responses", "\"input\":\"a\",\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\",\"schema\":",
          "}}", "text.format.schema: " },
        { "/api/chat", "\"model\":\"pip\"," MESSAGES ",\"format\":", "", "format: " },
        { "/api/generate", "\"model\":\"pip\",\"prompt\":\"a\",\"format\":", "", "format: " },
        { "/completion", "\"prompt\":\"a\",\"json_schema\":", "", "json_schema: " },
        { "/completion", "\"prompt\":\"a\",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":",
          "}}", "response_format.json_schema.schema: " },
        { "/v1/chat/completions", MESSAGES ",\"tool_choice\":\"required\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\","
                                           "\"parameters\":", "}}]", "tools[0].function.parameters: " },
        { "/v1/messages", MESSAGES ",\"max_tokens\":5,\"tool_choice\":{\"type\":\"any\"},\"tools\":[{\"name\":\"f\",\"input_schema\":",
          "}]", "tools[0].function.parameters: " },
    };
    know_tools(true);
    for (size_t k = 0; k < sizeof keywords / sizeof *keywords; k++)
        for (size_t d = 0; d < sizeof dialects / sizeof *dialects; d++) {
            char body[1200], want[200];
            snprintf(body, sizeof body, "{%s{\"type\":\"object\",\"properties\":{\"a/b\":{\"%s\":%s}}}%s}", dialects[d].before,
                     keywords[k].name, keywords[k].value, dialects[d].after);
            snprintf(want, sizeof want, "%sJSON schema, #/properties/a~1b/%s: `%s` cannot be enforced", dialects[d].param,
                     keywords[k].name, keywords[k].name);
            ask(dialects[d].path, body);
            if (fake.submitted) fail_msg("%s: accepted %s", dialects[d].path, body);
            refused(400, "", want);
        }
    know_tools(false);
}

/* Another family's template and format of calls, for a while. */
static void with_template(const char *folder, const char *name) {
    static chat *own;
    char path[200];
    buf text = { 0 };
    err e = { 0 };
    if (own) chat_close(fake.m.chat), fake.m.chat = own, own = NULL, fake.m.calls = NULL, fake.m.wants = (template_wants){ false, false };
    if (!name) return;
    own = fake.m.chat;
    snprintf(path, sizeof path, "tests/fixtures/%s/%s.jinja", folder, name);
    if (read_file(path, 0, &text, &e) || chat_open(&fake.m.chat, fake.m.tok, text.p, text.n, &e)) fail_msg("%s", e.msg);
    fake.m.calls = call_format_of(text.p, text.n);
    fake.m.wants = template_wants_of(text.p, text.n);
    buf_free(&text);
}

/* Calls and their results as clients send them back, with ids or with names, arguments as text or as an object, through the template. */
static void test_results_go_back(void **state) {
    (void)state;
#define CALL_WITH(id, args) "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" \
                            "{" id "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":" args "}}," \
                            "{" id "\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":{}}}]},"
    static const struct { const char *folder, *name, *body, *want; } rows[] = {
        { "tool_templates", "deepseek", CALL_WITH("\"id\":\"c1\",", "{\"x\":1}") "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"R\"}]}",
          "f\\n```json\\n{\\\"x\\\":1}\\n```<" },
        { "tool_templates", "deepseek-3.1",
          CALL_WITH("\"id\":\"c1\",", "\"{\\\"x\\\": 1}\"") "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"R\"}]}", "{\\\"x\\\": 1}<" },
        { "tool_templates", "function-gemma",
          CALL_WITH("\"id\":\"c1\",", "{\"x\":\"y\"}") "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"R\"}]}",
          "call:f{x:<escape>y<escape>}<end_function_call><start_function_call>call:g{}<end_function_call>"
          "<start_function_response>response:f{value:<escape>R<escape>}" },
        { "tool_templates", "xml", CALL_WITH("", "{\"x\":\"y\",\"z\":[1]}") "{\"role\":\"tool\",\"tool_name\":\"g\",\"content\":\"R\"}]}",
          "<parameter=x>\\ny\\n</parameter>\\n<parameter=z>\\n[1]\\n</parameter>" },
        { "chat_templates", "mistral-nemo", CALL_WITH("", "{}") "{\"role\":\"tool\",\"tool_name\":\"g\",\"content\":\"R\"}]}",
          "{\\\"content\\\": R, \\\"call_id\\\": \\\"call00002\\\"}" },
        { "chat_templates", "mistral-nemo", CALL_WITH("", "{}") "{\"role\":\"tool\",\"content\":\"R\"},{\"role\":\"tool\",\"content\":\"S\"}]}",
          "{\\\"content\\\": S, \\\"call_id\\\": \\\"call00002\\\"}" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        with_template(rows[i].folder, rows[i].name);
        ask("/apply-template", rows[i].body);
        has(rows[i].want);
    }
    with_template(NULL, NULL);
}

static void test_structures_reach_the_job(void **state) {
    (void)state;
    static const struct { const char *path, *body; bool grammar; } rows_of[] = {
        { "/v1/chat/completions", "{" MESSAGES ",\"response_format\":{\"type\":\"json_object\"}}", true },
        { "/v1/chat/completions", "{" MESSAGES ",\"response_format\":{\"type\":\"text\"}}", false },
        { "/v1/chat/completions", "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\","
                                               "\"schema\":{\"type\":\"object\"}}}}", true },
        { "/v1/chat/completions", "{" MESSAGES ",\"grammar\":\"root ::= [a-z]*\"}", true },
        { "/v1/completions", "{\"prompt\":\"a\",\"grammar\":\"root ::= [a-z]*\"}", true },
        { "/v1/responses", "{\"input\":\"a\",\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\",\"schema\":{\"type\":\"object\"}}}}",
          true },
        { "/api/chat", "{\"model\":\"pip\"," MESSAGES ",\"format\":\"json\"}", true },
        { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"format\":{\"type\":\"object\"}}", true },
        { "/api/generate", "{\"model\":\"pip\",\"prompt\":\"a\",\"format\":\"\"}", false },
        { "/completion", "{\"prompt\":\"a\",\"json_schema\":{}}", true },
        { "/completion", "{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\",\"schema\":{\"type\":\"object\"}}}", true },
    };
    for (size_t i = 0; i < sizeof rows_of / sizeof *rows_of; i++) {
        ask(rows_of[i].path, rows_of[i].body);
        if ((accepted()->grammar != NULL) != rows_of[i].grammar) fail_msg("%s", rows_of[i].body);
        drop();
    }
    int kept = grammars_count(fake.m.grammars);
    ask(rows_of[3].path, rows_of[3].body); /* compiled once */
    drop();
    assert_int_equal(grammars_count(fake.m.grammars), kept);
    for (int i = 0; i < 100; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"prompt\":\"a\",\"grammar\":\"root ::= [a-z]{%d}\"}", i + 1);
        ask("/completion", body);
        drop();
    }
    assert_int_equal(grammars_count(fake.m.grammars), GRAMMARS_KEPT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_whole), cmocka_unit_test(test_calls_on_one_line), cmocka_unit_test(test_calls_streamed),
        cmocka_unit_test(test_keywords_are_refused), cmocka_unit_test(test_results_go_back), cmocka_unit_test(test_structures_reach_the_job),
    };
    return cmocka_run_group_tests(tests, open_fakes, close_fakes);
}
