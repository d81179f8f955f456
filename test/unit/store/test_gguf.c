/*
 * The GGUF reader: what it makes of good files, of every kind of damage, and of a system that fails it.
 */
#include "blob.h"

#include <math.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "store/model_file.h"

static char folder[256], path[300];

static int make_folder(void **state) {
    (void)state;
    temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* Places in the sample file, by name. */
typedef enum mark {
    MAGIC,
    VERSION,
    N_TENSORS,
    N_META,
    KEY_LEN,
    KEY,
    KEY_TYPE,
    TEXT_LEN,
    BOOLEAN,
    LIST_TYPE,
    LIST_N,
    WORDS_N,
    WORD_LEN,
    ALIGN_TYPE,
    ALIGN,
    NAME_LEN,
    NAME,
    N_DIMS,
    DIM0,
    DIM1,
    DTYPE,
    OFFSET,
    NAME2,
    DIM2,
    DTYPE2,
    OFFSET2,
    N_MARKS
} mark;

static size_t at[N_MARKS];

static size_t key(blob *b, const char *name, uint32_t type) {
    blob_str(b, name);
    return blob_int(b, type, 4);
}

/* Two tensors, a value of every type, alignment 64. */
static void sample(blob *b, uint32_t version) {
    float f = 1.5f;
    double d = -0.25;
    b->n = 0;
    at[MAGIC] = blob_bytes(b, "GGUF", 4);
    at[VERSION] = blob_int(b, version, 4);
    at[N_TENSORS] = blob_int(b, 2, 8);
    at[N_META] = blob_int(b, 16, 8);
    at[KEY_LEN] = b->n;
    at[KEY] = b->n + 8;
    at[KEY_TYPE] = key(b, "a.text", 8);
    at[TEXT_LEN] = blob_str(b, "h\xc3\xa9llo");
    key(b, "a.u8", 0), blob_int(b, 200, 1);
    key(b, "a.i8", 1), blob_int(b, (uint64_t)-5, 1);
    key(b, "a.u16", 2), blob_int(b, 60000, 2);
    key(b, "a.i16", 3), blob_int(b, (uint64_t)-300, 2);
    key(b, "a.u32", 4), blob_int(b, 4000000000, 4);
    key(b, "a.i32", 5), blob_int(b, (uint64_t)-70000, 4);
    key(b, "a.f32", 6), blob_bytes(b, &f, 4);
    key(b, "a.bool", 7), at[BOOLEAN] = blob_int(b, 1, 1);
    key(b, "a.u64", 10), blob_int(b, UINT64_MAX, 8);
    key(b, "a.i64", 11), blob_int(b, (uint64_t)-1, 8);
    key(b, "a.f64", 12), blob_bytes(b, &d, 8);
    key(b, "a.list", 9), at[LIST_TYPE] = blob_int(b, 3, 4), at[LIST_N] = blob_int(b, 3, 8);
    for (int i = -1; i < 2; i++) blob_int(b, (uint64_t)i, 2);
    key(b, "a.words", 9), blob_int(b, 8, 4), at[WORDS_N] = blob_int(b, 3, 8);
    blob_str(b, "one"), blob_str(b, ""), at[WORD_LEN] = blob_str(b, "three");
    key(b, "a.none", 9), blob_int(b, 6, 4), blob_int(b, 0, 8);
    at[ALIGN_TYPE] = key(b, "general.alignment", 4), at[ALIGN] = blob_int(b, 64, 4);

    at[NAME_LEN] = blob_str(b, "second.weight");
    at[NAME] = at[NAME_LEN] + 8;
    at[N_DIMS] = blob_int(b, 2, 4), at[DIM0] = blob_int(b, 32, 8), at[DIM1] = blob_int(b, 2, 8);
    at[DTYPE] = blob_int(b, 8, 4), at[OFFSET] = blob_int(b, 64, 8); /* q8_0: 68 bytes */
    at[NAME2] = blob_str(b, "first") + 8;
    blob_int(b, 1, 4), at[DIM2] = blob_int(b, 5, 8), at[DTYPE2] = blob_int(b, 0, 4), at[OFFSET2] = blob_int(b, 0, 8);
    blob_pad(b, 64);
    for (int i = 0; i < 5; i++) f = (float)i, blob_bytes(b, &f, 4);
    blob_pad(b, 64);
    for (int i = 0; i < 68; i++) blob_int(b, (uint64_t)i, 1);
}

/* Open must fail with this status and these words in the message, and leave nothing behind. */
static void refused(const blob *b, pr_status want, const char *words) {
    pr_model_file *file;
    pr_err err = {0};
    size_t before = pr_mem_total();
    blob_save(b, path);
    pr_status status = pr_model_file_open(path, &file, &err);
    if (status != want || !strstr(err.text, words)) {
        fail_msg("wanted %s with \"%s\", got %s: %s", pr_status_name(want), words, pr_status_name(status), err.text);
    }
    assert_null(file);
    assert_int_equal(err.status, want);
    assert_non_null(strstr(err.text, "m.gguf"));
    assert_int_equal(pr_mem_total(), before);
}

static void check_sample(const pr_model_file *f) {
    uint32_t u = 0;
    float x = 0;
    bool b = false;
    const char *s = NULL;
    assert_int_equal(pr_model_file_kind(f), PR_FILE_GGUF);
    assert_string_equal(pr_model_file_path(f), path);
    assert_string_equal(pr_model_file_dir(f), folder);
    assert_int_equal(pr_model_file_n_meta(f), 16);
    assert_string_equal(pr_model_file_meta_key(f, 2), "a.i8");
    assert_int_equal(pr_meta_str(f, "a.text", &s, NULL), PR_OK);
    assert_string_equal(s, "h\xc3\xa9llo");
    assert_int_equal(pr_meta_u32(f, "a.u8", &u, NULL), PR_OK);
    assert_int_equal(u, 200);
    assert_int_equal(pr_meta_u32(f, "a.u16", &u, NULL), PR_OK);
    assert_int_equal(u, 60000);
    assert_int_equal(pr_meta_u32(f, "a.u32", &u, NULL), PR_OK);
    assert_int_equal(u, 4000000000u);
    assert_int_equal(pr_meta_f32(f, "a.i8", &x, NULL), PR_OK);
    assert_true(x == -5);
    assert_int_equal(pr_meta_f32(f, "a.i16", &x, NULL), PR_OK);
    assert_true(x == -300);
    assert_int_equal(pr_meta_f32(f, "a.i32", &x, NULL), PR_OK);
    assert_true(x == -70000);
    assert_int_equal(pr_meta_f32(f, "a.f32", &x, NULL), PR_OK);
    assert_true(x == 1.5f);
    assert_int_equal(pr_meta_f32(f, "a.f64", &x, NULL), PR_OK);
    assert_true(x == -0.25f);
    assert_int_equal(pr_meta_f32(f, "a.i64", &x, NULL), PR_OK);
    assert_true(x == -1);
    assert_int_equal(pr_meta_bool(f, "a.bool", &b, NULL), PR_OK);
    assert_true(b);

    const pr_tensor_info *t = pr_model_file_find(f, "second.weight");
    assert_int_equal(pr_model_file_n_tensors(f), 2);
    assert_non_null(t);
    assert_ptr_equal(t, pr_model_file_tensor(f, 1)); /* file order is the order of the data */
    assert_string_equal(pr_model_file_tensor(f, 0)->name, "first");
    assert_int_equal(t->dtype, PR_Q8_0);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 32);
    assert_int_equal(t->dims[1], 2);
    assert_int_equal(t->dims[2] * t->dims[3], 1);
    assert_int_equal(t->bytes, 68);
    unsigned char byte;
    assert_int_equal(pr_model_file_read(f, t, 67, &byte, 1, NULL), PR_OK);
    assert_int_equal(byte, 67);
    assert_null(pr_model_file_find(f, "third"));
    pr_model_file_done(f, t);
}

