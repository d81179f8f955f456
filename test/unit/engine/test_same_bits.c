/*
 * The same numbers in any company: a row's logits depend on the tokens before it and on nothing else.
 *
 * Each model is asked once in the plainest way (one thread, each token list alone and in one step), and then in every
 * other: token by token, in chunks, in batches, with other sessions coming and going, on more threads, with passes
 * switched off, on each instruction set, after forks and truncations. Rows are compared by memcmp.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "graph/passes.h"
#include "kernels/kernels.h"
#include "support/rig.h"
#include "support/vocab_gguf.h"

enum { STREAMS = 8, BATCH = 160, STREAM_MAX = 1200 };

typedef struct stream {
    int32_t tokens[STREAM_MAX];
    uint32_t n;
    float *want; /* [n][n_vocab] */
} stream;

typedef struct variant {
    const char *name;
    llama_gguf model;
    pr_kv_types kv;
    bool exact;
} variant;

/* Nothing here is a multiple of what kernels like, in one model or another. */
#define KV(k, v)                                                                                                       \
    { PR_KV_##k, PR_KV_##v }
static const variant variants[] = {
    {"f32, odd sizes", {.n_ff = 92, .n_vocab = 301, .head_dim = 18}, KV(F16, F16), false},
    {"f16 with biases", {.type = PR_F16, .bias = true, .ff_bias = true}, KV(F16, F16), false},
    {"bf16, tied, 8-bit KV", {.type = PR_BF16, .tied = true, .n_kv_heads = 4}, KV(Q8, Q8), false},
    {"q8_0, window", {.type = PR_Q8_0, .window = 37, .n_vocab = 311}, KV(F16, F16), false},
    {"q8_0, one KV head, 8- and 4-bit KV",
     {.type = PR_Q8_0, .n_heads = 8, .n_kv_heads = 1, .tied = true},
     KV(Q8, Q4),
     false},
    {"q4_1, v in q8_0",
     {.type = PR_Q4_1, .other = "attn_v", .other_type = PR_Q8_0, .rope_divisors = true},
     KV(F16, F16),
     false},
    {"q4_0, v and down in f16, 4-bit KV",
     {.type = PR_Q4_0, .other = "n_", .other_type = PR_F16, .bias = true},
     KV(Q4, Q4),
     false},
    {"q4_1, exact", {.type = PR_Q4_1, .bias = true}, KV(F16, F16), true},
    {"q8_0, exact, 8-bit KV", {.type = PR_Q8_0, .n_ff = 100}, KV(Q8, Q8), true},
    {"f32, odd sizes, 4-bit KV", {.n_ff = 92, .n_vocab = 301, .head_dim = 18}, KV(Q4, Q4), false},
    {"q4_1, exact, 4-bit keys", {.type = PR_Q4_1, .head_dim = 34}, KV(Q4, F16), true},
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

/* Written as m.gguf; two layers are the least that have both a first and a last one. */
static const char *model_of(const variant *v, uint32_t n_layers) {
    llama_gguf m = v->model;
    m.n_layers = n_layers;
    return rig_model(&m, "m.gguf");
}

static pr_engine_opts plain_opts(const variant *v) {
    return (pr_engine_opts){.n_threads = 1,
                            .batch_max = BATCH,
                            .logits_max = BATCH,
                            .kv_bytes_max = 16 << 20,
                            .kv_type = v->kv,
                            .exact = v->exact};
}

/* ---- what is right ------------------------------------------------------- */

static stream *streams_open(pr_engine *engine, uint64_t seed, uint32_t n_streams, uint32_t n_min, uint32_t n_max) {
    rig_rng rng = {seed};
    uint32_t n_vocab = rig_vocab(engine);
    stream *s = pr_calloc(PR_TAG_MISC, STREAMS, sizeof *s);
    assert_non_null(s);
    for (uint32_t i = 0; i < n_streams; i++) {
        s[i].n = n_min + rig_below(&rng, n_max - n_min + 1);
        rig_tokens(&rng, s[i].tokens, s[i].n, n_vocab);
        s[i].want = rig_logits(engine, s[i].tokens, s[i].n);
        /* Rows that are all alike would be equal in any company. */
        for (uint32_t r = 0; r < s[i].n; r++) {
            const float *row = s[i].want + (size_t)r * n_vocab;
            for (uint32_t k = 0; k < n_vocab; k++) assert_true(isfinite(row[k]));
            if (r) assert_memory_not_equal(row, row - n_vocab, n_vocab * sizeof *row);
        }
    }
    return s;
}

static void streams_close(stream *s) {
    for (size_t i = 0; i < STREAMS; i++) pr_free(s[i].want);
    pr_free(s);
}

/* ---- other ways ------------------------------------------------------------- */

typedef enum way { BY_TOKEN, IN_CHUNKS } way;

typedef struct player {
    pr_engine *engine;
    const stream *streams;
    uint32_t n_streams;
    way how;
    uint32_t chunk_max;
    rig_rng rng;
    const char *label;
    pr_session *sessions[STREAMS];
    uint32_t n_vocab;
} player;

/* The runs of a step: some of the sessions that have something left, in any order, each some tokens further. */
static size_t choose_runs(player *p, pr_run *runs, uint32_t *who) {
    uint32_t room = BATCH, order[STREAMS];
    size_t n = 0;
    for (uint32_t i = 0; i < p->n_streams; i++) {
        uint32_t k = rig_below(&p->rng, i + 1);
        order[i] = order[k];
        order[k] = i;
    }
    for (uint32_t i = 0; i < p->n_streams; i++) {
        const stream *s = &p->streams[order[i]];
        uint32_t at = pr_session_length(p->sessions[order[i]]), left = s->n - at;
        if (left == 0 || (n > 0 && rig_below(&p->rng, 3) == 0)) continue;
        uint32_t most = p->how == BY_TOKEN ? 1 : p->chunk_max;
        uint32_t len = 1 + rig_below(&p->rng, rig_below(&p->rng, 2) ? most : 1);
        if (len > left) len = left;
        if (len > room) break;
        room -= len;
        who[n] = order[i];
        runs[n++] = (pr_run){p->sessions[order[i]], s->tokens + at, len, len - rig_below(&p->rng, len + 1)};
    }
    return n;
}

static void check_rows(const player *p, const pr_run *runs, const uint32_t *who, size_t n_runs) {
    size_t row = 0;
    for (size_t r = 0; r < n_runs; r++) {
        const stream *s = &p->streams[who[r]];
        uint32_t end = pr_session_length(runs[r].session);
        assert_memory_equal(pr_session_tokens(runs[r].session), s->tokens, end * sizeof *s->tokens);
        for (uint32_t i = runs[r].n_logits; i > 0; i--, row++) {
            const float *want = s->want + (size_t)(end - i) * p->n_vocab, *got = pr_engine_logits(p->engine, row);
            assert_non_null(got);
            if (memcmp(want, got, p->n_vocab * sizeof *got) != 0)
                fail_msg("%s: row %u of stream %u differs, in a step of %zu runs", p->label, end - i, who[r], n_runs);
        }
    }
    assert_null(pr_engine_logits(p->engine, row));
}

static void play(pr_engine *engine, const stream *streams, uint32_t n_streams, way how, uint64_t seed,
                 const char *label) {
    player p = {engine, streams, n_streams, how, 30, {seed}, label, {0}, rig_vocab(engine)};
    pr_err err = {0};
    if (streams[0].n > 300) p.chunk_max = BATCH;
    for (uint32_t i = 0; i < n_streams; i++) p.sessions[i] = rig_session(engine);
    for (;;) {
        pr_run runs[STREAMS];
        uint32_t who[STREAMS];
        size_t n = choose_runs(&p, runs, who);
        if (n == 0) break;
        if (pr_engine_step(engine, runs, n, &err)) fail_msg("%s: %s", label, err.text);
        check_rows(&p, runs, who, n);
    }
    for (uint32_t i = 0; i < n_streams; i++) {
        assert_int_equal(pr_session_length(p.sessions[i]), streams[i].n);
        pr_session_close(p.sessions[i]);
    }
}

static void chunks_and_batches(void **state) {
    (void)state;
    for (size_t v = 0; v < N_VARIANTS; v++) {
        pr_engine_opts opts = plain_opts(&variants[v]);
        pr_engine *e = rig_open(model_of(&variants[v], 3), &opts);
        stream *s = streams_open(e, v, STREAMS, 33, 68);
        play(e, s, 1, BY_TOKEN, v, variants[v].name);
        for (uint32_t n = 1; n <= STREAMS; n++) play(e, s, n, IN_CHUNKS, v * 10 + n, variants[v].name);
        streams_close(s);
        pr_engine_close(e);
    }
}

/* Another engine on the same file against what the plain one says. */
static void other_engine(const variant *v, const char *path, const stream *s, pr_engine_opts opts, const char *what) {
    char label[128];
    snprintf(label, sizeof label, "%s, %s", v->name, what);
    opts.kv_type = v->kv;
    opts.exact = v->exact;
    pr_engine *e = rig_open(path, &opts);
    play(e, s, 1, BY_TOKEN, 1, label);
    play(e, s, 4, IN_CHUNKS, 2, label);
    pr_engine_close(e);
}

static void any_number_of_threads(void **state) {
    (void)state;
    const int threads[] = {2, 3, 8};
    for (size_t v = 0; v < N_VARIANTS; v += 2) {
        pr_engine_opts opts = plain_opts(&variants[v]);
        const char *path = model_of(&variants[v], 2);
        pr_engine *e = rig_open(path, &opts);
        stream *s = streams_open(e, v, 4, 33, 50);
        pr_engine_close(e);
        for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
            char what[32];
            snprintf(what, sizeof what, "%d threads", threads[t]);
            opts.n_threads = threads[t];
            other_engine(&variants[v], path, s, opts, what);
        }
        streams_close(s);
    }
}

static void any_pass_off(void **state) {
    (void)state;
    for (size_t v = 0; v < N_VARIANTS; v++) {
        pr_engine_opts opts = plain_opts(&variants[v]);
        const char *path = model_of(&variants[v], 2);
        pr_engine *e = rig_open(path, &opts);
        stream *s = streams_open(e, v, 4, 33, 40);
        pr_engine_close(e);
        for (uint32_t mask = 1; mask <= 256; mask <<= 1) {
            char what[32];
            opts.passes_off = mask == 256 ? 255 : mask;
            snprintf(what, sizeof what, "passes off %u", opts.passes_off);
            other_engine(&variants[v], path, s, opts, what);
        }
        rig_rng rng = {v};
        opts.passes_off = rig_below(&rng, 256);
        other_engine(&variants[v], path, s, opts, "some passes off");
        streams_close(s);
    }
}

static void any_instruction_set(void **state) {
    (void)state;
    enum { SCALAR_ONLY = 1 << 30 }; /* allows nothing that there is */
    static const struct {
        uint32_t mask;
        const char *name;
    } sets[] = {{SCALAR_ONLY, "scalar"}, {PR_CPU_AVX2, "avx2"}, {PR_CPU_AVXVNNI, "avxvnni"}};
    if (pr_cpu_detect() == 0) {
        print_message("SKIPPED only the scalar kernels run here\n");
        skip();
    }
    for (size_t v = 0; v < N_VARIANTS; v++) {
        pr_engine_opts opts = plain_opts(&variants[v]);
        const char *path = model_of(&variants[v], 2);
        pr_engine *e = rig_open(path, &opts);
        stream *s = streams_open(e, v, 4, 33, 40);
        pr_engine_close(e);
        for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
            pr_engine_info info;
            if (i > 0 && (pr_cpu_detect() & sets[i].mask) == 0) continue;
            opts.cpumask = sets[i].mask;
            e = rig_open(path, &opts);
            pr_engine_describe(e, &info);
            assert_string_equal(info.isa, sets[i].name);
            pr_engine_close(e);
            other_engine(&variants[v], path, s, opts, sets[i].name);
        }
        streams_close(s);
    }
}

