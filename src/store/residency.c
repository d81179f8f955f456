/*
 * Residency: moving the cursor of an elastic model while it runs.
 *
 * All planes have a fixed place in one reserve of address space: the p2 planes of all units, then one slot for each
 * increment in the order of the list, end to end, so that nothing is lost to rounding. So an address never changes, only the right to read it, which is
 * a unit's level; what is in memory is always [0, at[loaded]), and going down frees one range in one system call.
 *
 * One lock guards the three numbers (target, loaded, cursor) and the levels. Only the background thread changes `loaded`;
 * it works without the lock in between: it reads a slot past `loaded`, which nobody looks at yet, or gives back slots
 * that it has taken out of `loaded` before, and not below the cursor, which nobody uses then. `cursor`, with the levels,
 * is changed by publish(): at the beginning of a step, or by the background thread when no step runs. Both take the lock
 * first, so a step sees levels and planes that were finished before it began.
 *
 * Planes are read into anonymous memory, not mapped from the file: a mapped file shrinks only when the system likes, faults
 * during a step instead of before it, kills the process when it is cut, and cannot have huge pages. Figures are in
 * docs/ELASTIC-EXPERIMENTS.md. The price is that each byte passes the page cache; it is dropped from there at once.
 *
 * Increments lie scattered over the file, so while one is read the next few are announced to the system. Pieces of 1 or 2 MB
 * then came 1.5 to 3 times as fast from a busy machine's disk; from 4 MB on the gain was unclear, so those are not.
 *
 * Where every processor steps, the reading thread takes its time slices in the middle of steps, and all threads of a step wait
 * for the one that lost them. So while planes are read, steps leave a gap between them, a part of what they take.
 *
 * The boundary between what is loaded and what is not may lie within a huge page, so up to one of them more than the
 * ledger says can be in use.
 */
#include "store/residency.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/os.h"

enum { SLOT = 64 /* what kernels want of an address */, PAGE = 4096, AHEAD_BYTES = 4 << 20, NICE = 5 };

static const double GAP = 0.2, GAP_LEAST = 200e-6; /* of a step; seconds below which it is not worth going to sleep */

/* What a unit would have: each view's own, and the cap on both. */
typedef struct wish {
    uint8_t level[PR_VIEW_COUNT], cap;
} wish;

struct pr_residency {
    const pr_model_file *file;
    const pr_plane_set *set;
    uint8_t *base;
    size_t *at; /* [n_increments + 1]: bytes with the first n increments, and where increment n stands */
    pr_unit *units;
    wish *wishes;
    bool has_lock, has_thread;
    pthread_mutex_t lock;
    pthread_cond_t work, news; /* for the background thread / for those who wait for it */
    pthread_t thread;

    bool stop, stepping;
    bool crowded;                    /* steps take all processors */
    double step_begin, step_seconds; /* when it began; what steps take, those that are held up left out */
    uint32_t target, loaded, cursor; /* increments */
    uint32_t held;                   /* whose memory is committed; differs from loaded while the thread is at it */
    uint32_t draft, draft_cursor;    /* asked for; in use: at most cursor */
    uint64_t epoch;
    bool moving, failed; /* a request is under way; the last one failed */
    bool dirty;          /* what was read may have left something in the page cache */
    uint32_t from;       /* loaded when it was asked */
    double asked;        /* when */
    size_t plane_bytes[PR_PLANE_COUNT];
    uint64_t moves_down, moves_up;
    double drop_seconds, raise_seconds;
    pr_err raise_err;
};

/* ---- sizes ---- */

static size_t slot_bytes(const pr_plane_set *set, uint32_t unit, pr_plane plane) {
    return pr_align_up((size_t)pr_plane_unit_bytes(set, unit, plane), SLOT);
}

static size_t increment_bytes(const pr_plane_set *set, uint32_t i) {
    return slot_bytes(set, set->increments[i].unit, set->increments[i].plane);
}

void pr_plane_set_bytes(const pr_plane_set *set, size_t *bytes_at) {
    bytes_at[0] = 0;
    for (uint32_t u = 0; u < set->n_units; u++) bytes_at[0] += slot_bytes(set, u, PR_PLANE_P2);
    for (uint32_t i = 0; i < set->n_increments; i++) bytes_at[i + 1] = bytes_at[i] + increment_bytes(set, i);
}

