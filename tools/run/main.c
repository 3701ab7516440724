/* run: generates text from a model file. This file is the command line; generate.c runs the model, vocab.c the tokenizer
 * alone. It sees engine, sample, tokenizer and base, never tensors. */
#define _GNU_SOURCE
#include "runtime/files.h"
#include "tools/run/run.h"

#include <assert.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

atomic_bool run_stop;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    if (atomic_exchange(&run_stop, true)) _exit(130); /* a second Ctrl-C does not wait */
}

int run_prompt_text(const run_opts *o, buf *text, err *e) {
    if (o->prompt_file) return read_file(o->prompt_file, 0, text, e);
    if (strcmp(o->prompt, "-") == 0) return read_stream(stdin, 0, text, e);
    buf_str(text, o->prompt);
    return text->failed ? fail_memory(e, strlen(o->prompt), "the prompt") : 0;
}

int run_prompt_tokens(const run_opts *o, const tokenizer *t, buf *text, ids *out, err *e) {
    buf own = { 0 };
    if (o->ids) return ids_parse(out, o->ids, e);
    if (!t) return fail(e, "%s has no tokenizer: give token ids with --ids, or convert again with a tokenizer", o->model);
    if (!text) text = &own;
    if (o->chat) {
        buf prompt = { 0 };
        int failed = run_prompt_text(o, &prompt, e);
        if (!failed) failed = run_chat_tokens(o, t, &prompt, text, out, e);
        buf_free(&prompt);
        buf_free(&own);
        return failed;
    }
    int rc = run_prompt_text(o, text, e), flags = TOK_SPECIAL | (o->parse_special ? TOK_PARSE_SPECIAL : 0);
    if (!rc) rc = tokenizer_encode(t, text->p ? text->p : "", text->n, flags, out, e);
    buf_free(&own);
    return rc;
}

/* Without a prompt, on a terminal, it is a chat. */
static bool chats(const run_opts *o) {
    bool other = o->render || o->show_prompt || o->embed || o->print_ids || o->dump_logits || o->decoder_ids;
    if (other || o->prompt || o->prompt_file || o->ids) return false;
    return o->chat || isatty(0);
}

static int check_search(const program *p, const run_opts *o) {
    if (o->beams_given && (o->beams < 1 || o->beams > BEAM_MOST)) return usage_error(p, "--beams: expected 1 to %d, found %d", BEAM_MOST, o->beams);
    if (o->early_stopping && run_early_stopping(o->early_stopping) < 0)
        return usage_error(p, "--early-stopping: expected true, false or never, found \"%s\"", o->early_stopping);
    int shapes = (o->grammar != NULL) + (o->json_schema != NULL) + o->json;
    if (shapes > 1) return usage_error(p, "only one of --grammar, --json and --json-schema");
    if (o->beams > 1 && shapes) return usage_error(p, "--beams follows many answers at once: not with --grammar, --json or --json-schema");
    bool cold = o->temperature_given && o->sample.temperature == 0;
    if (o->beams > 1 && (o->lookup || o->draft))
        return usage_error(p, "--lookup and --draft propose tokens that are drawn one by one: not with --beams");
    if (o->beams_given && o->beams > 1 && run_draws(o) && !cold)
        return usage_error(p, "--beams searches, it draws nothing: not with --temp, --top-k, --top-p, --min-p or --typical");
    return OPTIONS_GO_ON;
}

