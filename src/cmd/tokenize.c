/*
 * precis tokenize: the tokens of a text, exactly as it is given.
 *
 * Only the vocabulary is read, so it works on files that hold nothing else, and
 * on models whose architecture precis does not run.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "cmd/commands.h"
#include "cmd/models.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "engine/vocab_load.h"

enum { TEXT_BYTES_MAX = 1 << 30 };

typedef struct tokens {
    const char *file_name;
    bool pieces, no_special, bos, count, json;
    pr_vocab *vocab;
    char *text;
    size_t len;
    int32_t *ids;
    size_t n;
    pr_err err;
} tokens;

static pr_status read_text(tokens *t, const pr_args *args) {
    if (t->file_name && args->n > 1) return pr_fail(&t->err, PR_ERR_ARG, "--file and TEXT are both given");
    if (t->file_name) return pr_file_slurp(t->file_name, TEXT_BYTES_MAX, &t->text, &t->len, &t->err);
    if (args->n < 2) return pr__text_stdin(TEXT_BYTES_MAX, &t->text, &t->len, &t->err);
    t->text = pr_strdup(PR_TAG_MISC, args->arg[1]);
    t->len = strlen(args->arg[1]);
    return t->text ? PR_OK : pr_fail_nomem(&t->err, "the text", t->len);
}

static pr_status load_vocab(tokens *t, const char *model) {
    char *path = NULL, *chat_template = NULL;
    pr_model_file *file = NULL;
    pr_status status = pr__models_resolve(model, &path, &t->err);
    if (status == PR_OK) status = pr_model_file_open(path, &file, &t->err);
    if (status == PR_OK) status = pr__vocab_load(file, NULL, &t->vocab, &chat_template, &t->err);
    if (status != PR_OK) pr__models_name_file(path, &t->err);
    pr_free(chat_template);
    pr_model_file_close(file);
    pr_free(path);
    return status;
}

static pr_status tokenize(tokens *t) {
    unsigned flags = (t->no_special ? 0u : PR_TOKENIZE_SPECIAL) | (t->bos ? PR_TOKENIZE_BOS : 0u);
    size_t max = t->len + 16; /* a token is at least a byte, but for what is added at the start */
    t->ids = pr_calloc(PR_TAG_MISC, max, sizeof *t->ids);
    if (!t->ids) return pr_fail_nomem(&t->err, "the tokens", max * sizeof *t->ids);
    return pr_tokenize(t->vocab, t->text, t->len, flags, t->ids, max, &t->n, &t->err);
}

static void print_json(const tokens *t, pr_str *s) {
    pr__json_open(s);
    pr__json_u64(s, "count", t->n);
    if (!t->count) {
        pr__json_key(s, "ids");
        for (size_t i = 0; i < t->n; i++) pr_str_printf(s, "%s%d", i ? ", " : "[", (int)t->ids[i]);
        pr_str_puts(s, t->n ? "]" : "[]");
    }
    if (t->pieces) pr__json_key(s, "pieces");
    for (size_t i = 0; t->pieces && i < t->n; i++) {
        size_t len = 0;
        const char *piece = pr_vocab_piece(t->vocab, t->ids[i], true, &len);
        pr_str_puts(s, i ? ", " : "[");
        pr_str_json(s, piece, len);
    }
    if (t->pieces) pr_str_puts(s, t->n ? "]" : "[]");
    pr__json_close(s);
    pr_str_puts(s, "\n");
}

/* "id<tab>piece" a line, the piece as a JSON string: blanks and line ends are seen. */
static void print_pieces(const tokens *t, pr_str *s) {
    for (size_t i = 0; i < t->n; i++) {
        size_t len = 0;
        const char *piece = pr_vocab_piece(t->vocab, t->ids[i], true, &len);
        pr_str_printf(s, "%d\t", (int)t->ids[i]);
        pr_str_json(s, piece, len);
        pr_str_puts(s, "\n");
    }
}

static void print_ids(const tokens *t, pr_str *s) {
    for (size_t i = 0; i < t->n; i++) pr_str_printf(s, "%s%d", i ? " " : "", (int)t->ids[i]);
    pr_str_puts(s, "\n");
}

int pr__cmd_tokenize(int argc, const char **argv) {
    tokens t = {0};
    pr_args args;
    pr_str out = {0};
    int code;
    const pr_flag flags[] = {
        {"file", 0, PR_FLAG_TEXT, "FILE", "take the text from a file", &t.file_name, NULL, NULL},
        {"pieces", 0, PR_FLAG_BOOL, NULL, "a line a token: id and text", &t.pieces, NULL, NULL},
        {"count", 0, PR_FLAG_BOOL, NULL, "only how many there are", &t.count, NULL, NULL},
        {"bos", 0, PR_FLAG_BOOL, NULL, "with what the model wants at the start of a text", &t.bos, NULL, NULL},
        {"no-special", 0, PR_FLAG_BOOL, NULL, "special tokens written in the text are text", &t.no_special, NULL, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &t.json, NULL, NULL},
    };
    const pr_flag_group group = {NULL, flags, sizeof flags / sizeof *flags, false};
    const pr_usage usage = {
        "tokenize",
        "MODEL [TEXT]",
        "The token ids of TEXT (or of standard input, byte for byte), on one line. Works\n"
        "on files that hold a vocabulary and nothing else.\n",
        &group,
        1,
        1,
        2,
    };
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    pr_status status = load_vocab(&t, args.arg[0]);
    if (status == PR_OK) status = read_text(&t, &args);
    if (status == PR_OK) status = tokenize(&t);
    if (status != PR_OK) code = pr__cmd_fail(&t.err);
    else if (t.json) print_json(&t, &out);
    else if (t.count) pr_str_printf(&out, "%zu\n", t.n);
    else if (t.pieces) print_pieces(&t, &out);
    else print_ids(&t, &out);
    if (status == PR_OK) code = pr__cmd_print(&out);
    pr_free(t.ids);
    pr_free(t.text);
    pr_vocab_free(t.vocab);
    return code;
}