bool pr_bytes_to_cursor(const size_t *bytes_at, uint32_t n_increments, size_t bytes, uint32_t *cursor) {
    if (bytes_at[0] > bytes) return false;
    uint32_t fits = 0, over = n_increments + 1; /* bytes_at[fits] <= bytes < bytes_at[over] */
    while (over - fits > 1) {
        uint32_t middle = fits + (over - fits) / 2;
        if (bytes_at[middle] <= bytes) fits = middle;
        else over = middle;
    }
    *cursor = fits;
    return true;
}

size_t pr_residency_bytes_at(const pr_residency *r, uint32_t n) { return r->at[n]; }

/* ---- levels (locked, and no step runs) ---- */

static void refresh(pr_residency *r, uint32_t unit) {
    const wish *w = &r->wishes[unit];
    uint8_t *level = r->units[unit].level;
    uint8_t main_level = w->level[PR_VIEW_MAIN] < w->cap ? w->level[PR_VIEW_MAIN] : w->cap;
    level[PR_VIEW_MAIN] = main_level;
    level[PR_VIEW_DRAFT] = w->level[PR_VIEW_DRAFT] < main_level ? w->level[PR_VIEW_DRAFT] : main_level;
}

/* Move a view's cursor; only units in between change. */
static void walk(pr_residency *r, int view, uint32_t *cursor, uint32_t to) {
    if (*cursor != to) r->epoch++;
    while (*cursor != to) {
        bool up = *cursor < to;
        const pr_increment *i = &r->set->increments[up ? *cursor : *cursor - 1];
        r->wishes[i->unit].level[view] = (uint8_t)(up ? i->plane : i->plane - 1);
        refresh(r, i->unit);
        *cursor = up ? *cursor + 1 : *cursor - 1;
    }
}

/* The last request is fulfilled when all is read, in use, and given back. */
static void finish(pr_residency *r) {
    if (r->cursor != r->target || r->held != r->target || r->dirty) return;
    if (r->moving) {
        double seconds = pr_now() - r->asked;
        bool down = r->target<r->from, up = r->target> r->from;
        if (down) r->drop_seconds = seconds;
        if (up) r->raise_seconds = seconds;
        r->moves_down += down;
        r->moves_up += up;
        if (up) r->raise_err = (pr_err){0};
        r->moving = false;
    }
    pthread_cond_broadcast(&r->news);
}

static void publish(pr_residency *r) {
    uint32_t cursor = r->target < r->loaded ? r->target : r->loaded;
    walk(r, PR_VIEW_MAIN, &r->cursor, cursor);
    walk(r, PR_VIEW_DRAFT, &r->draft_cursor, r->draft < cursor ? r->draft : cursor);
    finish(r);
}

/* ---- opening ---- */

static void place_planes(pr_residency *r) {
    size_t at = 0;
    for (uint32_t u = 0; u < r->set->n_units; u++) {
        r->units[u] = (pr_unit){.tile0 = r->set->units[u].tile0, .n_tiles = r->set->units[u].n_tiles};
        r->units[u].plane[PR_PLANE_P2] = r->base + at;
        r->wishes[u].cap = PR_PLANE_P16;
        at += slot_bytes(r->set, u, PR_PLANE_P2);
    }
    for (uint32_t i = 0; i < r->set->n_increments; i++) {
        const pr_increment *inc = &r->set->increments[i];
        r->units[inc->unit].plane[inc->plane] = r->base + r->at[i];
    }
}

static bool make_lock(pr_residency *r) {
    pthread_condattr_t monotonic;
    if (pthread_condattr_init(&monotonic) != 0) return false;
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    bool has_mutex = pthread_mutex_init(&r->lock, NULL) == 0;
    bool has_work = has_mutex && pthread_cond_init(&r->work, &monotonic) == 0;
    r->has_lock = has_work && pthread_cond_init(&r->news, &monotonic) == 0;
    if (has_work && !r->has_lock) pthread_cond_destroy(&r->work);
    if (has_mutex && !r->has_lock) pthread_mutex_destroy(&r->lock);
    pthread_condattr_destroy(&monotonic);
    return r->has_lock;
}