static void reads_versions_2_and_3(void **state) {
    (void)state;
    static blob b;
    for (uint32_t version = 2; version <= 3; version++) {
        pr_model_file *f;
        pr_err err = {0};
        sample(&b, version);
        blob_save(&b, path);
        if (pr_model_file_open(path, &f, &err) != PR_OK) fail_msg("%s", err.text);
        check_sample(f);
        assert_int_equal(pr_model_file_bytes(f), b.n);
        pr_model_file_close(f);
    }
}

static void reads_arrays(void **state) {
    (void)state;
    static blob b;
    pr_model_file *f;
    char text[80];
    double d;
    int64_t i;
    const char *s;
    size_t len;
    sample(&b, 3);
    blob_save(&b, path);
    assert_int_equal(pr_model_file_open(path, &f, NULL), PR_OK);
    const pr_meta *list = pr_model_file_meta(f, "a.list"), *words = pr_model_file_meta(f, "a.words");
    assert_int_equal(pr_meta_kind(list), PR_META_ARRAY);
    assert_int_equal(pr_meta_len(list), 3);
    assert_true(pr_meta_at_i64(list, 0, &i) && i == -1);
    assert_true(pr_meta_at_f64(list, 2, &d) && d == 1);
    assert_false(pr_meta_at_i64(list, 3, &i));
    assert_false(pr_meta_at_str(list, 0, &s, &len));
    assert_true(pr_meta_at_str(words, 2, &s, &len) && len == 5 && memcmp(s, "three", 5) == 0);
    assert_true(pr_meta_at_str(words, 1, &s, &len) && len == 0);
    assert_false(pr_meta_at_str(words, 3, &s, &len));
    assert_false(pr_meta_at_i64(words, 0, &i));
    assert_int_equal(pr_meta_len(pr_model_file_meta(f, "a.none")), 0);
    assert_string_equal(pr_meta_format(words, text, sizeof text), "[3 strings]");
    assert_string_equal(pr_meta_format(pr_model_file_meta(f, "a.text"), text, sizeof text), "\"h\xc3\xa9llo\"");
    assert_string_equal(pr_meta_format(pr_model_file_meta(f, "a.u64"), text, sizeof text), "18446744073709551615");
    assert_string_equal(pr_meta_format(pr_model_file_meta(f, "a.i16"), text, sizeof text), "-300");
    pr_model_file_close(f);
}

