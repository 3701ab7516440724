/* talk: a chat of many turns: messages in, replies out, until the end: the loop, its commands, and what a person is told. It owns the
 * conversation and the session that holds it. Keys are the editor's business, ids the conversation's. */
#define _GNU_SOURCE /* getline */
#include "tools/run/conversation.h"
#include "tools/run/generate.h"
#include "tools/run/terminal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char PROMPT[] = ">>> ", MORE[] = "... ";

enum { N_COMMANDS = 12 };

typedef struct talk {
    generation r;
    conversation c;
    chat *shape;
    line l;
    bool edited;    /* by keys; else lines of stdin are messages */
    bool begun;     /* the reply's prompt is in the session */
    int n_kept;     /* tokens of it that were there before */
    int attempt;    /* how many times the last reply was asked for again */
    int ctrl_c;     /* in a row, on an empty message */
    bool leave;
    int status;     /* to leave with */
    const char *words[N_COMMANDS]; /* for Tab */
} talk;

static int say(buf *out, err *e) {
    int rc = out->failed ? fail_memory(e, out->cap, "the output") : 0;
    if (!rc && ((out->n && fwrite(out->p, 1, out->n, stdout) != out->n) || fflush(stdout)))
        rc = fail(e, "writing to stdout failed: %s", strerror(errno));
    buf_free(out);
    return rc;
}

/* ---- replies ---- */

static void begin(talk *x) {
    if (!x->begun) conversation_begin(&x->c);
    x->begun = true;
}

static void taken(void *arg, int32_t id, const char *text, size_t n, bool whole) {
    talk *x = arg;
    begin(x);
    conversation_token(&x->c, id, text, n, whole);
}

static int set_up(talk *x, err *e) {
    generation *r = &x->r;
    const ids *prompt = &x->c.next.tokens;
    const run_opts *o = r->o;
    r->tokens.n = 0;
    for (size_t i = 0; i < prompt->n; i++) ids_add(&r->tokens, prompt->p[i]);
    if (r->tokens.failed) return fail_memory(e, prompt->n * sizeof(int32_t), "the prompt's tokens");
    r->n_prompt = prompt->n;
    r->prompt_seconds = r->decode_seconds = 0;
    r->n_decoded = 0;
    r->end = NULL;
    x->begun = false;
    for (x->n_kept = 0; x->n_kept < session_len(r->s) && (size_t)x->n_kept < prompt->n; x->n_kept++)
        if (session_tokens(r->s)[x->n_kept] != prompt->p[x->n_kept]) break;
    /* With --seed a reply is repeated by the same conversation, wherever it came from; asked for again, it is another one. */
    uint64_t place = (uint64_t)(x->c.n > 2 ? x->c.n / 2 : 0),
             seed = o->sample.seed + place * 0x9e3779b97f4a7c15u + (uint64_t)x->attempt * 0xbf58476d1ce4e5b9u;
    return generation_sampler(r, o->seed_given ? seed : sample_random_seed(), e);
}

static void print_statistics(const talk *x) {
    const generation *r = &x->r;
    size_t computed = r->n_prompt - (size_t)x->n_kept;
    if (!r->o->verbose) return;
    fprintf(stderr, "context %d of %d | prompt %zu tokens: %d kept, %zu processed", session_len(r->s), r->info->ctx,
            r->n_prompt, x->n_kept, computed);
    if (computed) fprintf(stderr, ", %.1f tok/s", (double)computed / r->prompt_seconds);
    generation_print_decode(r);
    fprintf(stderr, " | seed %llu | %s\n", (unsigned long long)r->seed, r->end ? r->end : "stopped");
}

static void tell_end(const talk *x) {
    const engine_info *i = x->r.info;
    const char *end = x->r.end ? x->r.end : "";
    if (strcmp(end, "context full") == 0)
        fprintf(stderr, "the context is full: %d tokens in %d positions; the reply ends here. /clear begins anew, --ctx sets the size\n",
                session_len(x->r.s), i->ctx);
    if (strcmp(end, "-n reached") == 0) fprintf(stderr, "the reply ends here: -n %d\n", x->r.o->n_predict);
}

