/*
 * Residency: what is in memory and in use is what was asked for, whatever the disk, the memory and the timing do.
 */
#include "support/rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "store/residency.h"
#include "support/planes_file.h"
#include "support/sanitized.h"

enum { WAIT = 60 }; /* seconds, far more than anything here takes */

typedef struct world {
    const planes_file *spec;
    const char *path;
    pr_team *team;
    pr_model_file *file;
    const pr_plane_set *set;
    pr_residency *r;
    size_t weights_before; /* the ledger's */
} world;

static world open_world(const planes_file *spec) {
    world w = {.spec = spec, .path = rig_path("p.gguf"), .weights_before = pr_mem_bytes(PR_TAG_WEIGHTS)};
    pr_err err = {0};
    planes_file_write(spec, w.path);
    if (pr_team_open(2, 0, &w.team, &err) || pr_model_file_open(w.path, &w.file, &err) ||
        pr_residency_open(w.file, &w.r, &err))
        fail_msg("%s", err.text);
    w.set = pr_model_file_planes(w.file);
    assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS), w.weights_before);
    return w;
}

static world load_world(const planes_file *spec, uint32_t cursor) {
    world w = open_world(spec);
    pr_err err = {0};
    if (pr_residency_load(w.r, cursor, w.team, NULL, NULL, &err)) fail_msg("%s", err.text);
    return w;
}

static void close_world(world *w) {
    pr_residency_close(w->r);
    assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS), w->weights_before);
    pr_model_file_close(w->file);
    pr_team_close(w->team);
}

static void move(world *w, uint32_t cursor) {
    pr_err err = {0};
    if (pr_residency_move(w->r, cursor, &err)) fail_msg("%s", err.text);
}

static void settle(world *w) {
    pr_err err = {0};
    if (pr_residency_settle(w->r, WAIT, &err)) fail_msg("%s", err.text);
}

static pr_residency_state state_of(world *w) {
    pr_residency_state s;
    pr_residency_state_get(w->r, &s);
    return s;
}

/* The level that the first n increments give a unit. */
static int level_at(const pr_plane_set *set, uint32_t n, uint32_t unit) {
    int level = PR_PLANE_P2;
    for (uint32_t i = 0; i < n; i++) {
        if (set->increments[i].unit == unit) level = (int)set->increments[i].plane;
    }
    return level;
}

/* Inside a step: levels are those of the cursor, and every plane that may be read is right. */
static void check_units(world *w, uint32_t draft) {
    uint32_t cursor = state_of(w).cursor;
    for (uint32_t t = 0; t < w->set->n_tensors; t++) {
        uint32_t n;
        const pr_unit *units = pr_residency_units(w->r, t, &n);
        assert_int_equal(n, w->set->tensors[t].n_units);
        for (uint32_t k = 0; k < n; k++) {
            uint32_t unit = w->set->tensors[t].unit0 + k;
            assert_int_equal(units[k].tile0, w->set->units[unit].tile0);
            assert_int_equal(units[k].n_tiles, w->set->units[unit].n_tiles);
            assert_int_equal(units[k].level[PR_VIEW_MAIN], level_at(w->set, cursor, unit));
            assert_int_equal(units[k].level[PR_VIEW_DRAFT], level_at(w->set, draft < cursor ? draft : cursor, unit));
            for (int p = 0; p <= units[k].level[PR_VIEW_MAIN]; p++) {
                assert_int_equal((uintptr_t)units[k].plane[p] % 64, 0);
                assert_true(planes_file_same(w->spec, w->set, unit, (pr_plane)p, units[k].plane[p]));
            }
        }
    }
}

static void check_at_rest(world *w, uint32_t cursor) {
    pr_residency_state s = state_of(w);
    size_t sum = 0;
    assert_int_equal(s.cursor, cursor);
    assert_int_equal(s.loaded, cursor);
    assert_int_equal(s.target, cursor);
    assert_int_equal(s.n_increments, w->set->n_increments);
    assert_int_equal(s.bytes, pr_residency_bytes_at(w->r, cursor));
    for (int p = 0; p < PR_PLANE_COUNT; p++) sum += s.plane_bytes[p];
    assert_int_equal(sum, s.bytes);
    assert_int_equal(pr_mem_bytes(PR_TAG_WEIGHTS) - w->weights_before, s.bytes);
    pr_residency_step_begin(w->r);
    check_units(w, UINT32_MAX);
    pr_residency_step_end(w->r);
}

/* ---- moving -------------------------------------------------------------------- */