static void typed_reads_name_the_key(void **state) {
    (void)state;
    static blob b;
    pr_model_file *f;
    pr_err err = {0};
    uint32_t u = 7;
    float x = 7;
    bool flag = true;
    const char *s = "kept";
    sample(&b, 3);
    blob_save(&b, path);
    assert_int_equal(pr_model_file_open(path, &f, NULL), PR_OK);
    assert_int_equal(pr_meta_u32(f, "absent", &u, &err), PR_OK);
    assert_int_equal(pr_meta_str(f, "absent", &s, &err), PR_OK);
    assert_int_equal(u, 7);
    assert_string_equal(s, "kept");
    assert_int_equal(pr_meta_u32(f, "a.i8", &u, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "a.i8"));
    assert_int_equal(pr_meta_u32(f, "a.u64", &u, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_meta_u32(f, "a.f32", &u, &err), PR_ERR_FORMAT); /* 1.5 */
    assert_int_equal(pr_meta_u32(f, "a.bool", &u, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_meta_f32(f, "a.u32", &x, &err), PR_OK); /* 4e9 is a float */
    assert_int_equal(pr_meta_f32(f, "a.u64", &x, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_meta_f32(f, "a.text", &x, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_meta_bool(f, "a.u8", &flag, &err), PR_ERR_FORMAT);
    assert_int_equal(pr_meta_str(f, "a.words", &s, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "[3 strings]"));
    assert_int_equal(u, 7);
    pr_model_file_close(f);
}

/* One place of the sample is overwritten with `bytes` bytes of value. */
typedef struct damage {
    mark where;
    uint64_t value;
    size_t bytes;
    pr_status status;
    const char *words;
} damage;

static const damage damages[] = {
    {VERSION, 1, 4, PR_ERR_UNSUPPORTED, "GGUF version 1"},
    {VERSION, 4, 4, PR_ERR_UNSUPPORTED, "GGUF version 4"},
    {VERSION, 0x03000000, 4, PR_ERR_UNSUPPORTED, "big-endian"},
    {N_TENSORS, (uint64_t)1 << 60, 8, PR_ERR_FORMAT, "cannot fit into a file"},
    {N_META, (uint64_t)1 << 60, 8, PR_ERR_FORMAT, "cannot fit into a file"},
    {N_META, 17, 8, PR_ERR_FORMAT, ""}, /* tensors read as metadata */
    {KEY_LEN, 0, 8, PR_ERR_FORMAT, "a metadata key is 0 bytes long"},
    {KEY_LEN, UINT64_MAX, 8, PR_ERR_FORMAT, "a metadata key is 18446744073709551615 bytes long"},
    {KEY_LEN, 60000, 8, PR_ERR_FORMAT, "a metadata key takes 60000 bytes"},
    {KEY, 0, 1, PR_ERR_FORMAT, "unprintable bytes: '?.text'"},
    {KEY, 0x1b, 1, PR_ERR_FORMAT, "unprintable bytes: '?.text'"},
    {KEY_TYPE, 13, 4, PR_ERR_FORMAT, "a.text: unknown value type 13"},
    {TEXT_LEN, (uint64_t)1 << 60, 8, PR_ERR_FORMAT, "a.text takes 1152921504606846976 bytes"},
    {BOOLEAN, 2, 1, PR_ERR_FORMAT, "a.bool: a boolean with the value 2"},
    {LIST_TYPE, 9, 4, PR_ERR_UNSUPPORTED, "a.list: arrays of arrays"},
    {LIST_TYPE, 99, 4, PR_ERR_FORMAT, "a.list: unknown element type 99"},
    {LIST_N, (uint64_t)1 << 63, 8, PR_ERR_FORMAT, "a.list: 9223372036854775808 elements cannot fit"},
    {LIST_N, 500, 8, PR_ERR_FORMAT, "a.list takes 1000 bytes"},
    {WORDS_N, (uint64_t)1 << 60, 8, PR_ERR_FORMAT, "a.words: 1152921504606846976 elements cannot fit"},
    {WORDS_N, 60, 8, PR_ERR_FORMAT, "a.words"},
    {WORD_LEN, (uint64_t)1 << 61, 8, PR_ERR_FORMAT, "element 2: truncated or damaged: a.words"},
    {ALIGN_TYPE, 5, 4, PR_ERR_FORMAT, "general.alignment must be a 32-bit unsigned"},
    {ALIGN, 0, 4, PR_ERR_FORMAT, "general.alignment is 0"},
    {ALIGN, 48, 4, PR_ERR_FORMAT, "general.alignment is 48"},
    {ALIGN, 1u << 31, 4, PR_ERR_FORMAT, "general.alignment is 2147483648"},
    {ALIGN, 128, 4, PR_ERR_FORMAT, "tensor 'second.weight': offset 64 is not a multiple of the alignment 128"},
    {NAME_LEN, 0, 8, PR_ERR_FORMAT, "a tensor name is 0 bytes long"},
    {NAME_LEN, 65, 8, PR_ERR_FORMAT, "a tensor name is 65 bytes long"},
    {NAME, 0, 1, PR_ERR_FORMAT, "a tensor name holds unprintable bytes: '?econd.weight'"},
    {N_DIMS, 0, 4, PR_ERR_FORMAT, "tensor 'second.weight' has 0 dimensions"},
    {N_DIMS, 5, 4, PR_ERR_FORMAT, "tensor 'second.weight' has 5 dimensions"},
    {DIM0, 0, 8, PR_ERR_FORMAT, "tensor 'second.weight' has a dimension of 0"},
    {DIM1, 0, 8, PR_ERR_FORMAT, "tensor 'second.weight' has a dimension of 0"},
    {DIM0, 33, 8, PR_ERR_FORMAT, "tensor 'second.weight': rows of 33 numbers are not whole q8_0 blocks of 32"},
    {DIM0, (uint64_t)1 << 63, 8, PR_ERR_FORMAT, "tensor 'second.weight': the product of its dimensions overflows"},
    {DIM1, (uint64_t)1 << 62, 8, PR_ERR_FORMAT, "tensor 'second.weight': the product of its dimensions overflows"},
    {DIM1, 3, 8, PR_ERR_FORMAT, "tensor 'second.weight' needs 102 bytes at offset"},
    {DTYPE, 16, 4, PR_ERR_UNSUPPORTED, "tensor 'second.weight' has ggml type 16 (IQ2_XXS)"},
    {DTYPE, 0x7fffffff, 4, PR_ERR_UNSUPPORTED, "tensor 'second.weight' has ggml type 2147483647 (unknown)"},
    {OFFSET, 32, 8, PR_ERR_FORMAT, "tensor 'second.weight': offset 32 is not a multiple"},
    {OFFSET, 1 << 20, 8, PR_ERR_FORMAT, "truncated, perhaps a download"},
    {OFFSET, UINT64_MAX - 63, 8, PR_ERR_FORMAT, "truncated, perhaps a download"},
    {OFFSET, 0, 8, PR_ERR_FORMAT, "overlap"},
    {DIM2, 17, 8, PR_ERR_FORMAT, "the data of tensors 'first' and 'second.weight' overlap"},
};

static void refuses_damaged_files(void **state) {
    (void)state;
    static blob b;
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        const damage *d = &damages[i];
        sample(&b, 3);
        memcpy(b.data + at[d->where], &d->value, d->bytes);
        refused(&b, d->status, d->words);
    }
}

static void refuses_names_twice(void **state) {
    (void)state;
    static blob b;
    sample(&b, 3);
    memcpy(b.data + at[KEY], "a.bool", 6);
    refused(&b, PR_ERR_FORMAT, "metadata key 'a.bool' occurs twice");
    b.n = 0;
    blob_bytes(&b, "GGUF", 4), blob_int(&b, 3, 4), blob_int(&b, 2, 8), blob_int(&b, 0, 8);
    for (uint64_t i = 0; i < 2; i++) {
        blob_str(&b, "same"), blob_int(&b, 1, 4), blob_int(&b, 8, 8), blob_int(&b, 0, 4), blob_int(&b, 32 * i, 8);
    }
    blob_pad(&b, 64);
    for (int i = 0; i < 64; i++) blob_int(&b, 0, 1);
    refused(&b, PR_ERR_FORMAT, "tensor 'same' occurs twice");
}

static void refuses_parts_of_split_files(void **state) {
    (void)state;
    static blob b;
    b.n = 0;
    blob_bytes(&b, "GGUF", 4), blob_int(&b, 3, 4), blob_int(&b, 0, 8), blob_int(&b, 1, 8);
    key(&b, "split.count", 2), blob_int(&b, 3, 2);
    refused(&b, PR_ERR_UNSUPPORTED, "one of 3 parts of a split GGUF");
}

static void names_what_is_no_model(void **state) {
    (void)state;
    static const struct {
        const char *head;
        size_t n;
        const char *words;
    } files[] = {
        {"", 0, "it is empty"},
        {"G", 1, "starts with 47"},
        {"GGU", 3, "starts with 47 47 55"},
        {"\xff\xd8\xff\xe0\0\x10JFIF", 10, "starts with ff d8 ff e0 00 10 4a 46 (a JPEG image)"},
        {"\x89PNG\r\n\x1a\n", 8, "(a PNG image)"},
        {"PK\x03\x04"
         "abcdefgh",
         12, "zip archive or a PyTorch checkpoint"},
        {"<!DOCTYPE html><html>", 21, "an HTML page"},
        {"<html>", 6, "an HTML page"},
        {"version https://git-lfs.github.com/spec/v1\noid", 46, "a git-lfs pointer"},
        {"tjgg\1\0\0\0", 8, "a GGML file from before GGUF"},
        {"{\"a\": 1}", 8, "JSON text"},
        {"\x80\x02}q\0", 5, "pickle"},
        {"\0\0\0\0\0\0\0\0\0\0\0\0", 12, "starts with 00 00"},
    };
    static blob b;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        b.n = 0;
        blob_bytes(&b, files[i].head, files[i].n);
        refused(&b, PR_ERR_FORMAT, files[i].words);
    }
}

static void refuses_paths_that_are_no_files(void **state) {
    (void)state;
    pr_model_file *f;
    pr_err err = {0};
    assert_int_equal(pr_model_file_open("/nowhere/m.gguf", &f, &err), PR_ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "/nowhere/m.gguf"));
    assert_int_equal(pr_model_file_open("/dev/null", &f, &err), PR_ERR_ARG);
    assert_null(f);
}

/* A count that a small file cannot hold must not cost memory either. */
static void memory_is_bounded_by_the_file(void **state) {
    (void)state;
    static blob b;
    static const mark counts[] = {N_TENSORS, N_META, TEXT_LEN, LIST_N, WORDS_N, WORD_LEN, KEY_LEN, NAME_LEN};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        for (unsigned shift = 0; shift < 64; shift++) {
            pr_model_file *f;
            uint64_t count = (uint64_t)1 << shift;
            sample(&b, 3);
            memcpy(b.data + at[counts[i]], &count, 8);
            blob_save(&b, path);
            pr_mem_peak_reset();
            size_t before = pr_mem_total();
            if (pr_model_file_open(path, &f, NULL) == PR_OK) pr_model_file_close(f);
            assert_true(pr_mem_peak() - before < 64 << 10);
        }
    }
}