static int check(const program *p, const run_opts *o, int n_words) {
    if (n_words != 1) return usage_error(p, "expected a model file");
    if (o->replay)
        return o->prompt || o->prompt_file || o->ids || o->chat
                       ? usage_error(p, "--replay takes its prompts from a trace: not with -p, -f, --ids or --chat") : OPTIONS_GO_ON;
    int sources = (o->prompt != NULL) + (o->prompt_file != NULL) + (o->ids != NULL);
    bool other = o->tokenize || o->detokenize || o->plan || o->render;
    if (other && (o->chat || o->show_prompt)) return usage_error(p, "--chat and --show-prompt go with -p or -f");
    if (o->embed && o->show_prompt) return usage_error(p, "--show-prompt and --embed exclude each other");
    if (o->tokenize && o->detokenize) return usage_error(p, "--tokenize and --detokenize exclude each other");
    if ((o->tokenize || o->detokenize) && o->lora.n) return usage_error(p, "--lora changes no token: not with --tokenize or --detokenize");
    if (o->tokenize || o->detokenize) return sources ? usage_error(p, "--tokenize and --detokenize read stdin, not -p, -f or --ids") : OPTIONS_GO_ON;
    if (o->decoder_ids && o->embed) return usage_error(p, "--decoder-ids and --embed exclude each other");
    if (o->pooling && !o->embed) return usage_error(p, "--pooling goes with --embed");
    if (o->template_file && !o->render && !o->chat && !chats(o)) return usage_error(p, "--template goes with --chat or --render");
    if (o->render) return sources ? usage_error(p, "--render reads its chat from a file: no -p, -f or --ids with it") : OPTIONS_GO_ON;
    if (o->jsonl) return usage_error(p, "--jsonl goes with --tokenize, --detokenize or --render");
    if (o->sessions_given && (!o->plan || o->beams_given)) return usage_error(p, "--sessions goes with --plan, and not with --beams");
    if (o->sessions_given && o->engine.max_sessions < 1) return usage_error(p, "--sessions: expected 1 or more, found %d", o->engine.max_sessions);
    if (o->plan) return sources ? usage_error(p, "--plan computes nothing: no -p, -f or --ids with it") : check_search(p, o);
    if (sources == 0 && !chats(o))
        return usage_error(p, "a prompt is needed: -p TEXT, -f FILE or --ids \"1 2 3\"; or --chat, or a terminal to chat on");
    if (o->chat && o->ids) return usage_error(p, "--chat makes a chat of a text: -p or -f, not --ids");
    if (o->system && !o->chat && !chats(o)) return usage_error(p, "--system goes with --chat");
    if (sources > 1) return usage_error(p, "only one of -p, -f and --ids");
    if (o->n_predict < -1) return usage_error(p, "-n: expected -1 (until the context is full), 0 or more, found %d", o->n_predict);
    if (o->engine.threads < 0) return usage_error(p, "--threads: expected 1 or more, found %d", o->engine.threads);
    if (o->engine.ctx < 0) return usage_error(p, "--ctx: expected 1 or more, found %d", o->engine.ctx);
    for (int i = 0; i < o->stop.n; i++)
        if (!o->stop.p[i][0]) return usage_error(p, "--stop: an empty string would stop everything");
    return check_search(p, o);
}

static int dispatch(run_opts *o, err *e) {
    arena mem = { 0 };
    int rc = engine_take_adapters(&o->engine, o->lora.p, o->lora.n, &mem, e);
    if (!o->embed && !o->sessions_given) o->engine.max_sessions = run_sessions(o);
    if (chats(o) && !o->n_given) o->n_predict = -1; /* a reply ends by itself */
    if (rc) o->engine.n_adapters = 0; /* nothing is run */
    else if (o->replay) rc = run_replay(o, e);
    else if (o->tokenize || o->detokenize) rc = run_vocab(o, e);
    else if (o->render) rc = run_render(o, e);
    else if (o->plan) rc = run_plan(o, e);
    else if (o->embed) rc = run_embed(o, e);
    else if (chats(o)) rc = run_talk(o, e);
    else rc = o->show_prompt && o->n_predict == 0 && !o->dump_logits ? run_show_prompt(o, e) : run_generate(o, e);
    arena_free(&mem);
    return rc;
}

/* Runs what was asked for; the status to exit with. */
static int start(run_opts *o) {
    struct sigaction action = { .sa_handler = on_interrupt };
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of writing, named like any other */
    o->engine.path = o->model;
    err e = { 0 };
    int rc = dispatch(o, &e);
    if (rc >= 0) return rc;
    fprintf(stderr, "run: %s\n", e.msg);
    return 1;
}

static const char about[] =
    "Generates text from a model file that ./convert made; without a prompt, on a terminal, it chats. Text on stdout, "
    "statistics on stderr; Ctrl-C ends cleanly.";

static int parse_and_start(const program *p, run_opts *o, int argc, char **argv) {
    int n_words, rc = options_parse(p, argc, argv, &o->model, 1, &n_words);
    return rc == OPTIONS_GO_ON && (rc = check(p, o, n_words)) == OPTIONS_GO_ON ? start(o) : rc;
}

enum { MOST_ROWS = 32 }; /* of one part of the options */

static int add_rows(option *to, const option *rows, size_t n) {
    assert(n <= MOST_ROWS);
    memcpy(to, rows, n * sizeof *rows);
    return (int)n;
}