/* The model's reply to what was said so far, and its message. *said: there is one, if only in part. */
static int make_reply(talk *x, buf *text, bool *said, err *e) {
    generation *r = &x->r;
    *said = false;
    if (conversation_prompt(&x->c, e) || set_up(x, e)) return -1;
    r->reply = text;
    int rc = generation_run(r, e);
    r->reply = NULL;
    bool interrupted = rc ? e->code == ERR_STOPPED : strcmp(r->end, "interrupted") == 0;
    if (rc && interrupted) {
        *e = (err){ 0 };
        rc = 0;
    }
    *said = !rc && (x->begun || !interrupted);
    if (!*said) return rc;
    begin(x);
    return conversation_add(&x->c, "assistant", text->p ? text->p : "", text->n, e);
}

static int reply(talk *x, bool *said, err *e) {
    buf text = { 0 }, end = { 0 };
    int rc = make_reply(x, &text, said, e);
    bool open = text.n && text.p[text.n - 1] != '\n';
    if (text.n || !rc) buf_str(&end, x->edited && open ? "\n\n" : "\n");
    buf_free(&text);
    if (rc) {
        if (end.n) fwrite(end.p, 1, end.n, stdout); /* the error, which comes now, on a line of its own */
        fflush(stdout);
        buf_free(&end);
        return rc;
    }
    rc = say(&end, e);
    tell_end(x);
    print_statistics(x);
    if (atomic_load(&run_stop)) {
        if (x->edited) terminal_forget();
        else x->leave = true, x->status = 130;
        if (!*said && x->edited) fprintf(stderr, "stopped before the reply began; the message is taken back\n");
    }
    return rc;
}

static int take_message(talk *x, const buf *m, err *e) {
    bool said = false;
    x->attempt = 0;
    if (conversation_add(&x->c, "user", m->p, m->n, e)) return -1;
    int rc = reply(x, &said, e);
    if (!said) conversation_drop(&x->c); /* nothing was answered: as if it had not been said */
    if (rc && e->code == ERR_CONTEXT) {
        err full = { 0 };
        fail_code(&full, ERR_CONTEXT, "%s; /clear begins anew, --ctx sets the size", e->msg);
        *e = full;
    }
    return rc;
}

/* ---- commands ---- */

static int on_help(talk *x, const char *rest, err *e);

static int on_clear(talk *x, const char *rest, err *e) {
    (void)rest, (void)e;
    conversation_clear(&x->c); /* the session keeps what the next conversation begins with as well: the system prompt */
    fprintf(stderr, "a new conversation%s\n", x->c.n ? ", with the same system prompt" : "");
    return 0;
}

static int on_save(talk *x, const char *rest, err *e) {
    if (!*rest) return fail_code(e, ERR_INPUT, "/save FILE: the file's name is missing");
    if (conversation_save(&x->c, x->r.s, x->r.info, rest, e)) return -1;
    fprintf(stderr, "saved: %s, %d messages, %zu tokens\n", rest, x->c.n, x->c.now.tokens.n);
    return 0;
}

static int on_load(talk *x, const char *rest, err *e) {
    if (!*rest) return fail_code(e, ERR_INPUT, "/load FILE: the file's name is missing");
    if (conversation_load(&x->c, x->r.s, x->r.info, rest, e)) return -1;
    fprintf(stderr, "loaded: %s, %d messages, %zu tokens that need not be processed again\n", rest, x->c.n, x->c.now.tokens.n);
    return 0;
}

static int on_system(talk *x, const char *rest, err *e) {
    bool there = strcmp(conversation_role(&x->c, 0), "system") == 0, none = strcmp(rest, "\"\"") == 0;
    buf out = { 0 };
    if (*rest) {
        if (conversation_system(&x->c, rest, none ? 0 : strlen(rest), e)) return -1;
        if (x->c.n > 1) fprintf(stderr, "the conversation so far will be processed again with it\n");
        return 0;
    }
    if (there) buf_add(&out, x->c.m[0].text.p, x->c.m[0].text.n);
    else fprintf(stderr, "there is no system prompt; /system TEXT sets one\n");
    if (there) buf_byte(&out, '\n');
    return say(&out, e);
}