static void truncation_never_crashes(void **state) {
    (void)state;
    static blob b;
    sample(&b, 3);
    size_t before = pr_mem_total();
    for (size_t n = 0; n < b.n; n++) {
        pr_model_file *f;
        pr_err err = {0};
        blob_save_part(&b, n, path);
        assert_int_equal(pr_model_file_open(path, &f, &err), PR_ERR_FORMAT);
        assert_true(err.text[0] != '\0');
        assert_int_equal(pr_mem_total(), before);
    }
}

/* Every byte of the header in turn gets other values: opens or is refused, and what opens can be walked. */
static void flipped_bytes_never_crash(void **state) {
    (void)state;
    static const unsigned char flips[] = {0x01, 0x80, 0xff};
    static blob b;
    sample(&b, 3);
    size_t header = b.n - 128 - 68;
    for (size_t i = 0; i < header * sizeof flips; i++) {
        pr_model_file *f;
        sample(&b, 3);
        b.data[i / sizeof flips] ^= flips[i % sizeof flips];
        blob_save(&b, path);
        if (pr_model_file_open(path, &f, NULL) != PR_OK) continue;
        for (size_t k = 0; k < pr_model_file_n_meta(f); k++) {
            char text[100];
            pr_meta_format(pr_model_file_meta(f, pr_model_file_meta_key(f, k)), text, sizeof text);
        }
        for (size_t k = 0; k < pr_model_file_n_tensors(f); k++) {
            const pr_tensor_info *t = pr_model_file_tensor(f, k);
            unsigned char byte;
            assert_int_equal(pr_model_file_read(f, t, t->bytes - 1, &byte, 1, NULL), PR_OK);
        }
        pr_model_file_close(f);
    }
}

