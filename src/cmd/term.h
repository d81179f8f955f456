/*
 * The terminal, signals, and how a command ends.
 */
#ifndef PRECIS_CMD_TERM_H
#define PRECIS_CMD_TERM_H

#include <stdio.h>

#include "base/status.h"
#include "base/str.h"

/* Exit codes of the program. */
enum {
    PR_EXIT_OK = 0,
    PR_EXIT_FAIL = 1, /* something went wrong while running */
    PR_EXIT_USAGE = 2 /* the command line is at fault */
};

bool pr__term_is(int fd);
/* Columns of the terminal behind fd; 80 when it does not say. */
int pr__term_columns(int fd);
/* True when the locale's text is UTF-8: ticks and block characters may be shown. */
bool pr__term_utf8(void);

/* Ctrl-C (and SIGTERM, SIGHUP) sets a flag that long work looks at; a second one while it is still set ends the program
 * at once, unless kept. SIGPIPE is ignored: a closed pipe is a failed write. */
void pr__signals_install(void);
const volatile int *pr__interrupt(void); /* the signal, after one */
void pr__interrupt_clear(void);
/* From now on SIGHUP is not an end but a request, as for any daemon: unless standard input is a terminal, which it means
 * to have lost then. */
void pr__hangup_asks(void);
bool pr__hangup_take(void);         /* one came since the last call */
void pr__interrupt_keep(bool keep); /* interactive: no number of Ctrl-C ends the program */

/* Print "precis: text" on stderr, once, and give the exit code: 2 for PR_ERR_ARG, else 1. */
int pr__cmd_fail(const pr_err *err);
/* Print a line that may hold text from outside, as pr_str_line() writes it. */
void pr__cmd_line(FILE *to, const char *fmt, ...) PR_PRINTF(2, 3);
/* Write s to stdout and free it; PR_EXIT_FAIL, with the message, when s has failed. */
int pr__cmd_print(pr_str *s);
/* Last thing of main: flush stdout and say what became of it. Ends by SIGINT or SIGPIPE where that is why we stop. */
int pr__cmd_end(int code);

#endif
