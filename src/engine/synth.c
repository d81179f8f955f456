/*
 * Making synthetic models, fast.
 *
 * A weight matrix of a trained model looks to a kernel like Gaussian noise of
 * standard deviation about 1/sqrt(columns), and with that the activations of a
 * deep stack stay of order one. Drawing and quantizing a billion numbers would
 * take a minute, so only a pool of a million is drawn, encoded once for each row length,
 * and every matrix is put together from runs of 2048 numbers at random places of the
 * pool. Runs repeat over a model, which no kernel notices; what the model
 * says is noise anyway.
 *
 * Everything random is a hash of a counter, so bytes depend on nothing but the seed, and
 * Gaussian numbers are sums of eight uniform ones, since libm's logarithm and
 * cosine differ between machines.
 */
#include "engine/synth.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "store/gguf_write.h"
#include "store/quantize.h"

enum { POOL = 1 << 20, RUN = 2048, CHUNK = 1 << 20, N_SPECIAL = 3, N_BYTES = 256 };

static const pr_synth_shape shapes[] = {
    {.name = "25m",
     .dim = 512,
     .n_layers = 8,
     .n_heads = 8,
     .n_kv_heads = 1,
     .head_dim = 64,
     .n_ff = 1408,
     .n_vocab = 8192,
     .tied = true,
     .context = 4096,
     .rope_theta = 10000},
    {.name = "135m",
     .dim = 576,
     .n_layers = 30,
     .n_heads = 9,
     .n_kv_heads = 3,
     .head_dim = 64,
     .n_ff = 1536,
     .n_vocab = 49152,
     .tied = true,
     .context = 8192,
     .rope_theta = 100000},
    {.name = "1.1b",
     .dim = 2048,
     .n_layers = 22,
     .n_heads = 32,
     .n_kv_heads = 4,
     .head_dim = 64,
     .n_ff = 5632,
     .n_vocab = 32000,
     .context = 2048,
     .rope_theta = 10000},
    {.name = "7b",
     .dim = 4096,
     .n_layers = 32,
     .n_heads = 32,
     .n_kv_heads = 32,
     .head_dim = 128,
     .n_ff = 11008,
     .n_vocab = 32000,
     .context = 4096,
     .rope_theta = 10000},
};

const pr_synth_shape *pr_synth_shape_by_name(const char *name) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(shapes[i].name, name) == 0) return &shapes[i];
    }
    return NULL;
}

/* ---- random numbers ---- */

/* Splitmix64's output function: a good hash of a counter. */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Sum of eight uniform 16-bit numbers, centred, with standard deviation 1. */
static float gaussian(uint64_t seed, uint64_t i) {
    uint64_t a = mix(seed + 2 * i), b = mix(seed + 2 * i + 1);
    uint32_t sum = 0;
    for (int k = 0; k < 64; k += 16) sum += (uint32_t)(a >> k & 0xffff) + (uint32_t)(b >> k & 0xffff);
    return ((float)sum - 4.0f * 65535) * (1.0f / 53509.0f); /* 65536 * sqrt(8 / 12) */
}

/* ---- the model being written ---- */

typedef struct synth {
    const pr_synth_shape *shape;
    pr_dtype type;
    uint64_t seed;
    pr_gguf_writer *w;
    float *gauss;  /* [POOL] */
    uint8_t *pool; /* the same, scaled for pool_cols and encoded */
    uint32_t pool_cols;
    uint8_t *chunk;       /* [CHUNK] */
    uint64_t n_runs;      /* drawn so far: the counter */
    uint64_t done, total; /* bytes */
    void (*progress)(void *arg, double fraction);
    void *progress_arg;
} synth;