static int on_again(talk *x, const char *rest, err *e) {
    (void)rest;
    if (strcmp(conversation_role(&x->c, x->c.n - 1), "assistant")) return fail_code(e, ERR_INPUT, "there is no reply yet");
    bool said = false;
    message old = x->c.m[--x->c.n]; /* kept aside: a failure brings it back */
    x->attempt++;
    int rc = reply(x, &said, e);
    if (said) buf_free(&old.text);
    else x->c.m[x->c.n++] = old;
    return rc;
}

static int on_show(talk *x, const char *rest, err *e) {
    (void)rest;
    chat_prompt p = { 0 };
    if (conversation_render(&x->c, false, &p, e)) return -1;
    if (!p.text.n || p.text.p[p.text.n - 1] != '\n') buf_byte(&p.text, '\n');
    int rc = say(&p.text, e);
    chat_prompt_free(&p);
    return rc;
}

static int on_leave(talk *x, const char *rest, err *e) {
    (void)rest, (void)e;
    x->leave = true;
    return 0;
}

static const struct command {
    const char *name, *arg, *help; /* help NULL: another name of the one before */
    int (*run)(talk *x, const char *rest, err *e);
} commands[N_COMMANDS] = {
    { "/help", "", "this list", on_help },
    { "/?", "", NULL, on_help },
    { "/clear", "", "begin a new conversation; the system prompt stays", on_clear },
    { "/system", " [TEXT]", "show the system prompt, or set it; \"\" takes it away", on_system },
    { "/regenerate", "", "another reply to the last message; also /retry", on_again },
    { "/retry", "", NULL, on_again },
    { "/show", "", "the conversation as the model sees it", on_show },
    { "/save", " FILE", "keep the conversation and what was computed for it", on_save },
    { "/load", " FILE", "go on with a saved conversation", on_load },
    { "/exit", "", "leave; also /bye, /quit and Ctrl-D", on_leave },
    { "/bye", "", NULL, on_leave },
    { "/quit", "", NULL, on_leave },
};

static int on_help(talk *x, const char *rest, err *e) {
    (void)x, (void)rest, (void)e;
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].help)
            fprintf(stderr, "  %s%-*s %s\n", commands[i].name, 18 - (int)strlen(commands[i].name), commands[i].arg, commands[i].help);
    fprintf(stderr, "\nA message goes on after a backslash at the end of a line or after Alt-Enter, and from \"\"\" "
                    "to \"\"\". Ctrl-C stops a reply.\n"
                    "Keys are those of readline; the arrows go back to earlier messages.\n");
    return 0;
}