pr_status pr_residency_open(const pr_model_file *file, pr_residency **out, pr_err *err) {
    const pr_plane_set *set = pr_model_file_planes(file);
    *out = NULL;
    if (!set) return pr_fail(err, PR_ERR_ARG, "%s holds no planes", pr_model_file_path(file));
    pr_residency *r = pr_calloc(PR_TAG_GRAPH, 1, sizeof *r);
    if (!r) return pr_fail_nomem(err, "residency", sizeof *r);
    r->file = file;
    r->set = set;
    r->draft = set->n_increments;
    r->at = pr_calloc(PR_TAG_GRAPH, (size_t)set->n_increments + 1, sizeof *r->at);
    r->units = pr_calloc(PR_TAG_GRAPH, set->n_units, sizeof *r->units);
    r->wishes = pr_calloc(PR_TAG_GRAPH, set->n_units, sizeof *r->wishes);
    if (!r->at || !r->units || !r->wishes || !make_lock(r)) {
        pr_fail_nomem(err, "unit table", set->n_units * sizeof *r->units);
        goto fail;
    }
    pr_plane_set_bytes(set, r->at);
    r->base = pr_reserve_huge(r->at[set->n_increments]);
    if (!r->base) {
        pr_fail_nomem(err, "address space for planes", r->at[set->n_increments]);
        goto fail;
    }
    place_planes(r);
    *out = r;
    return PR_OK;
fail:
    pr_residency_close(r);
    return PR_ERR_NOMEM;
}

void pr_residency_close(pr_residency *r) {
    if (!r) return;
    if (r->has_thread) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_signal(&r->work);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->thread, NULL);
    }
    size_t held = 0;
    for (int p = 0; p < PR_PLANE_COUNT; p++) held += r->plane_bytes[p];
    if (held) pr_decommit(PR_TAG_WEIGHTS, r->base, held);
    if (r->base) pr_unreserve(r->base, r->at[r->set->n_increments]);
    if (r->has_lock) {
        pthread_cond_destroy(&r->news);
        pthread_cond_destroy(&r->work);
        pthread_mutex_destroy(&r->lock);
    }
    pr_free(r->wishes);
    pr_free(r->units);
    pr_free(r->at);
    pr_free(r);
}

const pr_unit *pr_residency_units(const pr_residency *r, uint32_t tensor, uint32_t *n_units) {
    *n_units = r->set->tensors[tensor].n_units;
    return r->units + r->set->tensors[tensor].unit0;
}

/* ---- the background thread ---- */

/* Bytes of the increments from..to-1, added to sums by plane. */
static void sum_planes(const pr_residency *r, uint32_t from, uint32_t to, size_t sums[PR_PLANE_COUNT]) {
    for (uint32_t i = from; i < to; i++) sums[r->set->increments[i].plane] += r->at[i + 1] - r->at[i];
}

/* Give back what is loaded past `to`. Locked at both ends, not in between. */
static void drop(pr_residency *r, uint32_t to) {
    uint32_t from = r->loaded;
    size_t sums[PR_PLANE_COUNT] = {0};
    r->loaded = to;
    pthread_mutex_unlock(&r->lock);
    sum_planes(r, to, from, sums);
    /* Nothing past at[from] is held, so the page it stands in goes too. */
    pr_map_release(r->base + r->at[to], pr_align_up(r->at[from], PAGE) - r->at[to]);
    pr_decommit(PR_TAG_WEIGHTS, r->base + r->at[to], r->at[from] - r->at[to]);
    pthread_mutex_lock(&r->lock);
    for (int p = 0; p < PR_PLANE_COUNT; p++) r->plane_bytes[p] -= sums[p];
    r->held = to;
}

/* Nobody wants the increment any more that is being read. */
static bool unwanted(void *arg) {
    pr_residency *r = arg;
    pthread_mutex_lock(&r->lock);
    bool yes = r->stop || r->target <= r->loaded;
    pthread_mutex_unlock(&r->lock);
    return yes;
}

/* Have the system read on, up to AHEAD_BYTES past increment i. *ahead: the first that it was not asked for yet. */
static void read_ahead(const pr_residency *r, uint32_t i, uint32_t target, uint32_t *ahead) {
    if (*ahead <= i) *ahead = i + 1;
    for (; *ahead < target && r->at[*ahead + 1] - r->at[i + 1] <= AHEAD_BYTES; ++*ahead) {
        const pr_increment *inc = &r->set->increments[*ahead];
        pr__plane_unit_soon(r->file, inc->unit, inc->plane);
    }
}

/* Commit and read increment i; on failure nothing is committed. */
static pr_status read_increment(pr_residency *r, uint32_t i, pr_err *err) {
    const pr_increment *inc = &r->set->increments[i];
    size_t bytes = r->at[i + 1] - r->at[i];
    if (!pr_commit(PR_TAG_WEIGHTS, bytes)) return pr_fail_nomem(err, "planes", bytes);
    pr_status status = pr__plane_unit_read(r->file, inc->unit, inc->plane, r->base + r->at[i], unwanted, r, err);
    if (status != PR_OK) pr_decommit(PR_TAG_WEIGHTS, r->base + r->at[i], bytes);
    pr__plane_unit_done(r->file, inc->unit, inc->plane);
    return status;
}

