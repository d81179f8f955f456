/*
 * precis.h - the engine, for programs that embed it.
 *
 * An engine is one loaded model, shared by any number of sessions. A session
 * is one mutable timeline of tokens: its KV pages, its position, nothing else.
 * Work is done in steps: hand pr_engine_step() rows from any number of
 * sessions, get logits for the rows that asked for them.
 *
 * Ownership:  every pr_*_open/new/fork result is released by the matching
 *             pr_*_close; a NULL argument to a close is allowed.
 * Threads:    an engine may be shared between threads for reading its
 *             description and for tokenizing; pr_engine_step() and every call
 *             that takes a pr_session must be serialized by the caller, one
 *             engine at a time. Different engines are independent.
 * Errors:     functions return a pr_status and, when err is not NULL, leave one
 *             line of text in *err that names the file, field or flag at fault.
 *             Nothing is printed, nothing exits, running out of memory is an
 *             ordinary status.
 * Numbers:    a row's logits are the same bits whatever else is in the batch,
 *             however its prompt was chunked, and for any number of threads.
 */
#ifndef PRECIS_H
#define PRECIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PRECIS_VERSION "0.1.0"

/* ---- status ----------------------------------------------------------- */

typedef enum pr_status {
    PR_OK = 0,
    PR_ERR_ARG,         /* the caller passed something unusable */
    PR_ERR_NOMEM,       /* an allocation or mapping failed */
    PR_ERR_IO,          /* the operating system refused: open, read, write, network */
    PR_ERR_FORMAT,      /* a file or message is malformed */
    PR_ERR_UNSUPPORTED, /* well formed, but not something precis can do */
    PR_ERR_LIMIT,       /* over a stated bound: context, budget, size */
    PR_ERR_NOTFOUND,    /* no such file, model or name */
    PR_ERR_CANCELLED,   /* stopped because somebody asked */
} pr_status;

/* Caller-owned; text is always terminated. Zero-initialize, reuse freely. */
typedef struct pr_err {
    pr_status status;
    char text[512];
} pr_err;

/* The status as a lower-case word, e.g. "out of memory". Never NULL. */
const char *pr_status_name(pr_status status);

/* ---- engine ----------------------------------------------------------- */

typedef struct pr_engine pr_engine;
typedef struct pr_session pr_session;

/* How keys and values are kept. Fewer bits hold a longer context in the same memory; keys suffer more than values
 * (docs/BENCHMARKS.md has what each pair costs). */
typedef enum pr_kv_type {
    PR_KV_F16 = 0, /* with exact: 32 bits */
    PR_KV_Q8,      /* 8 bits, one scale per token and head */
    PR_KV_Q4       /* 4 bits, one scale per token and 32 numbers */
} pr_kv_type;
typedef struct pr_kv_types {
    pr_kv_type k, v;
} pr_kv_types;
enum { PR_KV_TYPES_TEXT = 16 };
/* "f16", "q8" or "q4", or two of them with a comma between: keys, values. False, and *out unchanged, for anything else. */
bool pr_kv_types_parse(const char *text, pr_kv_types *out);
/* The shortest text that parses as these; buf has room for PR_KV_TYPES_TEXT bytes and is returned. */
char *pr_kv_types_format(pr_kv_types types, char *buf);

/* Precision levels of an elastic model (a file made by `precis pack`), worst first. A model whose source held fewer bits
 * ends below fp16: a level above its top means its top. int2 and int4 are points on the model's list of increments: every
 * weight has 2 bits (or 2 to 4), and what is left of 2.6 (4.7) bits a weight goes where it was measured to help most. */
typedef enum pr_level { PR_LEVEL_INT2, PR_LEVEL_INT4, PR_LEVEL_INT8, PR_LEVEL_FP16 } pr_level;
enum { PR_LEVELS = 4 };
const char *pr_level_name(pr_level level); /* "int2", ... */
bool pr_level_by_name(const char *name, pr_level *out);

/* Texts of models in the form they are used in, kept for the next engine that has the same: the patterns of pre-tokenizers,
 * compiled, and what chat templates were recognised as. Bounded, least recently used out first. An engine holds what it uses
 * itself, so this may be cleared or closed before engines that were opened with it. Thread-safe but for closing. */
