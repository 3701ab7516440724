/* terminal: modes, size, signals and bytes of the terminal of a chat (terminal.h). It owns the terminal's settings from open to
 * close, through every way to leave. What keys mean is the line's business, where things stand the screen's. */
#define _GNU_SOURCE
#include "tools/run/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "tools/run/screen.h"

static struct { /* one of a kind, and signal handlers have no argument */
    volatile sig_atomic_t open;
    struct termios found, edit, wait;
    struct sigaction interrupt, end, hangup, resize; /* what was there before */
    atomic_bool *stop;
    int wake[2];                                     /* a byte for each change of size: a signal may reach any thread, a pipe the right one */
    screen screen;
    char input[4096];                                /* read, not yet given to an editor: at .. n */
    size_t at, n;
} t;

#define PASTE_ON "\x1b[?2004h"
#define PASTE_OFF "\x1b[?2004l"

/* ---- signals ---- */

static void put_back(void) { /* may run in a signal handler */
    if (!t.open) return;
    t.open = 0;
    if (write(1, PASTE_OFF, sizeof PASTE_OFF - 1) < 0) {} /* the terminal may have gone */
    tcsetattr(0, TCSADRAIN, &t.found);
}

static void on_interrupt(int number) {
    (void)number;
    if (!atomic_exchange(t.stop, true)) return;
    put_back();
    _exit(130);
}

static void on_end(int number) {
    put_back();
    signal(number, SIG_DFL);
    raise(number);
}

static void on_resize(int number) {
    (void)number;
    int saved = errno;
    if (write(t.wake[1], "", 1) < 0) {} /* full: one is waiting anyway */
    errno = saved;
}

static void set_signals(void) {
    sigaction(SIGINT, &(struct sigaction){ .sa_handler = on_interrupt }, &t.interrupt);
    sigaction(SIGTERM, &(struct sigaction){ .sa_handler = on_end }, &t.end);
    sigaction(SIGHUP, &(struct sigaction){ .sa_handler = on_end }, &t.hangup);
    sigaction(SIGWINCH, &(struct sigaction){ .sa_handler = on_resize, .sa_flags = SA_RESTART }, &t.resize);
}

/* ---- open and close ---- */

static void get_size(int *columns, int *rows) {
    struct winsize w;
    bool known = ioctl(1, TIOCGWINSZ, &w) == 0 && w.ws_col && w.ws_row;
    *columns = known ? w.ws_col : 80;
    *rows = known ? w.ws_row : 24;
}

static void set_mode(const struct termios *mode) {
    while (tcsetattr(0, TCSADRAIN, mode) && errno == EINTR) {}
}

bool terminal_open(atomic_bool *stop) {
    const char *kind = getenv("TERM");
    if (!isatty(0) || !isatty(1) || !kind || !*kind || strcmp(kind, "dumb") == 0 || tcgetattr(0, &t.found)) return false;
    if (pipe2(t.wake, O_NONBLOCK | O_CLOEXEC)) return false;
    t.stop = stop;
    t.wait = t.found; /* while a reply is written: Ctrl-C is a signal, everything else stays unread */
    t.wait.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    t.wait.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | ISTRIP | IXON);
    t.wait.c_cc[VMIN] = 1;
    t.wait.c_cc[VTIME] = 0;
    t.edit = t.wait;
    t.edit.c_lflag &= ~(tcflag_t)(ISIG | IEXTEN);
    t.open = 1;
    set_signals();
    set_mode(&t.wait);
    fputs(PASTE_ON, stdout);
    return true;
}

void terminal_close(void) {
    if (!t.open) return;
    fflush(stdout);
    put_back();
    sigaction(SIGINT, &t.interrupt, NULL);
    sigaction(SIGTERM, &t.end, NULL);
    sigaction(SIGHUP, &t.hangup, NULL);
    sigaction(SIGWINCH, &t.resize, NULL);
    close(t.wake[0]);
    close(t.wake[1]);
    screen_free(&t.screen);
    t.at = t.n = 0;
}

/* ---- editing ---- */

static void write_out(buf *out) {
    fwrite(out->p, 1, out->n, stdout);
    fflush(stdout);
    out->n = 0;
}

static void draw(const line *l, buf *out) {
    screen_draw(&t.screen, l, out);
    write_out(out);
}

/* Waits for keys, and draws anew when the size changes meanwhile. False: no more will come. */
static bool read_keys(const line *l, buf *out) {
    for (;;) {
        struct pollfd p[2] = { { .fd = 0, .events = POLLIN }, { .fd = t.wake[0], .events = POLLIN } };
        if (poll(p, 2, -1) < 0 && errno != EINTR) return false;
        if (p[1].revents & POLLIN) {
            char some[64];
            int columns, rows;
            while (read(t.wake[0], some, sizeof some) > 0) {}
            get_size(&columns, &rows);
            screen_resize(&t.screen, columns, rows);
            draw(l, out);
        } else if (p[0].revents) {
            ssize_t n = read(0, t.input, sizeof t.input);
            if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
            t.at = 0;
            t.n = n > 0 ? (size_t)n : 0;
            return n > 0;
        }
    }
}

static bool keys_wait(void) {
    return t.at < t.n || poll(&(struct pollfd){ .fd = 0, .events = POLLIN }, 1, 0) > 0;
}

static void suspend(void) {
    struct termios edit = t.edit;
    put_back();
    kill(0, SIGTSTP); /* here the shell takes over, until it says go on */
    t.open = 1;
    set_mode(&edit);
    fputs(PASTE_ON, stdout);
    get_size(&t.screen.columns, &t.screen.rows);
}

static line_event edit(line *l, buf *out) {
    draw(l, out);
    for (;;) {
        if (t.at == t.n && !read_keys(l, out)) return LINE_END;
        line_event e = line_byte(l, (uint8_t)t.input[t.at++]);
        if (e == LINE_DONE || e == LINE_CANCEL || e == LINE_END) return e;
        if (e == LINE_REDRAW) screen_clear(&t.screen, out);
        if (e == LINE_SUSPEND) {
            screen_leave(&t.screen, l, out);
            write_out(out);
            suspend();
        }
        if (e != LINE_MORE || !keys_wait()) draw(l, out); /* of keys that come together only the last is drawn */
    }
}

line_event terminal_edit(line *l, const char *prompt, const char *more) {
    buf out = { 0 };
    t.screen.prompt = prompt;
    t.screen.more = more;
    get_size(&t.screen.columns, &t.screen.rows);
    set_mode(&t.edit);
    line_event e = edit(l, &out);
    screen_leave(&t.screen, l, &out);
    write_out(&out);
    set_mode(&t.wait);
    buf_free(&out);
    return e;
}

void terminal_forget(void) {
    t.at = t.n = 0;
    if (t.open) tcflush(0, TCIFLUSH);
}