/* Read the next increment. Locked at both ends, not in between. */
static void raise_one(pr_residency *r, uint32_t *ahead) {
    uint32_t i = r->loaded, target = r->target;
    pr_err err = {0};
    r->dirty = true;
    pthread_mutex_unlock(&r->lock);
    read_ahead(r, i, target, ahead);
    pr_status status = read_increment(r, i, &err);
    pthread_mutex_lock(&r->lock);
    if (status == PR_OK) {
        r->plane_bytes[r->set->increments[i].plane] += r->at[i + 1] - r->at[i];
        r->loaded = r->held = i + 1;
    } else if (status != PR_ERR_CANCELLED && r->target > i) { /* else a newer request wants less anyway */
        r->raise_err = err;
        r->failed = true;
        r->moving = false;
        r->target = i;
        pthread_cond_broadcast(&r->news);
    }
}

/* Nothing is left to read: also nothing of it in the page cache. */
static void clean(pr_residency *r) {
    pthread_mutex_unlock(&r->lock);
    pr_model_file_done_all(r->file);
    pthread_mutex_lock(&r->lock);
    r->dirty = false;
}

static void *thread_main(void *arg) {
    pr_residency *r = arg;
    uint32_t ahead = 0;
    pr_thread_nice(NICE);
    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        if (!r->stepping) publish(r);
        uint32_t keep = r->target > r->cursor ? r->target : r->cursor;
        if (r->loaded > keep) drop(r, keep);
        else if (r->loaded < r->target) raise_one(r, &ahead);
        else if (r->dirty) clean(r);
        else {
            finish(r);
            ahead = 0;
            pthread_cond_wait(&r->work, &r->lock);
        }
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- loading ---- */

typedef struct loader {
    pr_residency *r;
    pr_team *team;
    uint32_t n_chunks; /* p2 planes, then increments */
    atomic_uint done;
    atomic_bool failed;
    pr_err *errs; /* [threads] */
    void (*progress)(void *arg, double fraction);
    void *arg;
} loader;

static void load_body(void *ctx, uint32_t chunk, int thread) {
    loader *l = ctx;
    const pr_plane_set *set = l->r->set;
    if (atomic_load(&l->failed)) return;
    pr_increment what = {chunk, PR_PLANE_P2};
    if (chunk >= set->n_units) what = set->increments[chunk - set->n_units];
    size_t at = (size_t)(l->r->units[what.unit].plane[what.plane] - l->r->base);
    pr_status status = pr_plane_unit_read(l->r->file, what.unit, what.plane, l->r->base + at, &l->errs[thread]);
    pr__plane_unit_done(l->r->file, what.unit, what.plane);
    if (status != PR_OK) atomic_store(&l->failed, true);
    unsigned done = atomic_fetch_add(&l->done, 1) + 1;
    if (thread == 0 && l->progress) l->progress(l->arg, (double)done / l->n_chunks);
}

static void load_thread(void *ctx, int thread) {
    loader *l = ctx;
    pr_team_for(l->team, thread, l->n_chunks, load_body, l);
}

static pr_status load_planes(pr_residency *r, uint32_t cursor, loader *l, pr_err *err) {
    int n_threads = pr_team_size(l->team);
    pr_status status = PR_OK;
    l->errs = pr_calloc(PR_TAG_FILE, (size_t)n_threads, sizeof *l->errs);
    if (!l->errs) return pr_fail_nomem(err, "loading", (size_t)n_threads * sizeof *l->errs);
    pr_team_run(l->team, load_thread, l);
    pr_model_file_done_all(r->file);
    for (int t = 0; t < n_threads && status == PR_OK; t++) { /* several may have failed: one is told */
        status = l->errs[t].status;
        if (status != PR_OK && err) *err = l->errs[t];
    }
    pr_free(l->errs);
    if (status != PR_OK) return status;
    r->crowded = n_threads >= pr_cpu_allowed();
    if (l->progress) l->progress(l->arg, 1); /* another thread may have been the last */
    r->target = r->loaded = r->held = cursor;
    publish(r);
    int code = pthread_create(&r->thread, NULL, thread_main, r);
    r->has_thread = code == 0;
    return code == 0 ? PR_OK : pr_fail(err, PR_ERR_IO, "cannot start the thread that moves planes: %s", strerror(code));
}

pr_status pr_residency_load(pr_residency *r, uint32_t cursor, pr_team *team,
                            void (*progress)(void *arg, double fraction), void *arg, pr_err *err) {
    loader l = {.r = r, .team = team, .n_chunks = r->set->n_units + cursor, .progress = progress, .arg = arg};
    if (cursor > r->set->n_increments) {
        return pr_fail(err, PR_ERR_ARG, "%u increments are asked for, the model has %u", cursor, r->set->n_increments);
    }
    if (!pr_commit(PR_TAG_WEIGHTS, r->at[cursor])) return pr_fail_nomem(err, "planes", r->at[cursor]);
    r->plane_bytes[PR_PLANE_P2] = r->at[0];
    sum_planes(r, 0, cursor, r->plane_bytes);
    return load_planes(r, cursor, &l, err);
}

/* ---- requests ---- */

pr_status pr_residency_move(pr_residency *r, uint32_t cursor, pr_err *err) {
    if (cursor > r->set->n_increments) {
        return pr_fail(err, PR_ERR_ARG, "%u increments are asked for, the model has %u", cursor, r->set->n_increments);
    }
    pthread_mutex_lock(&r->lock);
    r->target = cursor;
    r->from = r->loaded;
    r->asked = pr_now();
    r->moving = true;
    r->failed = false;
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
    return PR_OK;
}

/* `seconds` from now; a few years are for ever. */
static struct timespec deadline(double seconds) {
    const double most = 1e8;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (!(seconds > 0)) return t;
    if (seconds > most) seconds = most;
    t.tv_sec += (time_t)seconds;
    t.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

pr_status pr_residency_settle(pr_residency *r, double seconds, pr_err *err) {
    const struct timespec until = deadline(seconds);
    pr_status status = PR_OK;
    pthread_mutex_lock(&r->lock);
    while (r->moving && status == PR_OK) {
        if (pthread_cond_timedwait(&r->news, &r->lock, &until) != 0 && r->moving) {
            status = pr_fail(err, PR_ERR_LIMIT, "%u of %u increments are loaded and %u in use after %g s", r->loaded,
                             r->target, r->cursor, seconds);
        }
    }
    if (status == PR_OK && r->failed) {
        status = r->raise_err.status;
        if (err) *err = r->raise_err;
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

void pr_residency_state_get(const pr_residency *r, pr_residency_state *out) {
    pthread_mutex_t *lock = &((pr_residency *)r)->lock; /* the one thing that looking changes */
    pthread_mutex_lock(lock);
    *out = (pr_residency_state){
        .cursor = r->cursor,
        .loaded = r->loaded,
        .target = r->target,
        .moving = r->moving,
        .n_increments = r->set->n_increments,
        .moves_down = r->moves_down,
        .moves_up = r->moves_up,
        .drop_seconds = r->drop_seconds,
        .raise_seconds = r->raise_seconds,
        .raise_err = r->raise_err,
    };
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        out->plane_bytes[p] = r->plane_bytes[p];
        out->bytes += r->plane_bytes[p];
    }
    pthread_mutex_unlock(lock);
}

/* ---- steps ---- */

void pr_residency_draft(pr_residency *r, uint32_t n) {
    pthread_mutex_lock(&r->lock);
    r->draft = n;
    publish(r);
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
}

void pr_residency_cap(pr_residency *r, uint32_t unit, pr_plane level) {
    pthread_mutex_lock(&r->lock);
    if (r->wishes[unit].cap != level) r->epoch++;
    r->wishes[unit].cap = (uint8_t)level;
    refresh(r, unit);
    pthread_mutex_unlock(&r->lock);
}

/* Leave the reading thread a processor for a while, or until it is done. Locked. */
static void leave_gap(pr_residency *r) {
    double gap = r->step_seconds * GAP;
    if (!r->crowded || gap < GAP_LEAST || r->loaded >= r->target) return;
    const struct timespec until = deadline(gap);
    while (r->loaded < r->target && pthread_cond_timedwait(&r->news, &r->lock, &until) == 0) {
    }
}

uint64_t pr_residency_step_begin(pr_residency *r) {
    pthread_mutex_lock(&r->lock);
    leave_gap(r);
    uint32_t before = r->cursor;
    publish(r);
    r->stepping = true;
    r->step_begin = pr_now();
    uint64_t epoch = r->epoch;
    if (r->cursor < before) pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
    return epoch;
}

void pr_residency_step_end(pr_residency *r) {
    pthread_mutex_lock(&r->lock);
    r->stepping = false;
    double seconds = pr_now() - r->step_begin, most = 1.1 * r->step_seconds;
    r->step_seconds = most > 0 && seconds > most ? most : seconds;
    if (r->cursor != r->target || r->held != r->target) pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
}