typedef struct pr_texts pr_texts;
typedef struct pr_texts_stats {
    uint64_t hits, misses;
    uint64_t insertions;         /* kept */
    uint64_t evictions, cleared; /* dropped for room; by pr_texts_clear() */
    uint64_t refused;            /* too large to be kept, or no memory for it */
    size_t bytes, bytes_max;     /* texts, and what they were compiled to */
    uint32_t entries, entries_max;
} pr_texts_stats;
pr_status pr_texts_open(pr_texts **out, pr_err *err);
void pr_texts_close(pr_texts *texts);
size_t pr_texts_clear(pr_texts *texts); /* returns how many bytes went out */
void pr_texts_stats_get(pr_texts *texts, pr_texts_stats *out);

/* Zero-initialize for defaults. */
typedef struct pr_engine_opts {
    int n_threads;        /* 0: what affinity and the CPU quota allow */
    int nice;             /* added to the niceness of compute threads; a server gives way to whoever answers people */
    uint32_t context_max; /* tokens one session may hold; 0: the model's own, at most 8192 */
    uint32_t batch_max;   /* tokens in one step; 0: 512 */
    uint32_t logits_max;  /* rows of logits in one step; 0: 32 */
    bool context_fit;     /* a context_max beyond what the model was made for means just that; else PR_ERR_LIMIT */
    size_t kv_bytes_max;  /* bound of the KV pool; 0: kv_contexts full contexts */
    uint32_t kv_contexts; /* 0: 1 */
    pr_kv_types kv_type;
    /* Elastic models: where to begin. By default at the top. Both are ignored for ordinary models. */
    bool level_given;
    pr_level level;
    size_t weights_budget; /* bytes of weights, instead of a level; 0: none. PR_ERR_LIMIT when the least is more */
    bool exact;            /* fp32 activations everywhere: the slow reference path */
    uint32_t cpumask;      /* ISA bits allowed (kernels.h); 0: all that the CPU has */
    uint32_t passes_off;   /* graph passes switched off, a bit each (graph/passes.h) */
    /* Name of the built-in chat template for a model that brings none that is known; NULL: none. PR_ERR_ARG: no such. Only
     * read while opening. */
    const char *chat_template;
    pr_texts *texts; /* where compiled texts are shared with other engines; NULL: nowhere */
    void (*progress)(void *arg, double fraction); /* while loading; may be NULL */
    void *progress_arg;
} pr_engine_opts;

/* What a model is, for people and for planning. Strings live as long as the engine. */
typedef struct pr_engine_info {
    const char *path;
    const char *arch;          /* "llama" */
    const char *name;          /* the model's own name, "" if it has none */
    const char *weight_types;  /* e.g. "q4_1 210, f32 61": tensors by source type */
    const char *note;          /* what was converted at load, "" if nothing */
    const char *isa;           /* kernels in use */
    const char *chat_template; /* name of the built-in template recognised, "" if none */
    uint64_t n_params;
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    uint32_t context_train; /* the context the model was made for */
    uint32_t context_max;   /* what a session may hold here */
    uint32_t batch_max, logits_max;
    int n_threads;
    size_t file_bytes;
    size_t weight_bytes;      /* resident */
    size_t weight_bytes_read; /* read by one decode step: resident less unread embedding rows */
    size_t kv_bytes_per_token;
    size_t kv_bytes_max;
    size_t scratch_bytes; /* activations arena and per-thread scratch */
    size_t other_bytes;   /* vocabulary, graph, what is kept of the file's header: about */
    size_t peak_bytes;    /* predicted peak of the process with every KV page in use */
} pr_engine_info;

pr_status pr_engine_open(const char *path, const pr_engine_opts *opts, pr_engine **out, pr_err *err);
void pr_engine_close(pr_engine *engine);
void pr_engine_describe(const pr_engine *engine, pr_engine_info *out);

/* The same description without loading: reads the header, builds and lowers
 * the graph, adds up bytes. Text fields are valid until pr_estimate_close(). */
typedef struct pr_estimate pr_estimate;
pr_status pr_engine_estimate(const char *path, const pr_engine_opts *opts, pr_estimate **out, pr_err *err);
void pr_estimate_close(pr_estimate *estimate);
void pr_estimate_describe(const pr_estimate *estimate, pr_engine_info *out);
/* The graph before and after lowering, with bytes, as text for people; free with pr_text_free(). */
pr_status pr_estimate_graph(const pr_estimate *estimate, char **text, pr_err *err);

/* ---- levels of elastic models ------------------------------------------ */

/* KL from the source, in nats a token, above which answers are nonsense: the right token has lost 9/10 of its probability. */
#define PR_KL_USABLE 2.5