static void any_cursor_from_any_other(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 5);
    uint32_t n = w.set->n_increments;
    check_at_rest(&w, 5);
    for (uint32_t i = 0; i <= n; i++) {
        for (int k = 0; k < 3; k++) {
            uint32_t cursor = k == 0 ? i : k == 1 ? n - i : (i * 7) % (n + 1);
            move(&w, cursor);
            settle(&w);
            check_at_rest(&w, cursor);
        }
    }
    pr_residency_state s = state_of(&w);
    assert_true(s.moves_up > 10 && s.moves_down > 10 && s.drop_seconds > 0 && s.raise_seconds > 0);
    assert_int_equal(s.raise_err.status, PR_OK);
    close_world(&w);
}

static void count_progress(void *arg, double fraction) {
    double *last = arg;
    assert_true(fraction > 0 && fraction <= 1);
    *last = fraction;
}

static void loads_any_beginning(void **state) {
    (void)state;
    for (uint32_t cursor = 0; cursor <= 17; cursor += cursor < 2 ? 1 : 15) {
        world w = open_world(&planes_file_small);
        double last = 0;
        pr_err err = {0};
        assert_int_equal(pr_residency_load(w.r, cursor, w.team, count_progress, &last, &err), PR_OK);
        assert_true(last == 1);
        check_at_rest(&w, cursor);
        close_world(&w);
    }
}

static void estimates_are_what_is_committed(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 0);
    uint32_t n = w.set->n_increments, cursor = 99;
    size_t *at = malloc((n + 1) * sizeof *at);
    pr_plane_set_bytes(w.set, at);
    for (uint32_t i = 0; i <= n; i++) {
        assert_int_equal(at[i], pr_residency_bytes_at(w.r, i));
        assert_true(pr_bytes_to_cursor(at, n, at[i], &cursor) && cursor == i);
        if (i < n) assert_true(pr_bytes_to_cursor(at, n, at[i + 1] - 1, &cursor) && cursor == i);
        if (i > 0) assert_true(pr_bytes_to_cursor(at, n, at[i] - 1, &cursor) && cursor == i - 1);
    }
    assert_true(pr_bytes_to_cursor(at, n, SIZE_MAX, &cursor) && cursor == n);
    assert_false(pr_bytes_to_cursor(at, n, at[0] - 1, &cursor));
    free(at);
    close_world(&w);
}

static void wrong_requests_are_refused(void **state) {
    (void)state;
    world w = open_world(&planes_file_small);
    pr_err err = {0};
    assert_int_equal(pr_residency_load(w.r, 18, w.team, NULL, NULL, &err), PR_ERR_ARG);
    assert_int_equal(pr_residency_load(w.r, 3, w.team, NULL, NULL, &err), PR_OK);
    assert_int_equal(pr_residency_move(w.r, 18, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "18"));
    check_at_rest(&w, 3);
    close_world(&w);
    pr_model_file *f;
    pr_residency *r;
    assert_int_equal(pr_model_file_open(rig_model(&(llama_gguf){.n_layers = 1}, "m.gguf"), &f, &err), PR_OK);
    assert_int_equal(pr_residency_open(f, &r, &err), PR_ERR_ARG);
    assert_null(r);
    pr_model_file_close(f);
    pr_residency_close(NULL);
}

static void a_step_keeps_what_it_began_with(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 10);
    pr_err err = {0};
    uint64_t epoch = pr_residency_step_begin(w.r);
    move(&w, 2);
    assert_int_equal(pr_residency_settle(w.r, 0.02, &err), PR_ERR_LIMIT);
    assert_int_equal(state_of(&w).cursor, 10);
    assert_true(state_of(&w).bytes == pr_residency_bytes_at(w.r, 10));
    check_units(&w, UINT32_MAX);
    pr_residency_step_end(w.r);
    settle(&w);
    check_at_rest(&w, 2);
    uint64_t next = pr_residency_step_begin(w.r);
    assert_true(next != epoch);
    move(&w, 17);
    assert_int_equal(pr_residency_settle(w.r, 0.02, &err), PR_ERR_LIMIT);
    check_units(&w, UINT32_MAX);
    assert_int_equal(state_of(&w).cursor, 2);
    pr_residency_step_end(w.r);
    settle(&w);
    check_at_rest(&w, 17);
    epoch = pr_residency_step_begin(w.r);
    pr_residency_step_end(w.r);
    assert_true(pr_residency_step_begin(w.r) == epoch);
    pr_residency_step_end(w.r);
    close_world(&w);
}

