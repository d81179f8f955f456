/*
 * The terminal, signals, and how a command ends.
 *
 * Ctrl-C is a flag and not a death, so that a download keeps its part file, a
 * temporary model is deleted and an answer stops while the chat goes on. When
 * the work is over the program still dies *of* SIGINT: a shell loop around it
 * stops only if it sees that. SIGTERM and SIGHUP are treated alike, but they end
 * a chat. The same holds for SIGPIPE: ignored while working (libcurl and child
 * processes may raise it at any time), but `precis list | head -1` ends as
 * every other program does, quietly.
 *
 * The flags are the one piece of global state in cmd/: a signal handler has no
 * other place to write to.
 */
#include "cmd/term.h"

#include <errno.h>
#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static volatile int interrupted;
static volatile int keep_running;
static volatile sig_atomic_t hung_up;

bool pr__term_is(int fd) { return isatty(fd) == 1; }

int pr__term_columns(int fd) {
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

bool pr__term_utf8(void) { return strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }

static void die_of(int signal_number) {
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void on_interrupt(int signal_number) {
    bool stop_work = signal_number == SIGINT && keep_running;
    if (!stop_work && (interrupted || keep_running)) die_of(signal_number);
    interrupted = signal_number;
}

void pr__signals_install(void) {
    struct sigaction interrupt = {.sa_handler = on_interrupt}; /* no SA_RESTART: a blocked read must return */
    sigemptyset(&interrupt.sa_mask);
    sigaction(SIGINT, &interrupt, NULL);
    sigaction(SIGTERM, &interrupt, NULL);
    struct sigaction hangup;
    bool ignored = sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler == SIG_IGN; /* nohup */
    if (!ignored) sigaction(SIGHUP, &interrupt, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file over the size limit is a failed write too */
}

static void on_hangup(int signal_number) {
    (void)signal_number;
    hung_up = 1;
}

void pr__hangup_asks(void) {
    struct sigaction hangup = {.sa_handler = on_hangup};
    sigemptyset(&hangup.sa_mask);
    if (!pr__term_is(STDIN_FILENO)) sigaction(SIGHUP, &hangup, NULL);
}

bool pr__hangup_take(void) {
    bool came = hung_up;
    if (came) hung_up = 0;
    return came;
}

const volatile int *pr__interrupt(void) { return &interrupted; }

void pr__interrupt_clear(void) { interrupted = 0; }

void pr__interrupt_keep(bool keep) { keep_running = keep; }

int pr__cmd_fail(const pr_err *err) {
    fflush(stdout); /* what was said before the failure stands before it */
    fprintf(stderr, "precis: %s\n", err->text[0] ? err->text : pr_status_name(err->status));
    return err->status == PR_ERR_ARG ? PR_EXIT_USAGE : PR_EXIT_FAIL;
}

void pr__cmd_line(FILE *to, const char *fmt, ...) {
    pr_str text = {0}, line = {0};
    va_list args;
    va_start(args, fmt);
    pr_str_vprintf(&text, fmt, args);
    va_end(args);
    pr_str_line(&line, "%s", text.data ? text.data : "");
    fputs(pr_str_ok(&text) && pr_str_ok(&line) ? line.data : "out of memory\n", to);
    pr_str_free(&text);
    pr_str_free(&line);
}

int pr__cmd_print(pr_str *s) {
    pr_err err = {0};
    bool ok = pr_str_ok(s);
    if (ok && s->len) fwrite(s->data, 1, s->len, stdout);
    pr_str_free(s);
    if (ok) return PR_EXIT_OK;
    pr_fail(&err, PR_ERR_NOMEM, "out of memory for the output");
    return pr__cmd_fail(&err);
}

/* The write that failed may be long ago, and its errno lost. */
static bool pipe_is_broken(void) {
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&out, 1, 0) > 0 && (out.revents & POLLERR);
}

int pr__cmd_end(int code) {
    errno = 0;
    bool written = fflush(stdout) == 0 && !ferror(stdout);
    int why = errno;
    if (interrupted) die_of(interrupted);
    if (written) return code;
    if (why == EPIPE || pipe_is_broken()) die_of(SIGPIPE);
    fprintf(stderr, "precis: cannot write the output: %s\n", why ? strerror(why) : "an earlier write failed");
    return PR_EXIT_FAIL;
}