/* All bytes are of weights in memory, what is not elastic (norms, ...) counted. */
typedef struct pr_elastic_info {
    bool elastic; /* false: an ordinary model; everything else is 0 */
    pr_level top;
    pr_level level;                /* highest level whose planes are all in use; PR_LEVEL_INT2 also below it */
    uint32_t cursor, n_increments; /* increments in use, of how many */
    uint32_t target;               /* where a move is going; the cursor when none is under way */
    double bits_per_weight;        /* of packed matrices, at the cursor: plane bytes, scales and padding */
    double kl;                     /* expected KL against the source in nats a token, from the file's table */
    bool kl_measured;              /* this one; false: a guess, by kinds of matrices or from lower cursors */
    bool measured;                 /* some cursors' is; false: all of it is a guess by kinds of matrices */
    bool int2_usable;              /* at int2 it was measured and is at most PR_KL_USABLE */
    size_t bytes, bytes_min, bytes_max;
    size_t level_bytes[PR_LEVELS]; /* at each level; those above the top repeat it */
    uint32_t level_cursor[PR_LEVELS];
    size_t plane_bytes[4];         /* in memory now: p2, p4, p8, p16 */
    uint64_t moves_down, moves_up; /* finished */
    double drop_seconds,
        raise_seconds; /* the last of each: from the request until memory was given back / planes in use */
    pr_err raise_err;  /* why the last raise ended early; status PR_OK when it did not */
} pr_elastic_info;

void pr_engine_elastic(const pr_engine *engine, pr_elastic_info *out);
/* The same from an estimate: nothing is in memory, the cursor is where an engine with these options would begin. */
void pr_estimate_elastic(const pr_estimate *estimate, pr_elastic_info *out);
/* Of a plan: bytes of weights, peak of the process and expected KL with n increments, 0..n_increments; all three rise with n,
 * but for the KL. False past the end or for ordinary models. */
bool pr_estimate_increment(const pr_estimate *estimate, uint32_t n, size_t *bytes, size_t *peak, double *kl);

/* Move. Returns at once: lower levels hold from the next step on, with memory given back in the background; higher ones as
 * their planes have been read, while steps go on. The newest request wins. Any thread, at any time.
 * PR_ERR_UNSUPPORTED for ordinary models; PR_ERR_LIMIT for a budget below bytes_min. */
pr_status pr_engine_set_level(pr_engine *engine, pr_level level, pr_err *err);
pr_status pr_engine_set_weights_budget(pr_engine *engine, size_t bytes, pr_err *err);
/* Wait at most `seconds` until a move is finished. PR_ERR_LIMIT: it is not; else the error of a failed raise.
 * The stepping thread only. */
pr_status pr_engine_settle(pr_engine *engine, double seconds, pr_err *err);

/* ---- text ------------------------------------------------------------- */

enum {
    PR_TOKENIZE_SPECIAL = 1, /* recognise special tokens written in the text */
    PR_TOKENIZE_BOS = 2,     /* add what the model wants at the start of a text (may be nothing) */
};

/* Tokenize text[len] into ids[max]; *n is the count needed, also when it is
 * over max (PR_ERR_LIMIT, ids holds the first max). Invalid UTF-8 is allowed
 * where the vocabulary has bytes. Thread-safe. */
pr_status pr_engine_tokenize(const pr_engine *engine, const char *text, size_t len, unsigned flags, int32_t *ids,
                             size_t max, size_t *n, pr_err *err);

/* The bytes of one token, not terminated; *len is 0 for control tokens unless
 * special is set. Valid as long as the engine. NULL for an id out of range. */
const char *pr_engine_piece(const pr_engine *engine, int32_t id, bool special, size_t *len);

/* True for tokens that end a turn. */
bool pr_engine_is_end(const pr_engine *engine, int32_t id);

typedef struct pr_message {
    const char *role; /* "system", "user" or "assistant" */
    const char *content;
} pr_message;

/* Render messages with the model's chat template (or the built-in one named,
 * when template_name is not NULL) into *text, which the caller frees with
 * pr_text_free(). Tokenize it with PR_TOKENIZE_SPECIAL; it already holds what
 * the model wants at the start. PR_ERR_UNSUPPORTED for a template precis does
 * not know. With add_generation the assistant's turn is opened. */
pr_status pr_engine_chat(const pr_engine *engine, const char *template_name, const pr_message *messages,
                         size_t n_messages, bool add_generation, char **text, pr_err *err);
void pr_text_free(char *text);

/* ---- sessions --------------------------------------------------------- */

pr_status pr_session_open(pr_engine *engine, pr_session **out, pr_err *err);
void pr_session_close(pr_session *session);

