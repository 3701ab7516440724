/* template_time: strftime_now, in the C locale and without a time zone (Python's datetime.now() knows none). It reads no
 * environment when the caller says what time it is. */
#define _GNU_SOURCE
#include "tokenizer/template_parts.h"

static const char *const days[] = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" };
static const char *const months[] = { "January", "February", "March", "April", "May", "June", "July", "August", "September",
                                      "October", "November", "December" };

/* Formats that stand for others. */
static const char *composite(char c) {
    switch (c) {
    case 'c': return "%a %b %e %H:%M:%S %Y";
    case 'D':
    case 'x': return "%m/%d/%y";
    case 'F': return "%Y-%m-%d";
    case 'R': return "%H:%M";
    case 'r': return "%I:%M:%S %p";
    case 'T':
    case 'X': return "%H:%M:%S";
    default: return NULL;
    }
}

/* Days since the week's first day: 0 to 6. */
static int weekday(const struct tm *t, int first) { return (t->tm_wday + 7 - first) % 7; }

static bool leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

/* ISO 8601's week and its year. */
static int iso_week(const struct tm *t, int *year) {
    int monday = t->tm_yday - weekday(t, 1);
    *year = t->tm_year + 1900;
    int week = (monday + 10) / 7;
    if (week == 0) {
        --*year;
        int days_before = leap(*year) ? 366 : 365;
        return (t->tm_yday + days_before - weekday(t, 1) + 10) / 7;
    }
    int length = leap(*year) ? 366 : 365;
    if (week == 53 && monday + 3 >= length) return ++*year, 1;
    return week;
}

/* A number, how many digits, and with what it is filled; false: none of these. */
static bool number_of(const struct tm *t, char c, int *n, int *width, char *fill) {
    int iso_year, week = iso_week(t, &iso_year);
    *width = 2;
    *fill = '0';
    switch (c) {
    case 'd': *n = t->tm_mday; return true;
    case 'e': *n = t->tm_mday, *fill = ' '; return true;
    case 'H': *n = t->tm_hour; return true;
    case 'I': *n = (t->tm_hour + 11) % 12 + 1; return true;
    case 'k': *n = t->tm_hour, *fill = ' '; return true;
    case 'l': *n = (t->tm_hour + 11) % 12 + 1, *fill = ' '; return true;
    case 'j': *n = t->tm_yday + 1, *width = 3; return true;
    case 'm': *n = t->tm_mon + 1; return true;
    case 'M': *n = t->tm_min; return true;
    case 'S': *n = t->tm_sec; return true;
    case 'f': *n = 0, *width = 6; return true;
    case 'u': *n = weekday(t, 1) + 1, *width = 1; return true;
    case 'w': *n = t->tm_wday, *width = 1; return true;
    case 'U': *n = (t->tm_yday + 7 - weekday(t, 0)) / 7; return true;
    case 'W': *n = (t->tm_yday + 7 - weekday(t, 1)) / 7; return true;
    case 'V': *n = week; return true;
    case 'G': *n = iso_year, *width = 1; return true;
    case 'g': *n = iso_year % 100; return true;
    case 'y': *n = t->tm_year % 100; return true;
    case 'Y': *n = t->tm_year + 1900, *width = 1; return true;
    case 'C': *n = (t->tm_year + 1900) / 100; return true;
    default: return false;
    }
}

static void put_time(struct run *r, struct sink *k, const char *format, size_t n, const struct tm *t) {
    for (size_t i = 0; i < n; i++) {
        if (format[i] != '%' || i + 1 == n) {
            sink_add(r, k, format + i, 1, false);
            continue;
        }
        size_t from = i++;
        char flag = i + 1 < n && format[i] && strchr("-_0^", format[i]) ? format[i++] : 0, c = format[i], fill, digits[24];
        int number, width;
        const char *more = composite(c),
                   *name = c == 'A' || c == 'a' ? days[t->tm_wday % 7] : c == 'B' || c == 'b' || c == 'h' ? months[t->tm_mon % 12] : NULL;
        tick(r, 4);
        if (more) put_time(r, k, more, strlen(more), t);
        else if (name) sink_add(r, k, name, c == 'A' || c == 'B' ? strlen(name) : 3, false);
        else if (number_of(t, c, &number, &width, &fill)) {
            fill = flag == '-' ? 0 : flag == '_' ? ' ' : flag == '0' ? '0' : fill;
            snprintf(digits, sizeof digits, "%d", number);
            for (size_t w = strlen(digits); fill && w < (size_t)width; w++) sink_add(r, k, &fill, 1, false);
            sink_str(r, k, digits);
        } else if (c == 'p' || c == 'P') sink_str(r, k, c == 'p' ? (t->tm_hour < 12 ? "AM" : "PM") : t->tm_hour < 12 ? "am" : "pm");
        else if (c == 'n' || c == 't' || c == '%') sink_str(r, k, c == 'n' ? "\n" : c == 't' ? "\t" : "%");
        else if (c != 'z' && c != 'Z') sink_add(r, k, format + from, i + 1 - from, false); /* unknown: as it stands */
    }
}

value function_strftime(struct run *r, const struct call *c) {
    value arg[1];
    time_t seconds = time(NULL);
    struct tm now;
    struct sink k = { 0 };
    bind_args(r, "strftime_now", "format", 1, c, arg);
    struct text *s = want_text(r, arg[0], "strftime_now");
    if (r->o.now) now = *r->o.now;
    else if (!localtime_r(&seconds, &now)) run_fail(r, "strftime_now: this machine does not know the time");
    put_time(r, &k, s->p, s->n, &now);
    value v = sink_value(r, &k);
    if (!s->n_user || !v.s->n) return v;
    mark(r, &k.user, 0, k.n);
    return sink_value(r, &k);
}