static pr_status check_shape(const pr_synth_shape *s, pr_dtype type, pr_err *err) {
    const struct {
        const char *name;
        uint32_t value, max;
    } fields[] = {
        {"dim", s->dim, 1 << 16},           {"n_layers", s->n_layers, 1 << 10},
        {"n_heads", s->n_heads, 1 << 10},   {"n_kv_heads", s->n_kv_heads, s->n_heads},
        {"head_dim", s->head_dim, 1 << 10}, {"n_ff", s->n_ff, 1 << 18},
        {"n_vocab", s->n_vocab, 1 << 20},   {"context", s->context, 1 << 24},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].value < 1 || fields[i].value > fields[i].max) {
            return pr_fail(err, PR_ERR_ARG, "synthetic model: %s is %u; 1 to %u are possible", fields[i].name,
                           fields[i].value, fields[i].max);
        }
    }
    uint32_t block = pr_dtype_get(type)->block_elems, heads = s->n_heads * s->head_dim;
    if (!pr_quantize_takes(type)) {
        return pr_fail(err, PR_ERR_UNSUPPORTED, "synthetic model: type %s is not written", pr_dtype_get(type)->name);
    }
    if (s->dim % block || s->n_ff % block || heads % block) {
        return pr_fail(err, PR_ERR_ARG,
                       "synthetic model: dim, n_ff and n_heads * head_dim must be multiples of %u for %s", block,
                       pr_dtype_get(type)->name);
    }
    if (s->n_vocab < N_SPECIAL + N_BYTES + 97) {
        return pr_fail(err, PR_ERR_ARG, "synthetic model: n_vocab must be at least %d", N_SPECIAL + N_BYTES + 97);
    }
    return PR_OK;
}

/* ---- vocabulary ---- */

/* Made-up piece i: U+2581, printable ASCII, then words of letters in alphabetical order, each also after a space. */
static const char *piece(pr_arena *arena, uint32_t i) {
    char word[16];
    if (i == 0) return "\xe2\x96\x81";
    if (i <= 94) return pr_arena_printf(arena, "%c", (char)(' ' + i));
    i -= 95;
    if (i < 26) return pr_arena_printf(arena, "\xe2\x96\x81%c", (char)('a' + i));
    i -= 26;
    uint32_t n = 2, words = 26 * 26;
    for (; i >= 2 * words; n++, words *= 26) i -= 2 * words;
    bool spaced = i >= words;
    uint32_t v = spaced ? i - words : i;
    word[n] = '\0';
    for (uint32_t k = n; k-- > 0; v /= 26) word[k] = (char)('a' + v % 26);
    return pr_arena_printf(arena, "%s%s", spaced ? "\xe2\x96\x81" : "", word);
}

static pr_status describe_vocab(synth *s, pr_err *err) {
    enum { UNKNOWN = 2, CONTROL = 3, BYTE = 6, NORMAL = 1 };
    static const char *const special[N_SPECIAL] = {"<unk>", "<s>", "</s>"};
    uint32_t n = s->shape->n_vocab;
    pr_arena arena;
    pr_arena_init(&arena, PR_TAG_VOCAB);
    const char **tokens = pr_arena_array(&arena, n, sizeof *tokens);
    float *scores = pr_arena_array(&arena, n, sizeof *scores);
    int32_t *types = pr_arena_array(&arena, n, sizeof *types);
    bool ok = tokens && scores && types;
    for (uint32_t i = 0; i < n && ok; i++) {
        bool is_byte = i >= N_SPECIAL && i < N_SPECIAL + N_BYTES;
        tokens[i] = i < N_SPECIAL ? special[i]
                    : is_byte     ? pr_arena_printf(&arena, "<0x%02X>", i - N_SPECIAL)
                                  : piece(&arena, i - N_SPECIAL - N_BYTES);
        types[i] = i == 0 ? UNKNOWN : i < N_SPECIAL ? CONTROL : is_byte ? BYTE : NORMAL;
        scores[i] = types[i] == NORMAL ? -(float)(i - N_SPECIAL - N_BYTES) : 0;
        ok = tokens[i] != NULL;
    }
    if (ok) {
        pr_gguf_meta_str(s->w, "tokenizer.ggml.model", "llama");
        pr_gguf_meta_str(s->w, "tokenizer.ggml.pre", "default");
        pr_gguf_meta_strs(s->w, "tokenizer.ggml.tokens", tokens, n);
        pr_gguf_meta_f32s(s->w, "tokenizer.ggml.scores", scores, n);
        pr_gguf_meta_i32s(s->w, "tokenizer.ggml.token_type", types, n);
        pr_gguf_meta_u32(s->w, "tokenizer.ggml.unknown_token_id", 0);
        pr_gguf_meta_u32(s->w, "tokenizer.ggml.bos_token_id", 1);
        pr_gguf_meta_u32(s->w, "tokenizer.ggml.eos_token_id", 2);
        pr_gguf_meta_bool(s->w, "tokenizer.ggml.add_bos_token", true);
    }
    pr_arena_free(&arena);
    return ok ? PR_OK : pr_fail_nomem(err, "synthetic vocabulary", n * sizeof *tokens);
}