/* A second session that shares every KV page so far; pages are copied when
 * either side writes into them. */
pr_status pr_session_fork(const pr_session *session, pr_session **out, pr_err *err);

/* Forget every token from position n_tokens on. */
pr_status pr_session_truncate(pr_session *session, uint32_t n_tokens, pr_err *err);

/* Tokens held, which is the position of the next one. */
uint32_t pr_session_length(const pr_session *session);

/* Those tokens, oldest first; valid until the session is closed, overwritten as it changes. */
const int32_t *pr_session_tokens(const pr_session *session);

/* One run of consecutive new tokens of one session within a step. */
typedef struct pr_run {
    pr_session *session;
    const int32_t *tokens;
    uint32_t n_tokens;
    uint32_t n_logits; /* logits wanted for the last n_logits tokens; 0..n_tokens */
} pr_run;

/* One batched forward pass: the sum of n_tokens is at most batch_max, that of
 * n_logits at most logits_max, a session appears at most once. On success every session has grown by its
 * tokens and pr_engine_logits() answers for this step. On failure no session
 * has changed. */
pr_status pr_engine_step(pr_engine *engine, const pr_run *runs, size_t n_runs, pr_err *err);

/* Logits [n_vocab] of row `row` of the last step, counting wanted rows over
 * the runs in order. Valid until the next step. NULL if there is no such row. */
const float *pr_engine_logits(const pr_engine *engine, size_t row);

/* Feed tokens in chunks of at most batch_max; the last token's logits are row
 * 0 afterwards. *cancel, when not NULL, is looked at between chunks. */
pr_status pr_session_prefill(pr_session *session, const int32_t *tokens, size_t n_tokens, const volatile int *cancel,
                             pr_err *err);

/* ---- generation ------------------------------------------------------- */

typedef struct pr_logit_bias {
    int32_t token;
    float bias;
} pr_logit_bias;

/* Zero is "off" for every field but those set by pr_sample_defaults(). */
typedef struct pr_sample_params {
    float temperature;        /* 0: greedy */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* 1 or 0: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1 or 0: off */
    float presence_penalty;
    float frequency_penalty;
    uint32_t repeat_last_n;    /* window of the penalties; 0: everything */
    uint32_t no_repeat_ngram;  /* 0: off */
    uint64_t seed;             /* used as given */
    const pr_logit_bias *bias; /* borrowed */
    size_t n_bias;
} pr_sample_params;

/* temperature .7, top_p .9, top_k 50, repetition_penalty 1.1. */
void pr_sample_defaults(pr_sample_params *params);

typedef enum pr_finish {
    PR_FINISH_NONE = 0,
    PR_FINISH_STOP,     /* an end token or a stop string */
    PR_FINISH_LENGTH,   /* max_tokens or the context is full */
    PR_FINISH_CANCELLED /* *cancel became non-zero */
} pr_finish;

enum { PR_SPECULATE_AUTO = -1, PR_SPECULATE_MAX = 16 };

typedef struct pr_generate_opts {
    pr_sample_params sample;
    uint32_t max_tokens;     /* 0: until the context is full */
    const char *const *stop; /* stop strings, borrowed; never part of the output */
    size_t n_stop;
    bool ignore_end; /* go on past end tokens (benchmarks) */
    /* Speculation: draft this many tokens, by an elastic model at a lower level or from what followed the same words earlier in the
     * text, and check them in one step. The answer is the very same. 0: off; PR_SPECULATE_AUTO: as many as pay, measured. */
    int speculate;
    const volatile int *cancel; /* looked at between tokens; may be NULL */
    /* Whole UTF-8 characters, never a piece of one; not terminated. Return
     * false to stop (PR_FINISH_CANCELLED). May be NULL. */
    bool (*on_text)(void *arg, const char *text, size_t len);
    void *arg;
} pr_generate_opts;

typedef struct pr_generate_stats {
    pr_finish finish;
    uint32_t n_prompt; /* tokens fed */
    uint32_t n_generated;
    double prefill_seconds;
    double decode_seconds; /* after the first token */
    double first_token_seconds;
    uint32_t n_drafted, n_accepted; /* by speculation */
} pr_generate_stats;

/* Feed the prompt, then sample until something ends it. The session keeps
 * every token that was fed, so a chat continues where it stands. */
pr_status pr_session_generate(pr_session *session, const int32_t *prompt, size_t n_prompt, const pr_generate_opts *opts,
                              pr_generate_stats *stats, pr_err *err);

#ifdef __cplusplus
}
#endif
#endif
