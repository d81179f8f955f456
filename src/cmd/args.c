/*
 * Command-line flags.
 *
 * getopt_long would parse, but not explain: it prints its own messages, knows
 * nothing of types, and leaves --help to be written twice. Here one table a
 * command gives all three, so a flag cannot exist without help nor help without
 * a flag.
 *
 * A flag that wants a value takes the next argument whatever it looks like,
 * negative numbers too, with one exception: a text that begins with "--" is
 * refused, because it is nearly always a forgotten value. `--flag=--text` says
 * that it is meant.
 */
#include "cmd/args.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

enum { COLUMNS = 80, HELP_COLUMN = 26, NAME_MAX_LEN = 32 };

/* ---- nearest name ---- */

/* Edits (insert, delete, replace) that turn a into b; names are short, so one row on the stack is enough. */
static size_t edit_distance(const char *a, const char *b) {
    size_t row[NAME_MAX_LEN + 1];
    size_t nb = strlen(b);
    if (nb > NAME_MAX_LEN) return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = diagonal + (a[i] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

const char *pr__args_nearest(const char *text, const char *const *names, size_t n) {
    const char *best = NULL;
    size_t len = strlen(text), best_distance = len / 3 + 2; /* further away is another word */
    for (size_t i = 0; i < n; i++) {
        size_t distance = edit_distance(text, names[i]);
        if (len >= 3 && pr_str_starts(names[i], text)) distance = 1; /* a shortened name */
        if (distance < best_distance) {
            best_distance = distance;
            best = names[i];
        }
    }
    return best;
}

/* ---- values ---- */

static pr_status bad_value(const pr_flag *flag, const char *value, const char *wanted, pr_err *err) {
    return pr_fail(err, PR_ERR_ARG, "--%s: \"%.100s\" is not %s", flag->name, value, wanted);
}

static pr_status append_text(pr_flag_texts *texts, const char *value, pr_err *err) {
    const char **grown = pr_realloc_array(PR_TAG_MISC, texts->data, texts->n + 1, sizeof *grown);
    if (!grown) return pr_fail_nomem(err, "flags", (texts->n + 1) * sizeof *grown);
    texts->data = grown;
    texts->data[texts->n++] = value;
    return PR_OK;
}

static pr_status store(const pr_flag *flag, const char *value, pr_err *err) {
    double number;
    if (flag->given) *flag->given = true;
    switch (flag->kind) {
    case PR_FLAG_BOOL: *(bool *)flag->out = true; return PR_OK;
    case PR_FLAG_U32:
        if (!pr_parse_u32(value, flag->out)) return bad_value(flag, value, "a whole number", err);
        return PR_OK;
    case PR_FLAG_U64:
        if (!pr_parse_u64(value, flag->out)) return bad_value(flag, value, "a whole number", err);
        return PR_OK;
    case PR_FLAG_F32:
        if (!pr_parse_f64(value, &number) || !isfinite((float)number)) return bad_value(flag, value, "a number", err);
        *(float *)flag->out = (float)number;
        return PR_OK;
    case PR_FLAG_TEXT: *(const char **)flag->out = value; return PR_OK;
    case PR_FLAG_TEXTS: return append_text(flag->out, value, err);
    case PR_FLAG_CALL:
        if (flag->parse(flag->out, value, err) == PR_OK) return PR_OK;
        pr_err_context(err, "--%s", flag->name);
        return PR_ERR_ARG;
    }
    return PR_OK;
}

/* ---- finding ---- */

static const pr_flag *find_name(const pr_usage *usage, const char *name, size_t len) {
    for (size_t g = 0; g < usage->n_groups; g++) {
        for (size_t i = 0; i < usage->groups[g].n; i++) {
            const pr_flag *flag = &usage->groups[g].flags[i];
            if (strlen(flag->name) == len && !memcmp(flag->name, name, len)) return flag;
        }
    }
    return NULL;
}

static const pr_flag *find_letter(const pr_usage *usage, char letter) {
    for (size_t g = 0; g < usage->n_groups; g++) {
        for (size_t i = 0; i < usage->groups[g].n; i++) {
            if (usage->groups[g].flags[i].letter == letter) return &usage->groups[g].flags[i];
        }
    }
    return NULL;
}

static pr_status unknown_flag(const pr_usage *usage, const char *written, pr_err *err) {
    enum { NAMES = 64 };
    const char *names[NAMES];
    size_t n = 0;
    char name[NAME_MAX_LEN + 1];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(written + 2, "="), written + 2);
    for (size_t g = 0; g < usage->n_groups; g++) {
        for (size_t i = 0; i < usage->groups[g].n && n < NAMES; i++) names[n++] = usage->groups[g].flags[i].name;
    }
    const char *near = written[1] == '-' ? pr__args_nearest(name, names, n) : NULL;
    int shown = (int)strcspn(written, "=");
    if (near) return pr_fail(err, PR_ERR_ARG, "unknown flag %.*s (did you mean --%s?)", shown, written, near);
    return pr_fail(err, PR_ERR_ARG, "unknown flag %.*s; `precis %s --help` lists them", shown, written, usage->name);
}

/* One flag at argv[*at]; moves *at past its value. */
static pr_status take_flag(const pr_usage *usage, int argc, const char **argv, int *at, pr_err *err) {
    const char *written = argv[*at], *value = NULL;
    const pr_flag *flag;
    if (written[1] == '-') {
        size_t len = strcspn(written + 2, "=");
        flag = find_name(usage, written + 2, len);
        if (written[2 + len]) value = written + 2 + len + 1;
    } else {
        flag = find_letter(usage, written[1]);
        if (written[2]) value = written + 2;
    }
    if (!flag) return unknown_flag(usage, written, err);
    if (flag->kind == PR_FLAG_BOOL) {
        if (value) return pr_fail(err, PR_ERR_ARG, "--%s takes no value (\"%.100s\")", flag->name, value);
        return store(flag, NULL, err);
    }
    if (!value) {
        if (*at + 1 >= argc)
            return pr_fail(err, PR_ERR_ARG, "--%s needs a value: --%s %s", flag->name, flag->name, flag->value);
        value = argv[++*at];
        if (pr_str_starts(value, "--")) {
            return pr_fail(err, PR_ERR_ARG,
                           "--%s needs a value and \"%.100s\" follows; write --%s=%.100s if that is meant", flag->name,
                           value, flag->name, value);
        }
    }
    return store(flag, value, err);
}

pr_status pr__args_parse(const pr_usage *usage, int argc, const char **argv, pr_args *out, pr_err *err) {
    *out = (pr_args){.arg = argv};
    bool flags = true;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        if (!flags || a[0] != '-' || !a[1]) {
            argv[out->n++] = a;
        } else if (!strcmp(a, "--")) {
            flags = false;
        } else if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            out->help = true;
            return PR_OK;
        } else {
            pr_status status = take_flag(usage, argc, argv, &i, err);
            if (status != PR_OK) return status;
        }
    }
    if (out->n < usage->args_min) {
        return pr_fail(err, PR_ERR_ARG, "too few arguments: precis %s %s", usage->name, usage->synopsis);
    }
    if (out->n > usage->args_max) {
        return pr_fail(err, PR_ERR_ARG, "\"%.100s\" is one argument too many (put a text in quotes): precis %s %s",
                       out->arg[usage->args_max], usage->name, usage->synopsis);
    }
    return PR_OK;
}