static void describe_model(synth *s) {
    const pr_synth_shape *m = s->shape;
    char name[64];
    snprintf(name, sizeof name, "synthetic %s", m->name ? m->name : "model");
    pr_gguf_meta_str(s->w, "general.architecture", "llama");
    pr_gguf_meta_str(s->w, "general.name", name);
    pr_gguf_meta_u32(s->w, "llama.context_length", m->context);
    pr_gguf_meta_u32(s->w, "llama.embedding_length", m->dim);
    pr_gguf_meta_u32(s->w, "llama.block_count", m->n_layers);
    pr_gguf_meta_u32(s->w, "llama.feed_forward_length", m->n_ff);
    pr_gguf_meta_u32(s->w, "llama.attention.head_count", m->n_heads);
    pr_gguf_meta_u32(s->w, "llama.attention.head_count_kv", m->n_kv_heads);
    pr_gguf_meta_u32(s->w, "llama.attention.key_length", m->head_dim);
    pr_gguf_meta_u32(s->w, "llama.attention.value_length", m->head_dim);
    pr_gguf_meta_u32(s->w, "llama.rope.dimension_count", m->head_dim);
    pr_gguf_meta_f32(s->w, "llama.rope.freq_base", m->rope_theta);
    pr_gguf_meta_f32(s->w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    pr_gguf_meta_u32(s->w, "llama.vocab_size", m->n_vocab);
}

/* ---- tensors ---- */

/* Called for every tensor in file order, once to describe and once to write; rows 0: a norm of cols numbers. */
typedef pr_status (*tensor_fn)(synth *s, const char *name, uint32_t cols, uint32_t rows, pr_err *err);

static pr_status each_tensor(synth *s, tensor_fn fn, pr_err *err) {
    const pr_synth_shape *m = s->shape;
    uint32_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    const struct {
        const char *name;
        uint32_t cols, rows;
    } layer[] = {
        {"attn_norm", m->dim, 0},      {"attn_q", m->dim, q},       {"attn_k", m->dim, kv},
        {"attn_v", m->dim, kv},        {"attn_output", q, m->dim},  {"ffn_norm", m->dim, 0},
        {"ffn_gate", m->dim, m->n_ff}, {"ffn_up", m->dim, m->n_ff}, {"ffn_down", m->n_ff, m->dim},
    };
    pr_status status = fn(s, "token_embd.weight", m->dim, m->n_vocab, err);
    for (uint32_t l = 0; l < m->n_layers; l++) {
        for (size_t i = 0; i < sizeof layer / sizeof *layer && status == PR_OK; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s.weight", l, layer[i].name);
            status = fn(s, name, layer[i].cols, layer[i].rows, err);
        }
    }
    if (status == PR_OK) status = fn(s, "output_norm.weight", m->dim, 0, err);
    if (status == PR_OK && !m->tied) status = fn(s, "output.weight", m->dim, m->n_vocab, err);
    return status;
}

/* Bytes of a tensor; check_shape() has made sure that rows are whole blocks. */
static uint64_t tensor_bytes(const synth *s, uint32_t cols, uint32_t rows) {
    uint64_t row_bytes = 0;
    pr_dtype_row_bytes(rows ? s->type : PR_F32, cols, &row_bytes);
    return rows ? row_bytes * rows : row_bytes;
}

static pr_status describe_tensor(synth *s, const char *name, uint32_t cols, uint32_t rows, pr_err *err) {
    (void)err;
    uint64_t dims[2] = {cols, rows};
    pr_gguf_tensor(s->w, name, rows ? s->type : PR_F32, rows ? 2 : 1, dims);
    s->total += tensor_bytes(s, cols, rows);
    return PR_OK;
}

/* Norm weights: ones with a little noise. */
static pr_status write_norm(synth *s, uint32_t cols, pr_err *err) {
    float *row = (float *)(void *)s->chunk;
    for (uint32_t i = 0; i < cols; i++) row[i] = 1.0f + 0.02f * gaussian(mix(s->seed ^ mix(s->n_runs)), i);
    s->n_runs++;
    return pr_gguf_data(s->w, row, cols * sizeof *row, err);
}

/* Encode the pool for rows of cols numbers. */
static void fill_pool(synth *s, uint32_t cols) {
    enum { STEP = 4096 };
    float scaled[STEP], scale = 1.0f / sqrtf((float)cols);
    const pr_dtype_info *type = pr_dtype_get(s->type);
    if (s->pool_cols == cols) return;
    for (uint32_t i = 0; i < POOL; i += STEP) {
        for (uint32_t k = 0; k < STEP; k++) scaled[k] = s->gauss[i + k] * scale;
        pr_quantize(s->type, scaled, STEP, s->pool + (size_t)i / type->block_elems * type->block_bytes);
    }
    s->pool_cols = cols;
}

static pr_status write_matrix(synth *s, uint64_t bytes, pr_err *err) {
    const pr_dtype_info *type = pr_dtype_get(s->type);
    size_t run_bytes = (size_t)RUN / type->block_elems * type->block_bytes, filled = 0;
    uint64_t n_starts = (uint64_t)(POOL - RUN) / type->block_elems;
    while (bytes > 0) {
        size_t n = bytes < run_bytes ? (size_t)bytes : run_bytes;
        uint64_t start = mix(s->seed ^ mix(s->n_runs++)) % n_starts;
        memcpy(s->chunk + filled, s->pool + start * type->block_bytes, n);
        filled += n;
        bytes -= n;
        if (bytes == 0 || filled + run_bytes > CHUNK) {
            pr_status status = pr_gguf_data(s->w, s->chunk, filled, err);
            if (status != PR_OK) return status;
            filled = 0;
        }
    }
    return PR_OK;
}

static pr_status write_tensor(synth *s, const char *name, uint32_t cols, uint32_t rows, pr_err *err) {
    (void)name;
    uint64_t bytes = tensor_bytes(s, cols, rows);
    if (rows) fill_pool(s, cols);
    pr_status status = rows ? write_matrix(s, bytes, err) : write_norm(s, cols, err);
    s->done += bytes;
    if (s->progress) s->progress(s->progress_arg, (double)s->done / (double)s->total);
    return status;
}

static pr_status open_pool(synth *s, pr_err *err) {
    uint64_t pool_bytes = 0;
    pr_dtype_row_bytes(s->type, POOL, &pool_bytes);
    s->gauss = pr_alloc(PR_TAG_SCRATCH, POOL * sizeof *s->gauss);
    s->pool = pr_alloc(PR_TAG_SCRATCH, (size_t)pool_bytes);
    s->chunk = pr_alloc(PR_TAG_SCRATCH, CHUNK);
    if (!s->gauss || !s->pool || !s->chunk) return pr_fail_nomem(err, "pool of random weights", (size_t)pool_bytes);
    for (uint32_t i = 0; i < POOL; i++) s->gauss[i] = gaussian(mix(s->seed), i);
    return PR_OK;
}

pr_status pr_synth_write(const char *path, const pr_synth_shape *shape, pr_dtype type, uint64_t seed,
                         void (*progress)(void *arg, double fraction), void *progress_arg, pr_err *err) {
    synth s = {.shape = shape, .type = type, .seed = seed, .progress = progress, .progress_arg = progress_arg};
    pr_status status = check_shape(shape, type, err);
    if (status == PR_OK) status = open_pool(&s, err);
    if (status == PR_OK) status = pr_gguf_create(path, 32, &s.w, err);
    if (status != PR_OK) goto done;
    describe_model(&s);
    status = describe_vocab(&s, err);
    if (status == PR_OK) status = each_tensor(&s, describe_tensor, err);
    if (status == PR_OK) status = each_tensor(&s, write_tensor, err);
    if (status == PR_OK) {
        status = pr_gguf_finish(s.w, err);
        s.w = NULL;
    }
done:
    pr_gguf_abort(s.w);
    pr_free(s.gauss);
    pr_free(s.pool);
    pr_free(s.chunk);
    return status;
}
