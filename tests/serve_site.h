/* serve_site: ./serve with the demo model as a child of a test: started, asked, ended. */
#ifndef QUERN_TEST_SERVE_SITE_H
#define QUERN_TEST_SERVE_SITE_H

#include <signal.h>
#include <sys/wait.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include "runtime/files.h"
#include "tests/models.h"
#include "tests/http_client.h"

static struct { pid_t pid; int port; char log[300]; const char *model; } site;

static inline void site_log(buf *out) {
    err e = { 0 };
    buf_free(out);
    if (read_file(site.log, 0, out, &e) || !out->n) buf_byte(out, 0);
}

/* Its exit status; 1000 + the signal that ended it. */
static inline int site_end(int sig) {
    int status = 0;
    if (!site.pid) return 0;
    if (sig) kill(site.pid, sig);
    waitpid(site.pid, &status, 0);
    site.pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline void site_start(const char *more) {
    static int count;
    site_end(SIGKILL); /* of a test that failed */
    char command[2000], *line = NULL;
    buf text = { 0 };
    snprintf(site.log, sizeof site.log, "%s/site-%d.log", work_dir, count++);
    snprintf(command, sizeof command, "exec '%s/serve' '%s' --port 0 %s 2>'%s' >/dev/null", bin_dir(), site.model, more, site.log);
    site.pid = fork();
    if (site.pid == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is ended leaves no server */
#endif
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 1200 && !line; i++) {
        usleep(50000);
        site_log(&text);
        line = strstr(text.p, "listening on http://127.0.0.1:");
    }
    if (!line) fail_msg("the server did not start: %s", text.p);
    site.port = atoi(line + strlen("listening on http://127.0.0.1:"));
    buf_free(&text);
}

static inline http_answer site_post(const char *path, const char *body, int status) {
    http_answer a;
    if (http_ask(site.port, "POST", path, body, &a)) fail_msg("no reply to %s", path);
    if (a.status != status) fail_msg("%s: expected %d, found %d: %s", path, status, a.status, a.body.p);
    return a;
}

static inline long site_metric(const char *name) {
    http_answer a;
    if (http_ask(site.port, "GET", "/metrics", "", &a)) fail_msg("no metrics");
    char line[128];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(a.body.p, line);
    long v = at ? atol(at + strlen(line)) : -1;
    http_answer_free(&a);
    return v;
}

static inline void site_wait_metric(const char *name, long v) {
    double until = now_seconds() + 60;
    while (site_metric(name) != v)
        if (now_seconds() > until) fail_msg("%s is %ld, expected %ld", name, site_metric(name), v);
        else usleep(10000);
}

/* Before and after a group of tests: a working folder, and the demo model in q8 to be served; set-ups add to it. */
static inline void site_open(void) {
    make_work_dir();
    static char path[800];
    snprintf(path, sizeof path, "%s", converted("weights/pip-stories", "q8"));
    site.model = path;
}

static inline int site_close(void **state) {
    (void)state;
    site_end(SIGKILL);
    remove_work_dir();
    return 0;
}

#endif
