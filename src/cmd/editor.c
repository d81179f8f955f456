/*
 * Line editing, by libedit.
 *
 * libedit's own interface is used and not its imitation of readline: the
 * imitation keeps everything in globals and re-raises signals from inside a
 * read, while the native one lets us supply the function that reads a
 * character. That function is all that Ctrl-C needs: the signal's handler only
 * sets a flag, the blocked read returns, and the reader says "interrupted" to a
 * library that is in a known state.
 *
 * Characters are decoded from UTF-8 here, so typing does not depend on the
 * locale; a byte that is no UTF-8 is dropped.
 */
#include "cmd/editor.h"

#include <errno.h>
#include <histedit.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "cmd/models.h"
#include "cmd/term.h"

enum { HISTORY_LINES = 1000 };

struct pr_editor {
    EditLine *edit;
    History *history;
    char *history_path; /* NULL: not kept */
    const char *prompt;
    pr_str line;
};

static char *on_prompt(EditLine *edit) {
    pr_editor *e = NULL;
    el_get(edit, EL_CLIENTDATA, (void **)&e);
    return (char *)(uintptr_t)e->prompt; /* libedit does not write to it */
}

/* One byte from the terminal: 1, 0 at the end, -1 after Ctrl-C. */
static int read_byte(char *byte) {
    for (;;) {
        if (*pr__interrupt()) {
            errno = EINTR;
            return -1;
        }
        ssize_t n = read(STDIN_FILENO, byte, 1);
        if (n == 1) return 1;
        if (n == 0 || errno != EINTR) return 0;
    }
}

static int on_char(EditLine *edit, wchar_t *out) {
    char bytes[4];
    size_t have = 0, want = 1;
    int32_t cp = -1;
    (void)edit;
    while (cp < 0) {
        int rc = read_byte(&bytes[have]);
        if (rc != 1) return rc;
        if (have == 0) want = pr_utf8_len((unsigned char)bytes[0]);
        if (++have < want) continue;
        pr_utf8_decode(bytes, have, &cp);
        have = 0;
    }
    *out = (wchar_t)cp;
    return 1;
}

static void open_history(pr_editor *e) {
    HistEvent event;
    history(e->history, &event, H_SETSIZE, HISTORY_LINES);
    history(e->history, &event, H_SETUNIQUE, 1);
    el_set(e->edit, EL_HIST, history, e->history);
    char *folder = pr__path_xdg("XDG_STATE_HOME", ".local/state", "precis");
    if (folder && pr_path_mkdirs(folder, NULL) == PR_OK) e->history_path = pr__path_join(folder, "history");
    pr_free(folder);
    if (e->history_path) history(e->history, &event, H_LOAD, e->history_path);
}

pr_status pr__editor_open(const char *prompt, pr_editor **out, pr_err *err) {
    pr_editor *e = pr_calloc(PR_TAG_MISC, 1, sizeof *e);
    *out = NULL;
    if (!e) return pr_fail_nomem(err, "line editing", sizeof *e);
    e->prompt = prompt;
    e->edit = el_init("precis", stdin, stdout, stderr);
    e->history = history_init();
    if (!e->edit || !e->history) {
        pr__editor_close(e);
        return pr_fail(err, PR_ERR_IO, "line editing does not work on this terminal");
    }
    el_set(e->edit, EL_CLIENTDATA, e);
    el_set(e->edit, EL_PROMPT, on_prompt);
    el_set(e->edit, EL_EDITOR, "emacs");
    el_set(e->edit, EL_GETCFN, on_char);
    el_set(e->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    open_history(e);
    el_source(e->edit, NULL); /* ~/.editrc has the last word */
    *out = e;
    return PR_OK;
}

void pr__editor_close(pr_editor *e) {
    if (!e) return;
    if (e->edit) el_end(e->edit);
    if (e->history) history_end(e->history);
    pr_free(e->history_path);
    pr_str_free(&e->line);
    pr_free(e);
}

pr_line pr__editor_read(pr_editor *e, const char **line, bool *had_text) {
    HistEvent event;
    int n = 0;
    fflush(stdout);
    el_resize(e->edit);
    el_set(e->edit, EL_PREP_TERM, 1); /* before the prompt shows: what is typed at it must not meet a cooked terminal */
    const char *text = el_gets(e->edit, &n);
    *had_text = false;
    if (!text || n <= 0) {
        if (!*pr__interrupt()) return PR_LINE_END;
        const LineInfo *typed = el_line(e->edit);
        *had_text = typed && typed->lastchar > typed->buffer;
        el_reset(e->edit);
        return PR_LINE_INTERRUPT;
    }
    size_t len = (size_t)n;
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r')) len--;
    pr_str_clear(&e->line);
    pr_str_append(&e->line, text, len);
    if (!pr_str_ok(&e->line)) return PR_LINE_END;
    if (len > 0) {
        history(e->history, &event, H_ENTER, e->line.data);
        if (e->history_path) history(e->history, &event, H_SAVE, e->history_path);
    }
    *line = e->line.data;
    return PR_LINE_TEXT;
}
