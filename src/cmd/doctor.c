/*
 * precis doctor: what this machine offers, and what stands in the way.
 *
 * Every line is a fact with a verdict: good, worth knowing, or broken; the last two say what to do. Only broken things make
 * the command fail. Nothing is changed, nothing is loaded.
 */
#include "cmd/doctor.h"

#include <string.h>

#include "base/os.h"
#include "cmd/commands.h"
#include "cmd/term.h"
#include "cmd/text.h"

static const char *verdict_name(pr_verdict v) {
    switch (v) {
    case PR_GOOD: return "good";
    case PR_NOTE: return "note";
    case PR_BAD: return "bad";
    }
    return "";
}

/* Where facts begin; what is longer than what stands before it has a line of its own. */
enum { FACT_COLUMN = 14 };

static const char *verdict_mark(pr_verdict v) {
    bool utf8 = pr__term_utf8();
    switch (v) {
    case PR_GOOD: return utf8 ? "✓" : "+";
    case PR_NOTE: return "!";
    case PR_BAD: return utf8 ? "✗" : "x";
    }
    return "";
}

void pr__doctor_tell(pr_doctor *d, pr_verdict verdict, const char *what, const char *remedy, const char *fmt, ...) {
    pr_str text = {0};
    va_list args;
    va_start(args, fmt);
    pr_str_vprintf(&text, fmt, args);
    va_end(args);
    const char *told = pr_str_ok(&text) && text.data ? text.data : "out of memory";
    d->n_bad += verdict == PR_BAD;
    d->n_noted += verdict == PR_NOTE;
    if (!d->json) {
        char name[400];
        bool fits = pr__text_columns(pr_text_safe(name, sizeof name, what)) + 2 < FACT_COLUMN;
        pr_str_printf(&d->out, "%s ", verdict_mark(verdict));
        pr__text_pad(&d->out, name, fits ? FACT_COLUMN - 2 : 0);
        if (!fits) pr_str_printf(&d->out, "\n%*s", FACT_COLUMN, "");
        pr_str_line(&d->out, "%s", told);
        if (remedy) pr_str_line(&d->out, "%*sto do: %s", FACT_COLUMN, "", remedy);
    } else {
        pr__json_key(&d->out, what);
        pr__json_open(&d->out);
        pr__json_text(&d->out, "verdict", verdict_name(verdict));
        pr__json_text(&d->out, "text", told);
        if (remedy) pr__json_text(&d->out, "remedy", remedy);
        pr__json_close(&d->out);
    }
    pr_str_free(&text);
}

int pr__cmd_doctor(int argc, const char **argv) {
    pr_doctor d = {0};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"config", 0, PR_FLAG_TEXT, "FILE", "its settings (or /etc/precis/precis.conf, if there)", &d.config, NULL,
         NULL},
        {"quick", 0, PR_FLAG_BOOL, NULL, "start nothing: neither pip nor a measurement of memory", &d.quick, NULL,
         NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &d.json, NULL, NULL},
        {"root", 0, PR_FLAG_TEXT, "FOLDER", "look for /proc, /sys and /etc below it: for tests", &d.root, NULL, NULL},
    };
    const pr_flag_group group = {NULL, flags, sizeof flags / sizeof *flags, false};
    const pr_usage usage = {
        "doctor",
        "",
        "What this machine offers, and what stands in the way of a model or a server:\n"
        "each with a verdict, and what to do. Takes about a second. The exit code is 1\n"
        "when something is broken.\n",
        &group,
        1,
        0,
        0,
    };
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    if (d.root) pr__os_root(d.root);
    if (d.json) pr__json_open(&d.out);
    pr__doctor_machine(&d);
    pr__doctor_setup(&d);
    pr__doctor_models(&d);
    if (d.json) {
        pr__json_close(&d.out);
        pr_str_puts(&d.out, "\n");
    } else if (d.n_bad || d.n_noted) {
        pr_str_printf(&d.out, "\n%d broken, %d worth knowing\n", d.n_bad, d.n_noted);
    }
    int n_bad = d.n_bad;
    code = pr__cmd_print(&d.out);
    return code == PR_EXIT_OK && n_bad ? PR_EXIT_FAIL : code;
}