static int run_command(talk *x, const char *text, err *e) {
    size_t n = strcspn(text, " \t\n");
    const char *rest = text + n + strspn(text + n, " \t\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (strlen(commands[i].name) == n && memcmp(commands[i].name, text, n) == 0) return commands[i].run(x, rest, e);
    return fail_code(e, ERR_INPUT, "%.*s: no such command; /help lists them (a message that begins so: put a space before it)",
                     (int)min_int((int)n, 60), text);
}

/* ---- messages ---- */

/* From stdin, line by line. False: no more. */
static bool read_lines(talk *x, buf *m, bool *literal) {
    char *p = NULL;
    size_t cap = 0, at;
    ssize_t n;
    buf raw = { 0 };
    bool any = false;
    do {
        if (isatty(0)) fprintf(stderr, "%s", any ? MORE : PROMPT);
        if (any) message_go_on(&raw, &at);
        at = raw.n;
        if ((n = getline(&p, &cap, stdin)) < 0) break;
        any = true;
        while (n && (p[n - 1] == '\n' || p[n - 1] == '\r')) n--;
        buf_add(&raw, p, (size_t)n);
        at = raw.n;
    } while (message_open(raw.p, raw.n));
    free(p);
    message_text(raw.p ? raw.p : "", raw.n, m, literal);
    buf_free(&raw);
    if (atomic_load(&run_stop)) x->status = 130;
    return any && !atomic_load(&run_stop);
}

/* From the terminal, through the editor. False: the chat is left. */
static int edit_message(talk *x, buf *m, bool *literal, bool *more, err *e) {
    for (;;) {
        atomic_store(&run_stop, false); /* of the last reply; here Ctrl-C is a key */
        line_event event = terminal_edit(&x->l, PROMPT, MORE);
        bool empty = !x->l.text.n;
        *more = event != LINE_END;
        if (event == LINE_DONE) return x->ctrl_c = 0, line_take(&x->l, m, literal, e);
        if (event == LINE_END) return 0;
        line_clear(&x->l); /* Ctrl-C */
        x->ctrl_c = empty ? x->ctrl_c + 1 : 0;
        if (x->ctrl_c == 2) return *more = false, x->status = 130, 0;
        if (empty) fprintf(stderr, "Ctrl-D or /exit leaves (so does a second Ctrl-C)\n");
    }
}

static bool is_blank(const buf *m) {
    for (size_t i = 0; i < m->n; i++)
        if (!strchr(" \t\n", m->p[i]) || !m->p[i]) return false;
    return true;
}

/* One message or command. A mistake ends a chat that nobody can answer to, and is said in one that somebody types. */
static int turn(talk *x, err *e) {
    buf m = { 0 };
    bool literal = false, more = true;
    int rc = 0;
    if (x->edited) rc = edit_message(x, &m, &literal, &more, e);
    else more = read_lines(x, &m, &literal);
    if (m.failed && !rc) rc = fail_memory(e, m.cap, "a message");
    x->leave |= !more;
    if (!rc && more && !is_blank(&m)) rc = !literal && m.p[0] == '/' ? run_command(x, m.p, e) : take_message(x, &m, e);
    buf_free(&m);
    if (!rc || !x->edited) return rc;
    fprintf(stderr, "%s\n", e->msg);
    *e = (err){ 0 };
    return 0;
}

/* ---- the whole ---- */

static int open_template(talk *x, err *e) {
    const generation *r = &x->r;
    if (!r->tok) return fail(e, "%s has no tokenizer, and a chat needs one; convert again with a tokenizer", r->o->model);
    if (r->info->has_encoder) return fail(e, "%s has an encoder, which reads one text; a chat needs a decoder alone: use -p", r->info->name);
    return run_open_chat(r->o, r->tok, &x->shape, e);
}

static int begin_chat(talk *x, err *e) {
    const run_opts *o = x->r.o;
    if (open_template(x, e)) return -1;
    x->c.tok = x->r.tok;
    x->c.shape = x->shape;
    x->c.parse_special = o->parse_special;
    x->r.turn_end = conversation_turn_end(&x->c);
    x->r.taken = taken;
    x->r.taken_arg = x;
    if (o->system && conversation_system(&x->c, o->system, strlen(o->system), e)) return -1;
    for (int i = 0; i < N_COMMANDS; i++) x->words[i] = commands[i].name;
    x->l.words = x->words;
    x->l.n_words = N_COMMANDS;
    x->edited = terminal_open(&run_stop);
    if (x->edited)
        fprintf(stderr, "%s (%s, %s), context %d. /help lists the commands, Ctrl-D leaves.\n", x->r.info->name, x->r.info->family,
                x->r.info->type, x->r.info->ctx);
    return 0;
}

int run_talk(const run_opts *o, err *e) {
    talk x = { 0 };
    int rc = generation_open(&x.r, o, e);
    if (!rc) rc = begin_chat(&x, e);
    while (!rc && !x.leave) rc = turn(&x, e);
    terminal_close();
    line_free(&x.l);
    conversation_free(&x.c);
    chat_close(x.shape);
    generation_close(&x.r);
    return rc ? rc : x.status;
}
