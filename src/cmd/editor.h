/*
 * Reading lines from a person: editing, and a history that outlives the program.
 */
#ifndef PRECIS_CMD_EDITOR_H
#define PRECIS_CMD_EDITOR_H

#include "base/status.h"

typedef struct pr_editor pr_editor;

typedef enum pr_line {
    PR_LINE_TEXT,
    PR_LINE_INTERRUPT, /* Ctrl-C: what was typed is dropped */
    PR_LINE_END        /* Ctrl-D on an empty line, or the terminal is gone */
} pr_line;

/* On standard input and output. The history file is $XDG_STATE_HOME/precis/history; without it, or when it cannot be
 * written, the history lives as long as the program. prompt is borrowed. */
pr_status pr__editor_open(const char *prompt, pr_editor **out, pr_err *err);
void pr__editor_close(pr_editor *editor);

/* One line without its end, valid until the next call; *had_text tells, of an interrupted one, whether anything was
 * typed. */
pr_line pr__editor_read(pr_editor *editor, const char **line, bool *had_text);

#endif