static void survives_short_reads_and_read_errors(void **state) {
    (void)state;
    static blob b;
    pr_model_file *f;
    pr_err err = {0};
    sample(&b, 3);
    blob_save(&b, path);
    pr_file_fault(1);
    assert_int_equal(pr_model_file_open(path, &f, &err), PR_OK);
    check_sample(f);
    pr_file_fault(0);
    pr_model_file_close(f);

    size_t before = pr_mem_total();
    int n = 1;
    for (;; n++) {
        pr_file_fault(-n);
        pr_status status = pr_model_file_open(path, &f, &err);
        if (status == PR_OK) break;
        assert_int_equal(status, PR_ERR_IO);
        assert_int_equal(pr_mem_total(), before);
        assert_true(n < 10);
    }
    assert_true(n > 1); /* it did fail at least once */
    unsigned char byte;
    pr_file_fault(-1);
    const pr_tensor_info *t = pr_model_file_find(f, "first");
    assert_int_equal(pr_model_file_read(f, t, 0, &byte, 1, &err), PR_OK);
    assert_int_equal(pr_model_file_read(f, t, 0, &byte, 1, &err), PR_ERR_IO);
    assert_non_null(strstr(err.text, "'first'"));
    pr_file_fault(0);
    pr_model_file_close(f);
}