/* Steps that follow each other without a pause are enough for a move to end. */
static void busy_stepping_does_not_starve_moves(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 0);
    static const uint32_t goals[] = {17, 0, 9, 3};
    for (size_t g = 0; g < 4; g++) {
        pr_residency_state s;
        uint64_t until = pr_now_ns() + (uint64_t)WAIT * 1000000000u;
        uint64_t ended = state_of(&w).moves_down + state_of(&w).moves_up;
        move(&w, goals[g]);
        pr_residency_step_begin(w.r);
        do { /* never a moment without a step for the background thread to use */
            pr_residency_step_end(w.r);
            pr_residency_step_begin(w.r);
            s = state_of(&w);
            assert_true(pr_now_ns() < until);
        } while (s.moves_down + s.moves_up == ended);
        check_units(&w, UINT32_MAX);
        pr_residency_step_end(w.r);
        check_at_rest(&w, goals[g]);
    }
    close_world(&w);
}

static void drafts_and_caps(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 17);
    uint32_t n;
    const pr_unit *units = pr_residency_units(w.r, 0, &n);
    pr_residency_draft(w.r, 6);
    uint64_t epoch = pr_residency_step_begin(w.r);
    check_units(&w, 6);
    pr_residency_step_end(w.r);
    move(&w, 3);
    settle(&w);
    pr_residency_step_begin(w.r);
    check_units(&w, 6); /* which is no more than 3 */
    pr_residency_step_end(w.r);
    move(&w, 17);
    settle(&w);
    pr_residency_cap(w.r, 1, PR_PLANE_P4);
    assert_true(pr_residency_step_begin(w.r) != epoch);
    assert_int_equal(units[0].level[PR_VIEW_MAIN], PR_PLANE_P16);
    assert_int_equal(units[1].level[PR_VIEW_MAIN], PR_PLANE_P4);
    assert_true(units[1].level[PR_VIEW_DRAFT] <= PR_PLANE_P4);
    pr_residency_step_end(w.r);
    pr_residency_cap(w.r, 1, PR_PLANE_P16);
    pr_residency_step_begin(w.r);
    check_units(&w, 6);
    pr_residency_step_end(w.r);
    close_world(&w);
}

static void random_moves(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 8);
    rig_rng rng = {7};
    uint32_t asked = 8, draft = UINT32_MAX;
    for (int i = 0; i < (TEST_SANITIZED ? 200 : 2000); i++) {
        switch (rig_below(&rng, 6)) {
        case 0:
        case 1: move(&w, asked = rig_below(&rng, 18)); break;
        case 2: pr_residency_draft(w.r, draft = rig_below(&rng, 20)); break;
        case 3:
            settle(&w);
            assert_int_equal(state_of(&w).cursor, asked);
            break;
        default:
            pr_residency_step_begin(w.r);
            pr_residency_state s = state_of(&w);
            assert_true(s.cursor <= s.loaded && s.cursor <= 17 && s.target == asked);
            check_units(&w, draft);
            pr_residency_step_end(w.r);
        }
    }
    pr_residency_draft(w.r, UINT32_MAX);
    settle(&w);
    check_at_rest(&w, asked);
    close_world(&w);
}

/* ---- threads ------------------------------------------------------------------- */

typedef struct crowd {
    world *w;
    atomic_bool over;
} crowd;

static void *ask_for_cursors(void *arg) {
    crowd *c = arg;
    rig_rng rng = {3};
    while (!atomic_load(&c->over)) {
        pr_residency_move(c->w->r, rig_below(&rng, 18), NULL);
        if (rig_below(&rng, 3) == 0) pr_residency_settle(c->w->r, 0.002, NULL);
        usleep(rig_below(&rng, 500));
    }
    return NULL;
}

static void *look(void *arg) {
    crowd *c = arg;
    while (!atomic_load(&c->over)) {
        pr_residency_state s;
        pr_residency_state_get(c->w->r, &s);
        assert_true(s.cursor <= s.loaded);
        usleep(200);
    }
    return NULL;
}

static void many_threads(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 8);
    crowd c = {.w = &w};
    pthread_t threads[3];
    assert_int_equal(pthread_create(&threads[0], NULL, ask_for_cursors, &c), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, ask_for_cursors, &c), 0);
    assert_int_equal(pthread_create(&threads[2], NULL, look, &c), 0);
    for (double end = pr_now() + 1; pr_now() < end;) {
        pr_residency_step_begin(w.r);
        check_units(&w, UINT32_MAX);
        pr_residency_step_end(w.r);
    }
    atomic_store(&c.over, true);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    move(&w, 17);
    settle(&w);
    check_at_rest(&w, 17);
    close_world(&w);
}

