/*
 * Fuzz: any bytes as a GGUF file. What opens must be consistent: every value can be shown and read,
 * every tensor lies in the file and can be decoded and packed, a vocabulary tokenizes; and nothing leaks.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/vocab_load.h"
#include "store/convert.h"

enum { NUMBERS_MAX = 1 << 20, SCRATCH_MAX = 1 << 24, ELEMENTS_MAX = 1000 };

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static void walk_array(const pr_meta *m) {
    uint64_t n = pr_meta_len(m);
    for (uint64_t i = 0; i <= n && i < ELEMENTS_MAX; i++) {
        const char *text;
        size_t len, sum = 0;
        int64_t whole;
        double number;
        if (pr_meta_at_str(m, i, &text, &len)) {
            for (size_t k = 0; k < len; k++) sum += (unsigned char)text[k];
        }
        pr_meta_at_i64(m, i, &whole);
        pr_meta_at_f64(m, i, &number);
        require(i < n || !pr_meta_at_i64(m, i, &whole));
        require(sum <= 255 * len || len == 0);
    }
}

static void walk_meta(const pr_model_file *f) {
    for (size_t i = 0; i < pr_model_file_n_meta(f); i++) {
        char shown[128];
        uint32_t u;
        float x;
        bool b;
        const char *s = NULL, *key = pr_model_file_meta_key(f, i);
        const pr_meta *m = pr_model_file_meta(f, key);
        require(m != NULL);
        require(strlen(pr_meta_format(m, shown, sizeof shown)) < sizeof shown);
        pr_meta_u32(f, key, &u, NULL);
        pr_meta_f32(f, key, &x, NULL);
        pr_meta_bool(f, key, &b, NULL);
        if (pr_meta_str(f, key, &s, NULL) == PR_OK) require(strlen(s) <= pr_meta_len(m));
        if (pr_meta_kind(m) == PR_META_ARRAY) walk_array(m);
    }
}

static void pack_first_and_last(const pr_model_file *f, const pr_tensor_info *t) {
    pr_pack pack;
    pr_loss loss;
    if (t->n_dims > 2 || pr_convert_plan(t->dtype, t->bytes & 1, &pack, &loss, NULL) != PR_OK) return;
    size_t scratch_bytes = pr_convert_scratch(t, pack);
    if (scratch_bytes > SCRATCH_MAX || t->dims[1] > UINT32_MAX) return;
    size_t tile_bytes = pr_pack_tile_bytes(pack, (uint32_t)t->dims[0]);
    void *tile = aligned_alloc(64, pr_align_up(tile_bytes, 64)),
         *scratch = aligned_alloc(64, pr_align_up(scratch_bytes, 64));
    require(pr_convert_tiles(f, t, pack, 0, 1, tile, scratch, NULL) == PR_OK);
    require(pr_convert_tiles(f, t, pack, pr_pack_tiles((uint32_t)t->dims[1]) - 1, 1, tile, scratch, NULL) == PR_OK);
    free(tile);
    free(scratch);
}

static void walk_tensors(const pr_model_file *f) {
    for (size_t i = 0; i < pr_model_file_n_tensors(f); i++) {
        const pr_tensor_info *t = pr_model_file_tensor(f, i);
        uint64_t n = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        unsigned char byte;
        require(pr_model_file_find(f, t->name) == t);
        if (t->planes) continue; /* fuzz_planes.c */
        require(t->offset + t->bytes <= pr_model_file_bytes(f));
        require(pr_model_file_read(f, t, t->bytes - 1, &byte, 1, NULL) == PR_OK);
        require(pr_model_file_read(f, t, t->bytes, &byte, 1, NULL) != PR_OK);
        if (n <= NUMBERS_MAX) {
            float *numbers = malloc((size_t)n * sizeof *numbers);
            require(pr_convert_floats(f, t, numbers, NULL) == PR_OK);
            free(numbers);
        }
        pack_first_and_last(f, t);
    }
}

static void try_vocab(const pr_model_file *f) {
    static const char text[] = "Hello <s> w\xc3\xb6rld 123\n";
    pr_vocab *v;
    char *chat_template;
    int32_t ids[256];
    size_t n;
    if (pr__vocab_load(f, NULL, &v, &chat_template, NULL) != PR_OK) {
        require(!v && !chat_template);
        return;
    }
    if (pr_tokenize(v, text, strlen(text), PR_TOKENIZE_BOS | PR_TOKENIZE_SPECIAL, ids, 256, &n, NULL) == PR_OK) {
        for (size_t i = 0; i < n; i++) require(ids[i] >= 0 && (size_t)ids[i] < pr_vocab_size(v));
    }
    pr_vocab_free(v);
    pr_free(chat_template);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    char path[64];
    pr_model_file *f;
    pr_err err = {0};
    if (fd < 0) fd = memfd_create("gguf", MFD_CLOEXEC);
    require(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    size_t before = pr_mem_total();
    pr_mem_peak_reset();
    pr_status status = pr_model_file_open(path, &f, &err);
    require(pr_mem_peak() - before < (64 << 10) + 64 * size);
    require(status == PR_OK ? f != NULL : f == NULL && err.status == status && err.text[0] != '\0');
    if (f) {
        walk_meta(f);
        walk_tensors(f);
        try_vocab(f);
        pr_model_file_close(f);
    }
    require(pr_mem_total() == before);
    return 0;
}