/* ---- --help ---- */

static void print_wrapped(const char *word, int *column) {
    int len = (int)strlen(word);
    if (*column + 1 + len > COLUMNS) {
        printf("\n    %s", word);
        *column = 4 + len;
    } else {
        printf(" %s", word);
        *column += 1 + len;
    }
}

/* Items stay whole on a line: "--temp T (0.7)" is one word to the wrapping. */
static void help_paragraph(const pr_flag_group *group) {
    printf("%s:", group->title);
    int column = (int)strlen(group->title) + 1;
    for (size_t i = 0; i < group->n; i++) {
        const pr_flag *flag = &group->flags[i];
        char item[COLUMNS];
        char letter[] = {'-', flag->letter, ' ', '\0'};
        if (!flag->help) continue;
        snprintf(item, sizeof item, "%s--%s%s%s%s%s%s%s", flag->letter ? letter : "", flag->name,
                 flag->value ? " " : "", flag->value ? flag->value : "", flag->help[0] ? " (" : "", flag->help,
                 flag->help[0] ? ")" : "", i + 1 < group->n ? "," : "");
        print_wrapped(item, &column);
    }
    printf("\n");
}

static void help_lines(const pr_flag_group *group) {
    if (group->title) printf("%s:\n", group->title);
    for (size_t i = 0; i < group->n; i++) {
        const pr_flag *flag = &group->flags[i];
        char name[COLUMNS];
        char letter[] = {'-', flag->letter, ',', ' ', '\0'};
        if (!flag->help) continue;
        int len = snprintf(name, sizeof name, "%s--%s%s%s", flag->letter ? letter : "", flag->name,
                           flag->value ? " " : "", flag->value ? flag->value : "");
        printf("  %-*s%s%s\n", HELP_COLUMN - 2, name, len >= HELP_COLUMN - 2 ? " " : "", flag->help);
    }
}

void pr__args_help(const pr_usage *usage) {
    printf("usage: precis %s%s%s\n%s\n", usage->name, usage->synopsis[0] ? " " : "", usage->synopsis, usage->about);
    for (size_t g = 0; g < usage->n_groups; g++) {
        if (usage->groups[g].paragraph) help_paragraph(&usage->groups[g]);
        else help_lines(&usage->groups[g]);
    }
}
