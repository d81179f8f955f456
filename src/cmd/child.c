/*
 * Child processes.
 *
 * The program is started by posix_spawn, in a process group of its own: Ctrl-C
 * at the terminal reaches us alone, and we decide to end it. SIGPIPE and SIGINT,
 * which this program ignores or catches, are set back for it. Its output is one
 * pipe read to the end; only the tail is kept, where programs say what went
 * wrong. A detached one gets a session of its own instead, so that closing the
 * terminal does not end it, and a file for its output.
 */
#include "cmd/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/term.h"

enum { SAID_BYTES_MAX = 64 * 1024, TICK_MS = 200, NICE_MAX = 19 };

/* environ with env in front, where it wins; NULL when out of memory. */
static char **make_environment(const char *env) {
    size_t n = 0, at = 0;
    while (environ[n]) n++;
    char **list = pr_calloc(PR_TAG_MISC, n + 2, sizeof *list);
    if (!list) return NULL;
    size_t name = env ? strcspn(env, "=") + 1 : 0;
    if (env) list[at++] = (char *)(uintptr_t)env; /* posix_spawn takes char *const[] and does not write */
    for (size_t i = 0; i < n; i++) {
        if (!env || strncmp(environ[i], env, name) != 0) list[at++] = environ[i];
    }
    return list;
}

/* flags: POSIX_SPAWN_SETPGROUP, or POSIX_SPAWN_SETSID to leave the terminal as well. */
static int spawn(const char *path, const char *const *argv, char **environment, int out_fd, short flags, pid_t *pid) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGTERM);
    sigaddset(&defaults, SIGHUP);
    sigaddset(&defaults, SIGXFSZ);
    if (posix_spawn_file_actions_init(&files) != 0) return ENOMEM;
    if (posix_spawnattr_init(&attr) != 0) {
        posix_spawn_file_actions_destroy(&files);
        return ENOMEM;
    }
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, out_fd, STDERR_FILENO);
    posix_spawnattr_setflags(&attr, (short)(flags | POSIX_SPAWN_SETSIGDEF));
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    int rc = posix_spawnp(pid, path, &files, &attr, (char *const *)(uintptr_t)argv, environment);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return rc;
}

static void keep_tail(pr_str *s) {
    if (s->len <= SAID_BYTES_MAX) return;
    size_t drop = s->len - SAID_BYTES_MAX;
    memmove(s->data, s->data + drop, SAID_BYTES_MAX + 1);
    s->len = SAID_BYTES_MAX;
}

/* Read fd to its end; false after Ctrl-C. */
static bool listen_to(int fd, void (*tick)(void *arg), void *arg, pr_str *said) {
    char buf[4096];
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = poll(&p, 1, TICK_MS);
        if (*pr__interrupt()) return false;
        if (tick) tick(arg);
        if (ready <= 0) continue;
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return true;
        pr_str_append(said, buf, (size_t)n);
        keep_tail(said);
    }
}

pr_status pr__child_run(const char *const *argv, const char *env, void (*tick)(void *arg), void *arg,
                        pr_child_result *out, pr_err *err) {
    int ends[2], state = 0;
    pid_t pid = 0;
    *out = (pr_child_result){0};
    if (pipe2(ends, O_CLOEXEC) != 0) return pr_fail_errno(err, "cannot run %s", argv[0]);
    char **environment = make_environment(env);
    int rc = environment ? spawn(argv[0], argv, environment, ends[1], POSIX_SPAWN_SETPGROUP, &pid) : ENOMEM;
    pr_free(environment);
    close(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        errno = rc;
        return pr_fail_errno(err, "cannot run %s", argv[0]);
    }
    bool heard = listen_to(ends[0], tick, arg, &out->said);
    close(ends[0]);
    if (!heard) kill(-pid, SIGTERM);
    while (waitpid(pid, &state, 0) < 0 && errno == EINTR) continue;
    out->code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    if (!heard) return pr_fail(err, PR_ERR_CANCELLED, "stopped");
    if (!pr_str_ok(&out->said)) return pr_fail_nomem(err, "what a program said", 0);
    return PR_OK;
}

pr_status pr__child_detach(const char *path, const char *const *argv, int out_fd, pr_err *err) {
    pid_t pid = 0;
    int rc = spawn(path, argv, environ, out_fd, POSIX_SPAWN_SETSID, &pid);
    if (rc != 0) {
        errno = rc;
        return pr_fail_errno(err, "cannot run %s", path);
    }
    (void)setpriority(PRIO_PROCESS, (id_t)pid, NICE_MAX); /* it has one thread yet; those to come inherit this */
    return PR_OK;
}