/* ---- memory of the process ------------------------------------------------------- */

/* Two matrices, about 37 MB in all planes. */
static const planes_file large = {
    .n_tensors = 2, .tensors = {{1024, 8192, 4}, {2048, 4096, 4}}, .unit_tiles = 32, .seed = 5};

/* Bytes of a file in the page cache; -1 where that cannot be had or cannot be dropped. */
static long cached_bytes(const char *path) {
    struct statfs fs;
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstatfs(fd, &fs) != 0 || fs.f_type == 0x01021994 /* tmpfs */ || fstat(fd, &st) != 0) return -1;
    size_t pages = ((size_t)st.st_size + 4095) / 4096;
    unsigned char *in = malloc(pages);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    long n = p != MAP_FAILED && mincore(p, (size_t)st.st_size, in) == 0 ? 0 : -1;
    for (size_t i = 0; i < pages && n >= 0; i++) n += (in[i] & 1) * 4096;
    munmap(p, (size_t)st.st_size);
    free(in);
    close(fd);
    return n;
}

static void memory_really_comes_and_goes(void **state) {
    (void)state;
    enum { MB = 1 << 20, SLACK = 5 * MB }; /* two huge pages, and some */
    world w = load_world(&large, 0);
    uint32_t n = w.set->n_increments;
    size_t low = pr_residency_bytes_at(w.r, 0), high = pr_residency_bytes_at(w.r, n);
    assert_true(high - low > 28 * MB);
    uint64_t rss_low = pr_rss_bytes();
    move(&w, n);
    settle(&w);
    uint64_t rss_high = pr_rss_bytes();
    long cached = cached_bytes(w.path);
    move(&w, 0);
    settle(&w);
    uint64_t rss_end = pr_rss_bytes();
    print_message("RSS %.1f, %.1f, %.1f MB for %.1f, %.1f, %.1f of planes; drop %.4f s, raise %.3f s; cached %ld kB\n",
                  (double)rss_low / MB, (double)rss_high / MB, (double)rss_end / MB, (double)low / MB,
                  (double)high / MB, (double)low / MB, state_of(&w).drop_seconds, state_of(&w).raise_seconds,
                  cached / 1024);
    if (!TEST_SANITIZED) { /* their shadow memory stays */
        assert_true(rss_high > rss_low + (high - low) - SLACK && rss_high < rss_low + (high - low) + SLACK);
        assert_true(rss_end < rss_low + SLACK);
    }
    assert_true(cached <= 2 * MB);
    move(&w, n);
    settle(&w);
    check_at_rest(&w, n);
    close_world(&w);
}

/* ---- faults -------------------------------------------------------------------- */

static void a_disk_error_ends_a_raise(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 3);
    pr_err err = {0};
    pr_file_fault(-4);
    move(&w, 17);
    assert_int_equal(pr_residency_settle(w.r, WAIT, &err), PR_ERR_IO);
    pr_file_fault(0);
    const pr_increment *at = &w.set->increments[7];
    char name[80];
    snprintf(name, sizeof name, "'%s.%s'", w.set->tensors[w.set->units[at->unit].tensor].name,
             pr_plane_name(at->plane));
    assert_non_null(strstr(err.text, name));
    assert_non_null(strstr(err.text, w.path));
    assert_string_equal(state_of(&w).raise_err.text, err.text);
    assert_int_equal(pr_residency_settle(w.r, WAIT, &err), PR_ERR_IO); /* until something else is asked for */
    check_at_rest(&w, 7);
    move(&w, 5);
    settle(&w);
    assert_int_equal(state_of(&w).raise_err.status, PR_ERR_IO);
    move(&w, 17);
    settle(&w);
    assert_int_equal(state_of(&w).raise_err.status, PR_OK);
    check_at_rest(&w, 17);
    close_world(&w);
}

static void no_memory_ends_a_raise(void **state) {
    (void)state;
    world w = load_world(&planes_file_small, 3);
    pr_err err = {0};
    pr_mem_fail_after(2, true);
    move(&w, 17);
    assert_int_equal(pr_residency_settle(w.r, WAIT, &err), PR_ERR_NOMEM);
    move(&w, 0); /* giving back needs none */
    settle(&w);
    pr_mem_fail_after(-1, false);
    check_at_rest(&w, 0);
    move(&w, 17);
    settle(&w);
    check_at_rest(&w, 17);
    close_world(&w);
}