/* ---- long contexts ------------------------------------------------------------- */

/* Attention takes long contexts in spans, and few rows against them in a split of its own. */
static void long_contexts(void **state) {
    (void)state;
    static const variant longer[] = {
        {"long",
         {.dim = 32, .n_layers = 1, .n_heads = 2, .n_kv_heads = 1, .n_ff = 32, .type = PR_Q8_0},
         KV(F16, F16),
         false},
        {"long, window 40",
         {.dim = 32, .n_layers = 1, .n_heads = 2, .n_kv_heads = 2, .n_ff = 32, .window = 40},
         KV(F16, F16),
         false},
        {"long, window 600",
         {.dim = 32, .n_layers = 1, .n_heads = 2, .n_kv_heads = 1, .n_ff = 32, .window = 600},
         KV(Q4, Q8),
         false},
    };
    for (size_t v = 0; v < sizeof longer / sizeof *longer; v++) {
        llama_gguf m = longer[v].model;
        m.context = 1300;
        pr_engine_opts opts = plain_opts(&longer[v]);
        opts.batch_max = opts.logits_max = STREAM_MAX;
        const char *path = rig_model(&m, "m.gguf");
        pr_engine *e = rig_open(path, &opts);
        stream *s = streams_open(e, v, 2, 1030, 1100);
        play(e, s, 2, IN_CHUNKS, v, longer[v].name);
        pr_engine_close(e);
        opts.n_threads = 3;
        opts.batch_max = opts.logits_max = BATCH;
        e = rig_open(path, &opts);
        play(e, s, 2, IN_CHUNKS, v, longer[v].name);
        play(e, s, 2, BY_TOKEN, v, longer[v].name);
        pr_engine_close(e);
        streams_close(s);
    }
}

