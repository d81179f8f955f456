/*
 * Memory read bandwidth.
 *
 * Decoding reads every weight once a token, so the rate at which the machine
 * can read at all is the honest measure of a decode kernel. The loop below sums
 * 64-bit words; the compiler vectorizes it, and one core's loads outrun its
 * share of the memory bus long before the additions matter.
 *
 * The buffer is 128 MiB for each thread and at least 512, where memory allows:
 * several times what a thread has of the last cache (what the system says of
 * cache sizes is not to be trusted in virtual machines). It is read round and round, but timed in slices
 * of a few milliseconds, and the best slice counts: a neighbour takes the
 * processor away for longer than that, and can only make a slice slower.
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

enum { CHUNK_BYTES = 1 << 20, SLICE_CHUNKS = 128, SLICES_MIN = 4, SLICES_MAX = 16, READS = 96 };

static const double SECONDS_MAX = 2;

typedef struct slice {
    uint64_t *words;             /* [SLICE_CHUNKS * CHUNK_BYTES / 8] */
    uint64_t sums[SLICE_CHUNKS]; /* keeps the loads alive */
} slice;

typedef struct reading {
    pr_team *team;
    slice *slices; /* [n_slices] */
    uint32_t n_slices;
    slice *now; /* being touched or read */
} reading;

static void read_chunk(void *ctx, uint32_t chunk, int thread) {
    slice *s = ctx;
    const size_t n = CHUNK_BYTES / sizeof *s->words;
    const uint64_t *w = s->words + chunk * n;
    uint64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < n; i++) sum += w[i];
    s->sums[chunk] = sum;
}

static void touch_chunk(void *ctx, uint32_t chunk, int thread) {
    const slice *s = ctx;
    const size_t n = CHUNK_BYTES / sizeof *s->words;
    (void)thread;
    for (size_t i = 0; i < n; i++) s->words[chunk * n + i] = i;
}

/* A loop of the team may be over before a late thread enters it, so the watch is held outside, around whole runs. */
static void touch_slice(void *ctx, int thread) {
    reading *r = ctx;
    pr_team_for(r->team, thread, SLICE_CHUNKS, touch_chunk, r->now);
}

static void read_slice(void *ctx, int thread) {
    reading *r = ctx;
    pr_team_for(r->team, thread, SLICE_CHUNKS, read_chunk, r->now);
}

static double measure_slices(reading *r) {
    double best = 0;
    for (uint32_t i = 0; i < r->n_slices; i++) {
        r->now = &r->slices[i];
        pr_team_run(r->team, touch_slice, r);
    }
    double end = pr_now() + SECONDS_MAX;
    for (uint32_t i = 0, at = 0; i < READS && pr_now() < end; i++) {
        r->now = &r->slices[at];
        at = at + 1 < r->n_slices ? at + 1 : 0;
        double start = pr_now();
        pr_team_run(r->team, read_slice, r);
        double seconds = pr_now() - start;
        if (best == 0 || seconds < best) best = seconds;
    }
    return best > 0 ? (double)SLICE_CHUNKS * CHUNK_BYTES / best : 0;
}

static uint32_t slices_for(int n_threads, size_t slice_bytes) {
    uint64_t fit = pr_ram_available() / 4 / slice_bytes;
    uint32_t n = n_threads < SLICES_MIN ? SLICES_MIN : n_threads > SLICES_MAX ? SLICES_MAX : (uint32_t)n_threads;
    return fit >= n ? n : fit > 0 ? (uint32_t)fit : 1;
}

/* In the child: bytes a second, or 0. */
static double measure(int n_threads) {
    const size_t slice_bytes = (size_t)SLICE_CHUNKS * CHUNK_BYTES;
    reading r = {.n_slices = slices_for(n_threads, slice_bytes)};
    double best = 0;
    unsigned char *memory = pr_map(PR_TAG_MISC, r.n_slices * slice_bytes);
    r.slices = pr_calloc(PR_TAG_MISC, r.n_slices, sizeof *r.slices);
    if (memory && r.slices && pr_team_open(n_threads, 0, &r.team, NULL) == PR_OK) {
        for (uint32_t i = 0; i < r.n_slices; i++) r.slices[i].words = (uint64_t *)(void *)(memory + i * slice_bytes);
        best = measure_slices(&r);
        pr_team_close(r.team);
    }
    if (memory) pr_unmap(PR_TAG_MISC, memory, r.n_slices * slice_bytes);
    pr_free(r.slices);
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
        signal(SIGTERM, SIG_DFL);
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
