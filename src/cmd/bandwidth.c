/*
 * Memory read bandwidth.
 *
 * Decoding reads every weight once a token, so the rate at which the machine
 * can read at all is the honest measure of a decode kernel. The loop below sums
 * 64-bit words; the compiler vectorizes it, and one core's loads outrun its
 * share of the memory bus long before the additions matter.
 *
 * The buffer is far larger than the caches and read from end to end, but timed
 * in slices of a few milliseconds, and the best slice counts: a neighbour takes
 * the processor away for longer than that, and can only make a slice slower.
 */
#include "cmd/bandwidth.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/pool.h"
#include "cmd/term.h"

enum { CHUNK_BYTES = 1 << 20, SLICE_CHUNKS = 64, SLICES_MIN = 2, SLICES_MAX = 16, PASSES = 6 };

typedef struct reading {
    pr_team *team;
    uint64_t *words;
    uint64_t *sums; /* [n_slices * SLICE_CHUNKS]: keeps the loads alive */
    uint32_t n_slices, slice;
} reading;

static void read_chunk(void *ctx, uint32_t chunk, int thread) {
    const reading *r = ctx;
    const size_t n = CHUNK_BYTES / sizeof *r->words;
    const size_t at = (size_t)r->slice * SLICE_CHUNKS + chunk;
    const uint64_t *w = r->words + at * n;
    uint64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < n; i++) sum += w[i];
    r->sums[at] = sum;
}

static void touch_chunk(void *ctx, uint32_t chunk, int thread) {
    const reading *r = ctx;
    const size_t n = CHUNK_BYTES / sizeof *r->words;
    (void)thread;
    for (size_t i = 0; i < n; i++) r->words[chunk * n + i] = i;
}

static void read_slice(void *ctx, int thread) {
    reading *r = ctx;
    pr_team_for(r->team, thread, SLICE_CHUNKS, read_chunk, r);
}

static void touch_all(void *ctx, int thread) {
    reading *r = ctx;
    pr_team_for(r->team, thread, r->n_slices * SLICE_CHUNKS, touch_chunk, r);
}

/* In the child: bytes a second, or 0. */
static double measure(int n_threads) {
    const size_t slice_bytes = (size_t)SLICE_CHUNKS * CHUNK_BYTES;
    reading r = {0};
    uint64_t fit = pr_ram_available() / 4 / slice_bytes;
    double best = 0;
    r.n_slices = fit > SLICES_MAX ? SLICES_MAX : fit < SLICES_MIN ? SLICES_MIN : (uint32_t)fit;
    size_t bytes = r.n_slices * slice_bytes;
    r.words = pr_map(PR_TAG_MISC, bytes);
    r.sums = pr_calloc(PR_TAG_MISC, (size_t)r.n_slices * SLICE_CHUNKS, sizeof *r.sums);
    if (r.words && r.sums && pr_team_open(n_threads, 0, &r.team, NULL) == PR_OK) {
        pr_team_run(r.team, touch_all, &r);
        for (uint32_t i = 0; i < PASSES * r.n_slices; i++) {
            r.slice = i % r.n_slices;
            double start = pr_now();
            pr_team_run(r.team, read_slice, &r);
            double rate = (double)slice_bytes / (pr_now() - start);
            if (rate > best) best = rate;
        }
        pr_team_close(r.team);
    }
    if (r.words) pr_unmap(PR_TAG_MISC, r.words, bytes);
    pr_free(r.sums);
    return best;
}

pr_status pr__bandwidth_measure(int n_threads, double *bytes_per_second, pr_err *err) {
    int ends[2];
    double rate = 0;
    *bytes_per_second = 0;
    if (pipe(ends) != 0) return pr_fail_errno(err, "cannot measure the read bandwidth");
    pid_t pid = fork();
    if (pid < 0) {
        close(ends[0]);
        close(ends[1]);
        return pr_fail_errno(err, "cannot measure the read bandwidth");
    }
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        rate = measure(n_threads);
        _exit(write(ends[1], &rate, sizeof rate) == (ssize_t)sizeof rate ? 0 : 1);
    }
    close(ends[1]);
    ssize_t n;
    do n = read(ends[0], &rate, sizeof rate);
    while (n < 0 && errno == EINTR);
    close(ends[0]);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
    if (*pr__interrupt()) return pr_fail(err, PR_ERR_CANCELLED, "stopped");
    if (n != (ssize_t)sizeof rate || rate <= 0)
        return pr_fail(err, PR_ERR_NOMEM, "cannot measure the read bandwidth: too little memory");
    *bytes_per_second = rate;
    return PR_OK;
}