/* ---- forks and truncations -------------------------------------------------------- */

enum { LIVES = 7, CONTEXT = 128, VOCAB_MAX = 320 };

typedef struct life {
    pr_session *session; /* NULL: none */
    int32_t tokens[CONTEXT];
    uint32_t n;
    float last[VOCAB_MAX]; /* logits of the last token, where fresh */
    bool fresh;
} life;

static void life_feed(pr_engine *e, rig_rng *rng, life *l, uint32_t n_vocab) {
    uint32_t n = 1 + rig_below(rng, 40);
    if (n > CONTEXT - l->n) n = CONTEXT - l->n;
    if (n == 0) return;
    rig_tokens(rng, l->tokens + l->n, n, n_vocab);
    rig_feed(e, l->session, l->tokens + l->n, n, 1);
    l->n += n;
    memcpy(l->last, pr_engine_logits(e, 0), n_vocab * sizeof *l->last);
    l->fresh = true;
}

/* A session that was made in one go from the same tokens says the same, now and of what comes next. */
static void check_life(pr_engine *e, life *l, uint32_t n_vocab, const char *name, uint64_t seed) {
    assert_int_equal(pr_session_length(l->session), l->n);
    assert_memory_equal(pr_session_tokens(l->session), l->tokens, l->n * sizeof *l->tokens);
    if (l->n == 0 || l->n == CONTEXT) return;
    const int32_t next = 7;
    pr_session *twin = rig_session(e);
    rig_feed(e, twin, l->tokens, l->n, 1);
    bool same = !l->fresh || memcmp(pr_engine_logits(e, 0), l->last, n_vocab * sizeof *l->last) == 0;
    const pr_run both[] = {{l->session, &next, 1, 1}, {twin, &next, 1, 1}};
    pr_err err = {0};
    if (pr_engine_step(e, both, 2, &err)) fail_msg("%s", err.text);
    same = same && memcmp(pr_engine_logits(e, 0), pr_engine_logits(e, 1), n_vocab * sizeof(float)) == 0;
    if (!same) fail_msg("%s: seed %d: %u tokens do not say what their twin says", name, (int)seed, l->n);
    pr_session_close(twin);
    assert_int_equal(pr_session_truncate(l->session, l->n, &err), PR_OK);
}