/* What to continue, and how far. */
static int options_of_prompts(run_opts *o, option *to) {
    const option rows[] = {
        { "--prompt", "-p", OPT_TEXT, &o->prompt, "TEXT", "continue this text; - reads stdin", NULL },
        { "--file", "-f", OPT_TEXT, &o->prompt_file, "FILE", "continue the text of a file", NULL },
        { "--ids", NULL, OPT_TEXT, &o->ids, "\"1 2 3\"", "continue these token ids", NULL },
        { "--decoder-ids", NULL, OPT_TEXT, &o->decoder_ids, "\"1 2\"", "for encoder-decoder models: begin the answer with these ids", NULL },
        { "--chat", NULL, OPT_FLAG, &o->chat, NULL,
          "the prompt is what a user says: through the chat template; without a prompt each line of stdin is", NULL },
        { "--system", NULL, OPT_TEXT, &o->system, "TEXT", "in a chat: the system message before it", NULL },
        { "--template", NULL, OPT_TEXT, &o->template_file, "FILE",
          "in a chat or with --render: this chat template (Jinja) instead of the checkpoint's", NULL },
        { "--show-prompt", NULL, OPT_FLAG, &o->show_prompt, NULL,
          "print the prompt's text (after the template) and its ids first; with -n 0 nothing else", NULL },
        { "--render", NULL, OPT_TEXT, &o->render, "FILE", "print a chat, {\"messages\": [...], ...}, as the template makes it; - reads stdin", NULL },
        { "--n-predict", "-n", OPT_INT, &o->n_predict, "N", "tokens to generate (256; in a chat -1); -1: until the context is full", &o->n_given },
        { "--threads", "-t", OPT_INT, &o->engine.threads, "N", "threads (physical cores this process may use)", NULL },
        { "--ctx", "-c", OPT_INT, &o->engine.ctx, "N", "positions of context (the model's own, if its cache fits in a quarter of memory)", NULL },
    };
    return add_rows(to, rows, sizeof rows / sizeof *rows);
}

/* How a token is chosen, and what ends the answer. */
static int options_of_draws(run_opts *o, option *to) {
    const option rows[] = {
        { "--temp", NULL, OPT_FLOAT, &o->sample.temperature, "T", "temperature (the checkpoint's, else 0.8); 0: always the likeliest",
          &o->temperature_given },
        { "--top-k", NULL, OPT_INT, &o->sample.top_k, "K", "keep the K likeliest (the checkpoint's, else 40); 0: all", &o->top_k_given },
        { "--top-p", NULL, OPT_FLOAT, &o->sample.top_p, "P", "keep the fewest that reach P (the checkpoint's, else 0.95)", &o->top_p_given },
        { "--min-p", NULL, OPT_FLOAT, &o->sample.min_p, "P", "keep those P times as likely as the likeliest (0)", &o->min_p_given },
        { "--typical", NULL, OPT_FLOAT, &o->sample.typical_p, "P", "locally typical sampling (1: off)", &o->typical_given },
        { "--repeat-penalty", NULL, OPT_FLOAT, &o->sample.repeat_penalty, "R",
          "penalty of recent tokens (the checkpoint's, else 1: off)", &o->repeat_given },
        { "--frequency-penalty", NULL, OPT_FLOAT, &o->sample.frequency_penalty, "F", "subtracted for each recent occurrence (0)", NULL },
        { "--presence-penalty", NULL, OPT_FLOAT, &o->sample.presence_penalty, "F", "subtracted once for a recent token (0)", NULL },
        { "--repeat-last-n", NULL, OPT_INT, &o->sample.repeat_last_n, "N", "how many tokens are recent (64); -1: all", NULL },
        { "--no-repeat-ngram", NULL, OPT_INT, &o->sample.no_repeat_ngram, "N",
          "no N tokens in a row come twice, the prompt's included (the checkpoint's, else 0: off)", &o->no_repeat_given },
        { "--min-length", NULL, OPT_INT, &o->sample.min_length, "N", "no end of text before N new tokens (the checkpoint's, else 0)",
          &o->min_length_given },
        { "--grammar", NULL, OPT_TEXT, &o->grammar, "FILE", "the answer is what a grammar (GBNF) allows", NULL },
        { "--json", NULL, OPT_FLAG, &o->json, NULL, "the answer is a JSON object", NULL },
        { "--json-schema", NULL, OPT_TEXT, &o->json_schema, "FILE",
          "the answer is JSON that a schema allows: a file, or the schema itself, {...}", NULL },
        { "--lookup", NULL, OPT_FLAG, &o->lookup, NULL,
          "propose what followed the last tokens earlier, check it in one step: the same ids, sooner", NULL },
        { "--draft", NULL, OPT_TEXT, &o->draft, "MODEL2.bin", "let a smaller model of the same tokens propose: the same ids, sooner", NULL },
        { "--beams", NULL, OPT_INT, &o->beams, "N", "beam search: follow the N likeliest answers, print the best "
                                                   "at the end (the checkpoint's, else 1: off)", &o->beams_given },
        { "--length-penalty", NULL, OPT_FLOAT, &o->length_penalty, "X",
          "of a beam search: score / length^X, above 0 favours long answers (the checkpoint's, else 1)", &o->length_penalty_given },
        { "--early-stopping", NULL, OPT_TEXT, &o->early_stopping, "WHEN",
          "of a beam search with N answers: true ends it, false goes on while a better one is likely, never while "
          "possible (the checkpoint's, else false)", NULL },
        { "--seed", NULL, OPT_SEED, &o->sample.seed, "S", "seed of the draw (random; printed with the statistics)", &o->seed_given },
        { "--stop", NULL, OPT_TEXTS, &o->stop, "TEXT", "end before this text; may be given several times", NULL },
        { "--ignore-eos", NULL, OPT_FLAG, &o->ignore_eos, NULL, "go on past the end of text", NULL },
    };
    return add_rows(to, rows, sizeof rows / sizeof *rows);
}

