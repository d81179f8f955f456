/*
 * Progress bar.
 *
 * On a terminal it appears only after 0.3 s, so quick work leaves no flicker,
 * and it is erased when the work is over, so what remains on the screen is the
 * result. Lines elsewhere begin after a minute: quick work leaves none.
 * The time left comes from the average rate since the beginning: a download's
 * momentary rate jumps about, and a number that jumps is not read.
 */
#include "cmd/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "base/str.h"
#include "cmd/term.h"

static const double FIRST_SECONDS = 0.3, EVERY_SECONDS = 0.1, LINE_SECONDS = 60;

enum { BAR_CELLS = 24, LINE_BYTES = 512 };

void pr__progress_begin(pr_progress *p, const char *label, bool bytes, uint64_t from) {
    double now = pr_now();
    *p = (pr_progress){
        .label = label, .on = true, .terminal = pr__term_is(STDERR_FILENO), .bytes = bytes, .from = from};
    p->started = now;
    p->shown = p->terminal ? now + FIRST_SECONDS - EVERY_SECONDS : now;
}

/* "1:05", "2:03:10" */
static void format_seconds(char *buf, size_t len, double seconds) {
    unsigned s = seconds > 359999 ? 359999u : (unsigned)(seconds + 0.5);
    if (s < 3600) snprintf(buf, len, "%u:%02u", s / 60, s % 60);
    else snprintf(buf, len, "%u:%02u:%02u", s / 3600, s / 60 % 60, s % 60);
}

static void format_bar(char *buf, size_t len, double fraction) {
    int full = (int)(fraction * BAR_CELLS + 0.5);
    bool blocks = pr__term_utf8();
    size_t at = 0;
    for (int i = 0; i < BAR_CELLS; i++) {
        const char *cell = i < full ? (blocks ? "█" : "#") : (blocks ? "░" : ".");
        at += (size_t)snprintf(buf + at, len - at, "%s", cell);
    }
}

static void draw(const pr_progress *p, uint64_t done, uint64_t total, double elapsed) {
    char line[LINE_BYTES] = "", bar[BAR_CELLS * 3 + 1], label[256], a[32], b[32], left[24];
    double moved = done > p->from ? (double)(done - p->from) : 0, rate = elapsed > 0 ? moved / elapsed : 0;
    size_t at = 0;
    if (total) {
        double fraction = done < total ? (double)done / (double)total : 1;
        format_bar(bar, sizeof bar, fraction);
        if (p->terminal) at += (size_t)snprintf(line + at, sizeof line - at, " %s", bar);
        at += (size_t)snprintf(line + at, sizeof line - at, " %3d%%", (int)(fraction * 100));
    }
    if (p->bytes) {
        at += (size_t)snprintf(line + at, sizeof line - at, "  %s", pr_format_bytes(a, sizeof a, done));
        if (total) at += (size_t)snprintf(line + at, sizeof line - at, " of %s", pr_format_bytes(b, sizeof b, total));
        at += (size_t)snprintf(line + at, sizeof line - at, ", %s/s", pr_format_bytes(a, sizeof a, (uint64_t)rate));
    }
    if (total > done && rate > 0) {
        format_seconds(left, sizeof left, (double)(total - done) / rate);
        snprintf(line + at, sizeof line - at, ", %s left", left);
    }
    pr_text_safe(label, sizeof label, p->label);
    if (!p->terminal) {
        fprintf(stderr, "%s%s\n", label, line);
        return;
    }
    bool fits = strlen(label) + 2 + BAR_CELLS + 50 <= (size_t)pr__term_columns(STDERR_FILENO);
    if (!fits && total) snprintf(line, sizeof line, " %3d%%", (int)((double)done * 100 / (double)total));
    fprintf(stderr, "\r%s%s\033[K", label, line);
    fflush(stderr);
}

void pr__progress_update(pr_progress *p, uint64_t done, uint64_t total) {
    if (!p->on) return;
    double now = pr_now();
    if (now - p->shown < (p->terminal ? EVERY_SECONDS : LINE_SECONDS)) return;
    p->shown = now;
    p->drawn = p->terminal;
    draw(p, done, total, now - p->started);
}

void pr__progress_end(pr_progress *p) {
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
    p->on = false;
}

void pr__progress_fraction(void *arg, double fraction) {
    const uint64_t whole = 1000000;
    pr__progress_update(arg, (uint64_t)(fraction * (double)whole), whole);
}