static void live(pr_engine *e, const char *name, uint64_t seed) {
    static life lives[LIVES];
    rig_rng rng = {seed};
    uint32_t n_vocab = rig_vocab(e);
    assert_true(n_vocab <= VOCAB_MAX);
    memset(lives, 0, sizeof lives);
    for (int i = 0; i < 60; i++) {
        life *l = &lives[rig_below(&rng, LIVES)], *other = &lives[rig_below(&rng, LIVES)];
        uint32_t what = rig_below(&rng, 10);
        if (!l->session) {
            *l = (life){.session = rig_session(e)};
        } else if (what < 5) {
            life_feed(e, &rng, l, n_vocab);
        } else if (what < 7) {
            l->n = rig_below(&rng, l->n + 1);
            assert_int_equal(pr_session_truncate(l->session, l->n, NULL), PR_OK);
            l->fresh = false;
        } else if (what < 8 || l == other) {
            pr_session_close(l->session);
            l->session = NULL;
        } else {
            pr_session_close(other->session);
            *other = *l;
            other->session = rig_fork(l->session);
        }
        if (i % 3 == 0 && l->session) check_life(e, l, n_vocab, name, seed);
    }
    for (size_t i = 0; i < LIVES; i++) {
        if (lives[i].session) check_life(e, &lives[i], n_vocab, name, seed);
        pr_session_close(lives[i].session);
    }
}

static void forks_and_truncations(void **state) {
    (void)state;
    for (size_t v = 0; v < N_VARIANTS; v += 2) {
        pr_engine_opts opts = plain_opts(&variants[v]);
        opts.context_max = CONTEXT;
        opts.n_threads = 1 + (int)(v / 2 % 2);
        pr_engine *e = rig_open(model_of(&variants[v], 3), &opts);
        for (uint64_t seed = 1; seed <= 3; seed++) live(e, variants[v].name, seed);
        pr_engine_close(e);
    }
}

/* ---- trained models ------------------------------------------------------------------ */

static void a_trained_model(void **state) {
    (void)state;
    char path[512];
    static const variant v = {.name = "stories260K"};
    if (!test_data_path("models/stories260K/stories260K-f16.gguf", path, sizeof path)) {
        print_message("SKIPPED no %s\n", path);
        skip();
    }
    pr_engine_opts opts = plain_opts(&v);
    pr_engine *e = rig_open(path, &opts);
    stream *s = streams_open(e, 1, 5, 33, 75);
    play(e, s, 5, IN_CHUNKS, 1, v.name);
    pr_engine_close(e);
    opts.n_threads = 2;
    opts.passes_off = 255;
    other_engine(&v, path, s, opts, "2 threads, no passes");
    streams_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_and_batches), cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(any_pass_off),       cmocka_unit_test(any_instruction_set),
        cmocka_unit_test(long_contexts),      cmocka_unit_test(forks_and_truncations),
        cmocka_unit_test(a_trained_model),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