/* What is printed, with which files and on what machine; and what is done instead of an answer. */
static int options_of_runs(run_opts *o, option *to) {
    const option rows[] = {
        { "--no-echo", NULL, OPT_FLAG, &o->no_echo, NULL, "do not repeat the prompt", NULL },
        { "--parse-special", NULL, OPT_FLAG, &o->parse_special, NULL, "special tokens written in the prompt are special, not text", NULL },
        { "--lora", NULL, OPT_TEXTS, &o->lora, "FILE[:SCALE]", "apply an adapter that convert made; may be given several times", NULL },
        { "--huge-pages", NULL, OPT_FLAG, &o->engine.huge_pages, NULL, "copy the file into memory on huge pages instead of mapping it", NULL },
        { "--lock", "--mlock", OPT_FLAG, &o->engine.lock, NULL, "read all weights at once and keep them in memory", NULL },
        { "--cache-type", NULL, OPT_TEXT, &o->engine.cache_type, "TYPE",
          "of the keys and values kept: f16, or q8, which takes half the memory (f16)", NULL },
        { "--exact", NULL, OPT_FLAG, &o->engine.exact, NULL, "f32 activations and cache: slower, for comparisons", NULL },
        { "--kernels", NULL, OPT_TEXT, &o->engine.kernels, "NAME", "kernel table ($QUERN_KERNELS, else the best for this CPU)", NULL },
        { "--print-ids", NULL, OPT_FLAG, &o->print_ids, NULL,
          "print ids on one line instead of text: the generated ones; with --render the chat's", NULL },
        { "--dump-logits", NULL, OPT_TEXT, &o->dump_logits, "FILE", "write the logits of every given token: f32 [tokens][vocab]", NULL },
        { "--sessions", NULL, OPT_INT, &o->engine.max_sessions, "N", "with --plan: so many sequences at once, as a server has (1)",
          &o->sessions_given },
        { "--explain", NULL, OPT_FLAG, &o->explain, NULL, "afterwards: time by step and layer, beside this machine's limits, and what binds", NULL },
        { "--replay", NULL, OPT_TEXT, &o->replay, "FILE",
          "compute the requests of a server's trace (serve --trace) again and compare, bit for bit", NULL },
        { "--plan", NULL, OPT_FLAG, &o->plan, NULL, "print the memory that a run will need, and the speed that memory allows", NULL },
        { "--embed", NULL, OPT_FLAG, &o->embed, NULL, "print the prompt's embedding as a JSON array", NULL },
        { "--pooling", NULL, OPT_TEXT, &o->pooling, "KIND", "with --embed: first, mean or last (the checkpoint's own)", NULL },
        { "--tokenize", NULL, OPT_FLAG, &o->tokenize, NULL, "stdin to token ids on one line", NULL },
        { "--detokenize", NULL, OPT_FLAG, &o->detokenize, NULL, "token ids on stdin to text", NULL },
        { "--no-special", NULL, OPT_FLAG, &o->no_special, NULL,
          "with --tokenize: add no BOS or EOS; with --detokenize: leave special tokens out", NULL },
        { "--jsonl", NULL, OPT_FLAG, &o->jsonl, NULL, "with these and --render: one JSON object a line in, one line out", NULL },
        { "--verbose", "-v", OPT_FLAG, &o->verbose, NULL, "say what was chosen and why", NULL },
    };
    return add_rows(to, rows, sizeof rows / sizeof *rows);
}

int main(int argc, char **argv) {
    run_opts o = { .n_predict = 256, .sample = sample_defaults() };
    option options[3 * MOST_ROWS]; /* in the order of --help */
    int n = options_of_prompts(&o, options);
    n += options_of_draws(&o, options + n);
    n += options_of_runs(&o, options + n);
    return parse_and_start(&(program){ "run", "MODEL.bin [-p TEXT] [options]", about, options, n }, &o, argc, argv);
}
