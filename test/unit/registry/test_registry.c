/*
 * The registry: one load however many ask, room made in the right order, nobody's model closed under him.
 */
#include "registry/registry.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "support/elastic.h"

enum { THREADS = 6, HAMMER_ROUNDS = 60 };

static const llama_gguf small = {.dim = 32, .n_layers = 1, .n_heads = 2, .n_kv_heads = 1, .n_ff = 64, .context = 64};

static char folder[512];

typedef struct counts {
    pr_registry *r;
    atomic_int loaded, evicted, idle, cleared, opened, closing, resolved;
    uint32_t waiting;
    char last[64]; /* evicted */
} counts;

static void nap(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

/* A name is a file in the folder; "other-" before it, the same file by another path. */
static pr_status resolve(void *arg, const char *name, char **path, pr_err *err) {
    char text[sizeof folder + 64];
    counts *c = arg;
    c->resolved++;
    bool other = strncmp(name, "other-", 6) == 0;
    if (strcmp(name, "none") == 0) return pr_fail(err, PR_ERR_NOTFOUND, "no model \"none\"");
    snprintf(text, sizeof text, "%s%s/%.40s", folder, other ? "/." : "", name + (other ? 6 : 0));
    *path = pr_strdup(PR_TAG_MISC, text);
    return *path ? PR_OK : pr_fail_nomem(err, "path", strlen(text));
}

/* Calling back into the registry must be possible. */
static void event(void *arg, const char *model, const char *what, double seconds, size_t bytes) {
    counts *c = arg;
    assert_true(seconds >= 0 && bytes > 0);
    (void)pr_registry_bytes(c->r);
    c->loaded += strcmp(what, "loaded") == 0;
    c->evicted += strcmp(what, "evicted") == 0;
    c->idle += strcmp(what, "idle") == 0;
    c->cleared += strcmp(what, "cleared") == 0;
    if (strcmp(what, "evicted") == 0) snprintf(c->last, sizeof c->last, "%.40s", model);
}

static uint32_t waiting(void *arg, const pr_model *model) {
    const counts *c = arg;
    assert_true(pr_model_named(model, pr_model_name(model)));
    return c->waiting;
}

static void opened(void *arg, const pr_model *model) {
    counts *c = arg;
    c->opened++;
    assert_true(pr_model_engine(model) && !pr_registry_is_ready(c->r, pr_model_name(model)));
}

static void closing(void *arg, const pr_model *model, const char *why) {
    assert_true(why && *why);
    counts *c = arg;
    c->closing++;
    assert_true(pr_model_named(model, pr_model_name(model)) && pr_model_engine(model));
    (void)pr_registry_list(c->r, NULL, 0);
}

static pr_registry_opts options(counts *c, size_t bytes_max) {
    return (pr_registry_opts){.engine = {.n_threads = 1, .context_max = 64, .batch_max = 16},
                              .bytes_max = bytes_max,
                              .resolve = resolve,
                              .resolve_arg = c,
                              .event = event,
                              .event_arg = c};
}

static pr_registry *open_with(counts *c, const pr_registry_opts *opts) {
    pr_err err = {0};
    *c = (counts){0};
    assert_int_equal(pr_registry_open(opts, &c->r, &err), PR_OK);
    pr_registry_watched_by(c->r, &(pr_registry_watch){waiting, opened, closing, c});
    return c->r;
}

static pr_registry *open_registry(counts *c, size_t bytes_max) {
    pr_registry_opts o = options(c, bytes_max);
    return open_with(c, &o);
}

static pr_model *take(pr_registry *r, const char *name) {
    pr_err err = {0};
    pr_model *m = NULL;
    if (pr_registry_acquire(r, name, NULL, &m, &err)) fail_msg("%s: %s", name, err.text);
    assert_non_null(pr_model_engine(m));
    return m;
}

static bool resident(pr_registry *r, const char *name) { return pr_registry_is_ready(r, name); }

/* What one small model counts. */
static size_t one_model(void) {
    counts c;
    pr_registry *r = open_registry(&c, 1 << 30);
    pr_registry_release(take(r, "a.gguf"));
    size_t bytes = pr_registry_bytes(r);
    pr_registry_close(r);
    return bytes;
}

static int setup(void **state) {
    if (rig_setup(state)) return -1;
    snprintf(folder, sizeof folder, "%s", rig_path("."));
    for (const char *name = "abcd"; *name; name++) rig_model(&small, (char[]){*name, '.', 'g', 'g', 'u', 'f', 0});
    llama_gguf big = small;
    big.n_layers = 2;
    big.dim = 128;
    big.n_ff = 256;
    big.type = PR_F16;
    elastic_model(&big, "e.gguf");
    return 0;
}

/* ---- threads that ask -------------------------------------------------------- */

typedef struct asker {
    pthread_t thread;
    pr_registry *r;
    const char *name;
    atomic_int cancel, done;
    pr_status status;
    pr_err err;
    pr_model *model;
} asker;

static void *ask(void *arg) {
    asker *a = arg;
    a->status = pr_registry_acquire(a->r, a->name, &a->cancel, &a->model, &a->err);
    a->done = 1;
    return NULL;
}

static void begin(asker *a, pr_registry *r, const char *name) {
    *a = (asker){.r = r, .name = name};
    assert_int_equal(pthread_create(&a->thread, NULL, ask, a), 0);
}

static pr_status end(asker *a) {
    pthread_join(a->thread, NULL);
    return a->status;
}

/* ---- tests ------------------------------------------------------------------- */

static void one_load_for_all(void **state) {
    (void)state;
    counts c;
    size_t held = pr_mem_total();
    pr_registry *r = open_registry(&c, 0);
    asker askers[THREADS];
    for (int i = 0; i < THREADS; i++) begin(&askers[i], r, i % 2 ? "a.gguf" : "other-a.gguf");
    for (int i = 0; i < THREADS; i++) assert_int_equal(end(&askers[i]), PR_OK);
    for (int i = 1; i < THREADS; i++) assert_ptr_equal(askers[i].model, askers[0].model);
    assert_int_equal(c.loaded, 1);
    pr_model_info info;
    assert_int_equal(pr_registry_list(r, &info, 1), 1);
    assert_int_equal(info.n_held, THREADS);
    assert_int_equal(info.access_count, THREADS);
    assert_int_equal(info.state, PR_MODEL_READY);
    assert_int_equal(info.bytes, pr_registry_bytes(r));
    assert_true(info.engine.n_vocab == 309 && !info.engine.path);
    for (int i = 0; i < THREADS; i++) pr_registry_release(askers[i].model);
    /* Both names are known by now, without the resolver. */
    int resolved = c.resolved;
    pr_model *m = NULL;
    assert_true(pr_registry_acquire_ready(r, "other-a.gguf", &m) && pr_model_named(m, "a.gguf"));
    pr_registry_release(m);
    assert_true(resident(r, "a.gguf") && !resident(r, "b.gguf"));
    assert_int_equal(c.resolved, resolved);
    pr_registry_close(r);
    assert_int_equal(pr_mem_total(), held);
}

static void the_least_recently_used_goes(void **state) {
    (void)state;
    counts c;
    size_t one = one_model();
    pr_registry *r = open_registry(&c, one * 5 / 2);
    pr_registry_release(take(r, "a.gguf"));
    nap(2);
    pr_registry_release(take(r, "b.gguf"));
    nap(2);
    pr_registry_release(take(r, "a.gguf"));
    nap(2);
    pr_registry_release(take(r, "c.gguf"));
    assert_true(resident(r, "a.gguf") && !resident(r, "b.gguf") && resident(r, "c.gguf"));
    assert_string_equal(c.last, "b.gguf");
    nap(2);
    assert_true(pr_registry_pin(r, "a.gguf", true)); /* the oldest by now */
    assert_false(pr_registry_pin(r, "b.gguf", true));
    pr_registry_release(take(r, "d.gguf"));
    assert_true(resident(r, "a.gguf") && !resident(r, "c.gguf") && resident(r, "d.gguf"));
    assert_true(pr_registry_bytes(r) <= pr_registry_bytes_max(r));
    pr_model_info list[4];
    assert_int_equal(pr_registry_list(r, list, 4), 2);
    assert_string_equal(list[0].name, "d.gguf");
    assert_string_equal(list[1].name, "a.gguf");
    assert_true(list[1].pinned && !list[0].pinned);
    assert_int_equal(c.closing, 2);
    pr_registry_close(r);
}

static void idle_ones_are_swept(void **state) {
    (void)state;
    counts c;
    pr_registry_opts o = options(&c, 1 << 30);
    o.keep_alive_seconds = 0.2;
    pr_registry *r = open_with(&c, &o);
    pr_registry_release(take(r, "a.gguf"));
    pr_model *b = take(r, "b.gguf");
    pr_registry_release(take(r, "c.gguf"));
    assert_true(pr_registry_pin(r, "c.gguf", true));
    pr_registry_release(take(r, "a.gguf")); /* loading the others took its time */
    assert_int_equal(pr_registry_sweep(r, false), 0);
    nap(300);
    for (int i = 0; i < 10; i++) (void)resident(r, "a.gguf"); /* looking is no use */
    assert_int_equal(pr_registry_sweep(r, false), 1);
    assert_true(!resident(r, "a.gguf") && resident(r, "b.gguf") && resident(r, "c.gguf"));
    assert_int_equal(pr_registry_sweep(r, true), 1); /* pinned or not */
    assert_true(resident(r, "b.gguf"));
    pr_registry_release(b);
    assert_int_equal(pr_registry_sweep(r, true), 1);
    assert_int_equal(pr_registry_list(r, NULL, 0), 0);
    assert_int_equal(pr_registry_bytes(r), 0);
    assert_int_equal(c.idle, 1);
    assert_int_equal(c.cleared, 2);
    pr_registry_close(r);
}

static void a_third_waits_for_streams(void **state) {
    (void)state;
    counts c;
    size_t one = one_model();
    pr_registry *r = open_registry(&c, one * 5 / 2);
    pr_model *a = take(r, "a.gguf"), *b = take(r, "b.gguf"), *none = NULL;
    asker third, late;
    begin(&third, r, "c.gguf");
    nap(150);
    assert_false(third.done);
    assert_false(pr_registry_acquire_ready(r, "a.gguf", &none)); /* draining: takes no new holders */
    assert_true(resident(r, "b.gguf"));                          /* one is enough */
    pr_registry_release(a);
    assert_int_equal(end(&third), PR_OK);
    assert_string_equal(c.last, "a.gguf");
    assert_true(resident(r, "b.gguf"));
    begin(&late, r, "a.gguf");
    nap(150);
    assert_false(late.done || resident(r, "b.gguf")); /* there is no room for it; b drains */
    pr_registry_release(b);
    assert_int_equal(end(&late), PR_OK);
    pr_registry_release(third.model);
    pr_registry_release(late.model);
    assert_true(pr_registry_bytes(r) <= pr_registry_bytes_max(r));
    pr_registry_close(r);
}

static void giving_up_is_ones_own(void **state) {
    (void)state;
    counts c;
    size_t one = one_model();
    pr_registry *r = open_registry(&c, one * 3 / 2);
    pr_model *a = take(r, "a.gguf"), *again = NULL;
    asker first, second;
    begin(&first, r, "b.gguf");
    nap(50);
    begin(&second, r, "b.gguf"); /* waits for the first one's load */
    nap(50);
    first.cancel = 1;
    assert_int_equal(end(&first), PR_ERR_CANCELLED);
    nap(150);
    assert_false(second.done);
    second.cancel = 1;
    assert_int_equal(end(&second), PR_ERR_CANCELLED);
    assert_true(pr_registry_acquire_ready(r, "a.gguf", &again)); /* nobody wants its room any more */
    pr_registry_release(again);
    begin(&first, r, "b.gguf");
    nap(50);
    assert_true(pr_registry_pin(r, "a.gguf", true)); /* a pinned one does not drain */
    assert_true(resident(r, "a.gguf"));
    assert_true(pr_registry_pin(r, "a.gguf", false));
    pr_registry_release(a);
    assert_int_equal(end(&first), PR_OK);
    pr_registry_release(first.model);
    pr_registry_close(r);
}

static void failures_are_told_to_all_and_not_kept(void **state) {
    (void)state;
    counts c;
    pr_registry *r = open_registry(&c, 0);
    asker askers[THREADS];
    pr_model *m = NULL;
    pr_err err = {0};
    for (int i = 0; i < THREADS; i++) begin(&askers[i], r, "later.gguf");
    for (int i = 0; i < THREADS; i++) {
        assert_true(end(&askers[i]) == PR_ERR_NOTFOUND || askers[i].status == PR_ERR_IO);
        assert_non_null(strstr(askers[i].err.text, "later.gguf"));
        assert_null(askers[i].model);
    }
    assert_int_equal(pr_registry_list(r, NULL, 0), 0);
    rig_model(&small, "later.gguf");
    pr_registry_release(take(r, "later.gguf"));
    assert_int_equal(pr_registry_acquire(r, "none", NULL, &m, &err), PR_ERR_NOTFOUND);
    pr_registry_close(r);
}

static void elastic_ones_begin_where_there_is_room(void **state) {
    (void)state;
    counts c;
    pr_model_info info;
    pr_model *m = NULL;
    pr_err err = {0};
    pr_registry *r = open_registry(&c, 1 << 30);
    pr_registry_release(take(r, "e.gguf"));
    pr_registry_list(r, &info, 1);
    assert_true(info.elastic.elastic && info.elastic.cursor == info.elastic.n_increments);
    size_t fixed = info.bytes - info.elastic.bytes;
    const pr_elastic_info full = info.elastic;
    pr_registry_close(r);
    for (int level = PR_LEVEL_INT2; level < (int)full.top; level++) {
        r = open_registry(&c, fixed + full.level_bytes[level]);
        pr_registry_release(take(r, "e.gguf"));
        pr_registry_list(r, &info, 1);
        assert_int_equal(info.elastic.level, level);
        assert_true(info.bytes <= pr_registry_bytes_max(r));
        pr_registry_close(r);
    }
    r = open_registry(&c, fixed + full.bytes_min - 1);
    assert_int_equal(pr_registry_acquire(r, "e.gguf", NULL, &m, &err), PR_ERR_LIMIT);
    assert_non_null(strstr(err.text, "MAX_MODEL_CACHE_MB"));
    pr_registry_set_bytes_max(r, fixed + full.bytes_max);
    pr_registry_release(take(r, "e.gguf"));
    pr_registry_close(r);
}

/* With a policy: not at the top only to be lowered at once. */
static void elastic_ones_begin_as_the_policy_says(void **state) {
    (void)state;
    const struct {
        const char *used;
        uint32_t waiting;
        pr_level level;
    } cases[] = {{"0.35", 1, PR_LEVEL_FP16}, {"0.48", 1, PR_LEVEL_INT8}, {"0.68", 1, PR_LEVEL_INT4},
                 {"0.97", 1, PR_LEVEL_INT2}, {"0.35", 3, PR_LEVEL_INT8}, {"0.35", 8, PR_LEVEL_INT4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pr_gov_settings set;
        pr_monitor *monitor = NULL;
        pr_model_info info;
        pr_err err = {0};
        counts c;
        const char *source = rig_path("memory");
        FILE *f = fopen(source, "w");
        assert_true(f && fputs(cases[i].used, f) >= 0 && fclose(f) == 0);
        const pr_monitor_opts how = {.limit_bytes = 4 << 20, .memory_source = source};
        assert_int_equal(pr_monitor_open(&how, &monitor, &err), PR_OK);
        pr_gov_defaults(&set);
        pr_registry_opts o = options(&c, 1 << 30);
        o.monitor = monitor;
        o.gov = &set;
        o.engine.batch_max = 1; /* little scratch beside the limit */
        pr_registry *r = open_with(&c, &o);
        c.waiting = cases[i].waiting;
        pr_registry_release(take(r, "e.gguf"));
        assert_int_equal(c.opened, 1);
        pr_registry_list(r, &info, 1);
        assert_int_equal(info.elastic.level, cases[i].level);
        pr_registry_close(r);
        pr_monitor_close(monitor);
    }
}

/* Rather a refusal than a process that is killed. */
static void a_full_machine_refuses(void **state) {
    (void)state;
    counts c;
    pr_monitor *monitor = NULL;
    pr_model *m = NULL;
    pr_err err = {0};
    assert_int_equal(pr_monitor_open(&(pr_monitor_opts){.limit_bytes = 1 << 20}, &monitor, &err), PR_OK);
    pr_registry_opts o = options(&c, 1 << 30);
    o.monitor = monitor;
    pr_registry *r = open_with(&c, &o);
    assert_int_equal(pr_registry_acquire(r, "a.gguf", NULL, &m, &err), PR_ERR_LIMIT);
    assert_non_null(strstr(err.text, "memory"));
    assert_int_equal(pr_registry_acquire(r, "e.gguf", NULL, &m, &err), PR_ERR_LIMIT);
    assert_int_equal(pr_registry_list(r, NULL, 0), 0);
    pr_registry_close(r);
    pr_monitor_close(monitor);
}

static void every_allocation_fails_once(void **state) {
    (void)state;
    size_t held = pr_mem_total();
    bool through = false;
    for (int64_t n = 0; !through; n++) {
        counts c = {0};
        pr_registry_opts o = options(&c, 1 << 30);
        pr_model *m = NULL;
        pr_err err = {0};
        pr_mem_fail_after(n, n % 2);
        pr_status st = pr_registry_open(&o, &c.r, &err);
        if (!st) st = pr_registry_acquire(c.r, n % 3 ? "a.gguf" : "e.gguf", NULL, &m, &err);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_true(st == PR_OK || st == PR_ERR_NOMEM);
        assert_true(!through || st == PR_OK);
        pr_registry_release(m);
        pr_registry_close(c.r);
        if (pr_mem_total() != held) fail_msg("request %d refused: bytes lost", (int)n);
    }
}

/* ---- everything at once ------------------------------------------------------ */

static void *hammer(void *arg) {
    asker *a = arg;
    rig_rng rng = {(uint64_t)(uintptr_t)a->name};
    for (int i = 0; i < HAMMER_ROUNDS; i++) {
        const char *names[] = {"a.gguf", "b.gguf", "other-a.gguf", "c.gguf", "none", "e.gguf"};
        const char *name = names[rig_below(&rng, 6)];
        pr_model *m = NULL;
        pr_err err = {0};
        pr_status st = pr_registry_acquire(a->r, name, &a->cancel, &m, &err);
        if (st != (strcmp(name, "none") == 0 ? PR_ERR_NOTFOUND : PR_OK)) a->status = st;
        if (m && !pr_model_engine(m)) a->status = PR_ERR_ARG;
        if (rig_below(&rng, 3) == 0) nap(1);
        pr_registry_release(m);
        if (rig_below(&rng, 8) == 0) pr_registry_sweep(a->r, rig_below(&rng, 2));
    }
    a->done = 1;
    return NULL;
}

static void many_at_once(void **state) {
    (void)state;
    counts c;
    size_t one = one_model(), held = pr_mem_total();
    pr_registry *r = open_registry(&c, one * 9 / 2); /* two or three of the four */
    asker askers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        askers[i] = (asker){.r = r, .name = (const char *)(uintptr_t)(i + 1)};
        assert_int_equal(pthread_create(&askers[i].thread, NULL, hammer, &askers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) assert_int_equal(end(&askers[i]), PR_OK);
    assert_true(pr_registry_bytes(r) <= pr_registry_bytes_max(r));
    assert_true(c.closing >= c.evicted + c.cleared);
    pr_registry_close(r);
    assert_int_equal(pr_mem_total(), held);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_load_for_all),
        cmocka_unit_test(the_least_recently_used_goes),
        cmocka_unit_test(idle_ones_are_swept),
        cmocka_unit_test(a_third_waits_for_streams),
        cmocka_unit_test(giving_up_is_ones_own),
        cmocka_unit_test(failures_are_told_to_all_and_not_kept),
        cmocka_unit_test(elastic_ones_begin_where_there_is_room),
        cmocka_unit_test(elastic_ones_begin_as_the_policy_says),
        cmocka_unit_test(a_full_machine_refuses),
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(many_at_once),
    };
    return cmocka_run_group_tests(tests, setup, rig_teardown);
}