static void changed_files_end_a_raise(void **state) {
    (void)state;
    for (int how = 0; how < 3; how++) {
        world w = load_world(&planes_file_small, 3);
        const pr_increment *at = &w.set->increments[5];
        const pr_tensor_info *info = w.set->tensors[w.set->units[at->unit].tensor].data[at->plane];
        uint64_t place = info->offset + pr_plane_unit_offset(w.set, at->unit, at->plane);
        struct stat st;
        uint8_t byte = 0;
        pr_err err = {0};
        int fd = open(w.path, O_RDWR);
        assert_true(fd >= 0 && fstat(fd, &st) == 0 && pread(fd, &byte, 1, (off_t)place) == 1);
        byte ^= 0x80;
        if (how == 2) assert_int_equal(ftruncate(fd, st.st_size - 1), 0);
        else assert_int_equal(pwrite(fd, &byte, 1, (off_t)place), 1);
        const struct timespec times[2] = {st.st_atim, st.st_mtim}, later[2] = {st.st_atim, {st.st_mtim.tv_sec + 1, 0}};
        futimens(fd, how == 0 ? times : later);
        close(fd);
        move(&w, 17);
        assert_int_equal(pr_residency_settle(w.r, WAIT, &err), PR_ERR_FORMAT);
        assert_non_null(strstr(err.text, how == 0 ? "is damaged" : "has changed since it was opened"));
        check_at_rest(&w, how == 0 ? 5 : 3);
        close_world(&w);
    }
}

static void a_failed_load_leaves_nothing(void **state) {
    (void)state;
    for (int n = 1; n <= 21; n += 5) {
        world w = open_world(&planes_file_small);
        pr_err err = {0};
        pr_file_fault(-n);
        assert_int_equal(pr_residency_load(w.r, 17, w.team, NULL, NULL, &err), PR_ERR_IO);
        pr_file_fault(0);
        assert_non_null(strstr(err.text, w.path));
        close_world(&w);
    }
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf");
    planes_file_write(&planes_file_small, path);
    pr_team *team;
    assert_int_equal(pr_team_open(2, 0, &team, NULL), PR_OK);
    bool through = false;
    for (int64_t n = 0; !through; n++) {
        pr_err err = {0};
        pr_model_file *f = NULL;
        pr_residency *r = NULL;
        size_t held = pr_mem_total();
        pr_mem_fail_after(n, n % 2);
        pr_status status = pr_model_file_open(path, &f, &err);
        if (!status) status = pr_residency_open(f, &r, &err);
        if (!status) status = pr_residency_load(r, 4, team, NULL, NULL, &err);
        if (!status) status = pr_residency_move(r, 15, &err);
        if (!status) status = pr_residency_settle(r, WAIT, &err);
        if (!status) status = pr_residency_move(r, 1, &err);
        if (!status) status = pr_residency_settle(r, WAIT, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        pr_residency_close(r);
        pr_model_file_close(f);
        assert_int_equal(status, through ? PR_OK : PR_ERR_NOMEM);
        assert_int_equal(pr_mem_total(), held);
        assert_true(n < 200);
    }
    pr_team_close(team);
}

/* Reads of a few bytes a call take long enough to be met in the middle. */
static void raises_can_be_interrupted(void **state) {
    (void)state;
    world w = load_world(&large, 0);
    pr_err err = {0};
    pr_file_fault(512);
    move(&w, w.set->n_increments);
    assert_int_equal(pr_residency_settle(w.r, 0.001, &err), PR_ERR_LIMIT);
    move(&w, 1);
    settle(&w);
    check_at_rest(&w, 1);
    move(&w, w.set->n_increments);
    pr_residency_close(w.r); /* in the middle of it */
    pr_file_fault(0);
    w.r = NULL;
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cursor_from_any_other),
        cmocka_unit_test(loads_any_beginning),
        cmocka_unit_test(estimates_are_what_is_committed),
        cmocka_unit_test(wrong_requests_are_refused),
        cmocka_unit_test(a_step_keeps_what_it_began_with),
        cmocka_unit_test(busy_stepping_does_not_starve_moves),
        cmocka_unit_test(drafts_and_caps),
        cmocka_unit_test(random_moves),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(memory_really_comes_and_goes),
        cmocka_unit_test(a_disk_error_ends_a_raise),
        cmocka_unit_test(no_memory_ends_a_raise),
        cmocka_unit_test(changed_files_end_a_raise),
        cmocka_unit_test(a_failed_load_leaves_nothing),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(raises_can_be_interrupted),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