static void refuses_reads_past_a_tensor(void **state) {
    (void)state;
    static blob b;
    pr_model_file *f;
    unsigned char bytes[8];
    sample(&b, 3);
    blob_save(&b, path);
    assert_int_equal(pr_model_file_open(path, &f, NULL), PR_OK);
    const pr_tensor_info *t = pr_model_file_find(f, "first");
    assert_int_equal(pr_model_file_read(f, t, 12, bytes, 8, NULL), PR_OK);
    assert_int_equal(pr_model_file_read(f, t, 13, bytes, 8, NULL), PR_ERR_ARG);
    assert_int_equal(pr_model_file_read(f, t, UINT64_MAX, bytes, 8, NULL), PR_ERR_ARG);
    pr_model_file_close(f);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    static blob b;
    pr_model_file *f;
    sample(&b, 3);
    blob_save(&b, path);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (int64_t n = 0;; n++) {
            pr_err err = {0};
            size_t before = pr_mem_total();
            pr_mem_fail_after(n, sticky);
            pr_status status = pr_model_file_open(path, &f, &err);
            bool failed = pr_mem_failed();
            pr_mem_fail_after(-1, false);
            if (status == PR_OK) {
                check_sample(f);
                pr_model_file_close(f);
            } else {
                assert_int_equal(status, PR_ERR_NOMEM);
            }
            assert_int_equal(pr_mem_total(), before);
            if (!failed) break;
            assert_true(n < 100);
        }
    }
}

static void reads_real_files(void **state) {
    (void)state;
    static const struct {
        const char *name, *arch;
        size_t n_meta, n_tensors, n_tokens;
    } files[] = {
        {"vocab/falcon.gguf", "falcon", 18, 0, 65024},
        {"vocab/phi-3.gguf", "phi3", 26, 0, 32064},
        {"models/stories260K/stories260K-f16.gguf", "llama", 19, 48, 512},
        {"models/prose-6m/prose-6m-f16.gguf", "llama", 22, 56, 4096},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[512];
        pr_model_file *f;
        pr_err err = {0};
        const char *arch = NULL;
        if (!shared_path(name, sizeof name, files[i].name)) skip();
        if (pr_model_file_open(name, &f, &err) != PR_OK) fail_msg("%s", err.text);
        assert_int_equal(pr_meta_str(f, "general.architecture", &arch, &err), PR_OK);
        assert_string_equal(arch, files[i].arch);
        size_t counted = pr_model_file_n_meta(f) + 3; /* the reference lists version and counts, too */
        assert_in_range(counted, files[i].n_meta, files[i].n_meta + 3);
        assert_int_equal(pr_model_file_n_tensors(f), files[i].n_tensors);
        assert_int_equal(pr_meta_len(pr_model_file_meta(f, "tokenizer.ggml.tokens")), files[i].n_tokens);
        pr_model_file_close(f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_versions_2_and_3),
        cmocka_unit_test(reads_arrays),
        cmocka_unit_test(typed_reads_name_the_key),
        cmocka_unit_test(refuses_damaged_files),
        cmocka_unit_test(refuses_names_twice),
        cmocka_unit_test(refuses_parts_of_split_files),
        cmocka_unit_test(names_what_is_no_model),
        cmocka_unit_test(refuses_paths_that_are_no_files),
        cmocka_unit_test(memory_is_bounded_by_the_file),
        cmocka_unit_test(truncation_never_crashes),
        cmocka_unit_test(flipped_bytes_never_crash),
        cmocka_unit_test(survives_short_reads_and_read_errors),
        cmocka_unit_test(refuses_reads_past_a_tensor),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(reads_real_files),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
