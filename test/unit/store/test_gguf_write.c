/*
 * The GGUF writer: what it writes is read back, and half a file never appears under its name.
 */
#include "blob.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/os.h"
#include "store/gguf_write.h"
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
    return rmdir(folder); /* fails when a test left something in it */
}

static int n_entries(void) {
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static const float scores[3] = {0, -1.5f, 2};
static const int32_t types[2] = {-1, 6};
static const char *const words[3] = {"a", "", "\xe2\x96\x81the"};

/* Three tensors, in pieces of `piece` bytes. */
static pr_status write_sample(uint32_t alignment, size_t piece, pr_err *err) {
    static const uint64_t dims[3][2] = {{5, 1}, {32, 3}, {2, 7}};
    uint8_t data[20 + 3 * 34 + 56];
    pr_gguf_writer *w;
    pr_status status = pr_gguf_create(path, alignment, &w, err);
    if (status != PR_OK) return status;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7);
    pr_gguf_meta_str(w, "general.architecture", "llama");
    pr_gguf_meta_u32(w, "n", 4000000000u);
    pr_gguf_meta_f32(w, "f", -0.5f);
    pr_gguf_meta_bool(w, "yes", true);
    pr_gguf_meta_strs(w, "words", words, 3);
    pr_gguf_meta_f32s(w, "scores", scores, 3);
    pr_gguf_meta_i32s(w, "types", types, 2);
    pr_gguf_tensor(w, "one", PR_F32, 1, dims[0]);
    pr_gguf_tensor(w, "two", PR_Q8_0, 2, dims[1]);
    pr_gguf_tensor(w, "three", PR_F32, 2, dims[2]);
    for (size_t at = 0; at < sizeof data && status == PR_OK; at += piece) {
        status = pr_gguf_data(w, data + at, sizeof data - at < piece ? sizeof data - at : piece, err);
    }
    if (status == PR_OK) return pr_gguf_finish(w, err);
    pr_gguf_abort(w);
    return status;
}

static void check_sample(uint32_t alignment) {
    pr_model_file *f;
    pr_err err = {0};
    uint32_t n = 0;
    float x = 0;
    bool yes = false;
    const char *s = "";
    size_t len;
    double d;
    int64_t i;
    if (pr_model_file_open(path, &f, &err) != PR_OK) fail_msg("%s", err.text);
    pr_meta_str(f, "general.architecture", &s, NULL);
    assert_string_equal(s, "llama");
    assert_int_equal(pr_meta_u32(f, "n", &n, NULL), PR_OK);
    assert_int_equal(n, 4000000000u);
    assert_int_equal(pr_meta_f32(f, "f", &x, NULL), PR_OK);
    assert_true(x == -0.5f);
    assert_int_equal(pr_meta_bool(f, "yes", &yes, NULL), PR_OK);
    assert_true(yes);
    assert_true(pr_meta_at_str(pr_model_file_meta(f, "words"), 2, &s, &len) && len == 6 && memcmp(s, words[2], 6) == 0);
    assert_true(pr_meta_at_f64(pr_model_file_meta(f, "scores"), 1, &d) && d == -1.5);
    assert_true(pr_meta_at_i64(pr_model_file_meta(f, "types"), 0, &i) && i == -1);
    assert_int_equal(pr_model_file_n_meta(f), alignment == 32 ? 7 : 8);

    static const struct {
        const char *name;
        size_t from, bytes;
    } tensors[] = {{"one", 0, 20}, {"two", 20, 102}, {"three", 122, 56}};
    assert_int_equal(pr_model_file_n_tensors(f), 3);
    for (size_t k = 0; k < 3; k++) {
        const pr_tensor_info *t = pr_model_file_find(f, tensors[k].name);
        uint8_t data[128];
        assert_ptr_equal(t, pr_model_file_tensor(f, k));
        assert_int_equal(t->bytes, tensors[k].bytes);
        assert_int_equal(t->offset % alignment, 0);
        assert_int_equal(pr_model_file_read(f, t, 0, data, t->bytes, NULL), PR_OK);
        for (size_t b = 0; b < t->bytes; b++) assert_int_equal(data[b], (uint8_t)((tensors[k].from + b) * 7));
    }
    pr_model_file_close(f);
}

static void writes_what_is_read_back(void **state) {
    (void)state;
    static const size_t pieces[] = {1, 20, 33, 178};
    static const uint32_t alignments[] = {8, 32, 4096};
    for (size_t a = 0; a < 3; a++) {
        for (size_t p = 0; p < 4; p++) {
            pr_err err = {0};
            if (write_sample(alignments[a], pieces[p], &err) != PR_OK) fail_msg("%s", err.text);
            check_sample(alignments[a]);
            assert_int_equal(n_entries(), 1);
        }
    }
}

static void writes_files_without_tensors(void **state) {
    (void)state;
    pr_gguf_writer *w;
    pr_model_file *f;
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    pr_gguf_meta_u32(w, "n", 1);
    assert_int_equal(pr_gguf_finish(w, NULL), PR_OK);
    assert_int_equal(pr_model_file_open(path, &f, NULL), PR_OK);
    assert_int_equal(pr_model_file_n_tensors(f), 0);
    pr_model_file_close(f);
}

static void large_pieces_pass_the_buffer(void **state) {
    (void)state;
    enum { N = 300000 };
    static float data[N];
    const uint64_t dims[1] = {N};
    pr_gguf_writer *w;
    pr_model_file *f;
    for (int i = 0; i < N; i++) data[i] = (float)i;
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    pr_gguf_tensor(w, "t", PR_F32, 1, dims);
    assert_int_equal(pr_gguf_data(w, data, 1000, NULL), PR_OK);
    assert_int_equal(pr_gguf_data(w, data + 250, sizeof data - 1000, NULL), PR_OK);
    assert_int_equal(pr_gguf_finish(w, NULL), PR_OK);
    assert_int_equal(pr_model_file_open(path, &f, NULL), PR_OK);
    float last;
    assert_int_equal(pr_model_file_read(f, pr_model_file_tensor(f, 0), 4 * (N - 1), &last, 4, NULL), PR_OK);
    assert_true(last == N - 1);
    pr_model_file_close(f);
}

/* Tensors whose data comes in any order, after some that came in theirs: what is read is what in-order writing gives. */
static void data_goes_to_its_place(void **state) {
    (void)state;
    enum { N = 4 };
    static const uint64_t dims[N] = {5, 40, 3, 64};
    float data[N][64];
    pr_gguf_writer *w;
    pr_model_file *f;
    pr_err err = {0};
    for (uint32_t i = 0; i < N * 64; i++) data[i / 64][i % 64] = (float)i;
    assert_int_equal(pr_gguf_create(path, 4096, &w, &err), PR_OK);
    for (uint32_t i = 0; i < N; i++) pr_gguf_tensor(w, (const char *[]){"a", "b", "c", "d"}[i], PR_F32, 1, &dims[i]);
    assert_int_equal(pr_gguf_data(w, data[0], 5 * sizeof(float), &err), PR_OK);
    assert_int_equal(pr_gguf_data_at(w, 3, 0, data[3], 64 * sizeof(float), &err), PR_OK);
    assert_int_equal(pr_gguf_data_at(w, 1, 30 * sizeof(float), &data[1][30], 10 * sizeof(float), &err), PR_OK);
    assert_int_equal(pr_gguf_data_at(w, 1, 0, data[1], 30 * sizeof(float), &err), PR_OK);
    assert_int_equal(pr_gguf_data_at(w, 2, 0, data[2], 3 * sizeof(float), &err), PR_OK);
    assert_int_equal(pr_gguf_finish(w, &err), PR_OK);
    assert_int_equal(pr_model_file_open(path, &f, &err), PR_OK);
    for (uint32_t i = 0; i < N; i++) {
        float got[64];
        size_t bytes = (size_t)dims[i] * sizeof(float);
        assert_int_equal(pr_model_file_read(f, pr_model_file_tensor(f, i), 0, got, bytes, &err), PR_OK);
        assert_memory_equal(got, data[i], bytes);
    }
    pr_model_file_close(f);
    unlink(path);
}

/* After a wrong call the next one that reports does so, and nothing is left. */
static void refused(void (*describe)(pr_gguf_writer *w), const char *words_wanted) {
    pr_gguf_writer *w;
    pr_err err = {0};
    unlink(path);
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    describe(w);
    pr_status status = pr_gguf_finish(w, &err);
    assert_int_not_equal(status, PR_OK);
    assert_int_equal(err.status, status);
    if (!strstr(err.text, words_wanted)) fail_msg("wanted \"%s\", got: %s", words_wanted, err.text);
    assert_int_equal(n_entries(), 0);
}

static const uint64_t four[4] = {4, 4, 4, 4};

static void long_name(pr_gguf_writer *w) {
    pr_gguf_tensor(w, "0123456789012345678901234567890123456789012345678901234567890123x", PR_F32, 1, four);
}
static void odd_rows(pr_gguf_writer *w) { pr_gguf_tensor(w, "t", PR_Q8_0, 1, four); }
static void no_dims(pr_gguf_writer *w) { pr_gguf_tensor(w, "t", PR_F32, 0, four); }
static void too_many_dims(pr_gguf_writer *w) { pr_gguf_tensor(w, "t", PR_F32, 5, four); }
static void no_data(pr_gguf_writer *w) { pr_gguf_tensor(w, "t", PR_F32, 1, four); }
static void some_data(pr_gguf_writer *w) {
    pr_gguf_tensor(w, "t", PR_F32, 1, four);
    pr_gguf_data(w, four, 3, NULL);
}
static void much_data(pr_gguf_writer *w) {
    pr_gguf_tensor(w, "t", PR_F32, 1, four);
    assert_int_equal(pr_gguf_data(w, four, 17, NULL), PR_ERR_ARG);
}
static void data_past_the_end(pr_gguf_writer *w) {
    pr_gguf_tensor(w, "t", PR_F32, 1, four);
    assert_int_equal(pr_gguf_data_at(w, 0, 8, four, 16, NULL), PR_ERR_ARG);
}
static void data_of_no_tensor(pr_gguf_writer *w) {
    pr_gguf_tensor(w, "t", PR_F32, 1, four);
    assert_int_equal(pr_gguf_data_at(w, 1, 0, four, 16, NULL), PR_ERR_ARG);
}
static void back_in_order(pr_gguf_writer *w) {
    pr_gguf_tensor(w, "t", PR_F32, 1, four);
    pr_gguf_tensor(w, "u", PR_F32, 1, four);
    assert_int_equal(pr_gguf_data_at(w, 1, 0, four, 16, NULL), PR_OK);
    assert_int_equal(pr_gguf_data(w, four, 16, NULL), PR_ERR_ARG);
}
static void a_gap(pr_gguf_writer *w) {
    pr_gguf_tensor(w, "t", PR_F32, 1, four);
    assert_int_equal(pr_gguf_data_at(w, 0, 8, four, 8, NULL), PR_OK);
}
static void late_meta(pr_gguf_writer *w) {
    some_data(w);
    pr_gguf_meta_u32(w, "late", 1);
}
static void late_tensor(pr_gguf_writer *w) {
    some_data(w);
    pr_gguf_tensor(w, "late", PR_F32, 1, four);
}

static void refuses_wrong_calls(void **state) {
    (void)state;
    pr_gguf_writer *w;
    pr_err err = {0};
    refused(long_name, "has no place in GGUF");
    refused(odd_rows, "not whole q8_0 blocks");
    refused(no_dims, "0 dimensions");
    refused(too_many_dims, "5 dimensions");
    refused(no_data, "tensor 't' lacks 16 bytes");
    refused(some_data, "tensor 't' lacks 13 bytes");
    refused(much_data, "1 bytes of data after the last tensor");
    refused(data_past_the_end, "no place in tensor 0");
    refused(data_of_no_tensor, "no place in tensor 1");
    refused(back_in_order, "16 bytes of data");
    refused(a_gap, "tensor 't' lacks 8 bytes");
    refused(late_meta, "late comes after the first data");
    refused(late_tensor, "'late' comes after the first data");
    assert_int_equal(pr_gguf_create(path, 24, &w, &err), PR_ERR_ARG);
    assert_int_equal(pr_gguf_create("/nowhere/m.gguf", 32, &w, &err), PR_ERR_NOTFOUND);
    assert_null(w);
    pr_gguf_abort(NULL);
}

static void checks_the_disk_before_it_writes(void **state) {
    (void)state;
    const uint64_t dims[2] = {(uint64_t)1 << 40, 1 << 10};
    pr_gguf_writer *w;
    pr_err err = {0};
    unlink(path);
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    pr_gguf_tensor(w, "t", PR_F32, 2, dims);
    assert_int_equal(pr_gguf_data(w, dims, 8, &err), PR_ERR_LIMIT);
    assert_non_null(strstr(err.text, "disk"));
    pr_gguf_abort(w);
    assert_int_equal(n_entries(), 0);
}

static void replaces_nothing_but_regular_files(void **state) {
    (void)state;
    struct stat there;
    pr_gguf_writer *w;
    pr_err err = {0};
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* stands for /dev/full and its like */
    assert_int_equal(pr_gguf_create(path, 32, &w, &err), PR_ERR_ARG);
    assert_null(w);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "regular file"));
    assert_int_equal(lstat(path, &there), 0);
    assert_true(S_ISFIFO(there.st_mode));
    assert_int_equal(n_entries(), 1);
    unlink(path);
}

static void a_failed_write_leaves_nothing(void **state) {
    (void)state;
    struct rlimit old, small = {.rlim_cur = 100, .rlim_max = RLIM_INFINITY};
    pr_err err = {0};
    unlink(path);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    pr_status status = write_sample(32, 178, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(status, PR_ERR_IO);
    assert_non_null(strstr(err.text, "cannot write"));
    assert_int_equal(n_entries(), 0);
}

/* ---- what comes later, what is copied ---- */

static void later_values_are_patched_in(void **state) {
    (void)state;
    static const int32_t numbers[3] = {7, -8, 9}, old[3] = {1, 2, 3};
    static const float reals[2] = {0.5f, -2};
    for (int when = 0; when < 3; when++) { /* before the data, while the header is in the buffer, when it is out */
        static uint8_t data[1 << 20];
        const uint64_t dims[1] = {sizeof data};
        pr_gguf_writer *w;
        pr_model_file *f;
        pr_err err = {0};
        int64_t i;
        double d;
        assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
        pr_gguf_meta_u32(w, "before", 1);
        pr_gguf_meta_later(w, "reals", PR_F32, 2);
        pr_gguf_meta_later(w, "numbers", PR_I32, 3);
        pr_gguf_meta_later(w, "none", PR_I32, 0);
        pr_gguf_meta_u32(w, "after", 2);
        pr_gguf_tensor(w, "t", PR_I8, 1, dims);
        if (when > 0) assert_int_equal(pr_gguf_data(w, data, when == 1 ? 10 : sizeof data, &err), PR_OK);
        assert_int_equal(pr_gguf_patch(w, "numbers", old, sizeof old, &err), PR_OK);
        assert_int_equal(pr_gguf_patch(w, "numbers", numbers, sizeof numbers, &err), PR_OK);
        assert_int_equal(pr_gguf_patch(w, "reals", reals, sizeof reals, &err), PR_OK);
        assert_int_equal(pr_gguf_patch(w, "none", reals, 0, &err), PR_OK);
        if (when < 2) {
            size_t done = when == 1 ? 10 : 0;
            assert_int_equal(pr_gguf_data(w, data + done, sizeof data - done, &err), PR_OK);
        }
        assert_int_equal(pr_gguf_flush(w, &err), PR_OK);
        for (int finished = 0; finished < 2; finished++) {
            if (pr_model_file_open(finished ? path : pr_gguf_part_path(w), &f, &err)) fail_msg("%s", err.text);
            assert_true(pr_meta_at_i64(pr_model_file_meta(f, "numbers"), 1, &i) && i == -8);
            assert_true(pr_meta_at_i64(pr_model_file_meta(f, "numbers"), 2, &i) && i == 9);
            assert_true(pr_meta_at_f64(pr_model_file_meta(f, "reals"), 1, &d) && d == -2);
            pr_model_file_close(f);
            if (!finished) assert_int_equal(pr_gguf_finish(w, &err), PR_OK);
        }
    }
}

static void patch_unknown(pr_gguf_writer *w) {
    pr_gguf_meta_later(w, "numbers", PR_I32, 2);
    pr_gguf_patch(w, "number", four, 8, NULL);
}
static void patch_too_much(pr_gguf_writer *w) {
    pr_gguf_meta_later(w, "numbers", PR_I32, 2);
    pr_gguf_patch(w, "numbers", four, 12, NULL);
}
static void kept_error(pr_gguf_writer *w) {
    pr_gguf_keep(w, &(pr_err){.status = PR_ERR_LIMIT, .text = "the caller's own"});
    pr_gguf_meta_u32(w, "n", 1);
}

static void refuses_wrong_patches(void **state) {
    (void)state;
    refused(patch_unknown, "number was described with 0 bytes, not 8");
    refused(patch_too_much, "numbers was described with 8 bytes, not 12");
    refused(kept_error, "the caller's own");
}

/* Every kind of value, through a file that was made byte by byte. */
static void copies_any_value(void **state) {
    (void)state;
    char source[300];
    static blob b;
    snprintf(source, sizeof source, "%s/source.gguf", folder);
    b.n = 0;
    blob_bytes(&b, "GGUF", 4);
    blob_int(&b, 3, 4);
    blob_int(&b, 0, 8);
    blob_int(&b, 13 + 13 + 2, 8);
    for (uint32_t kind = 0; kind < 13; kind++) { /* scalars; of 9, the array, an empty one */
        static const uint8_t widths[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        char key[16];
        snprintf(key, sizeof key, "k%u", kind);
        blob_str(&b, key);
        blob_int(&b, kind, 4);
        if (kind == 8) blob_str(&b, "some text");
        else if (kind == 9) blob_int(&b, 4, 4), blob_int(&b, 0, 8);
        else blob_int(&b, kind == 7 ? 1 : 0x4142434445464748u + kind, widths[kind]);
        snprintf(key, sizeof key, "a%u", kind);
        blob_str(&b, key);
        blob_int(&b, 9, 4);
        blob_int(&b, kind == 9 ? 8 : kind, 4);
        blob_int(&b, kind == 9 ? 0 : 3, 8);
        for (int i = 0; i < 3 && kind != 9; i++) {
            if (kind == 8) blob_str(&b, i == 1 ? "" : "words");
            else blob_int(&b, kind == 7 ? 1 : 0x4142434445464748u + kind, widths[kind]);
        }
    }
    size_t from = 24, to = b.n;
    blob_str(&b, "general.alignment");
    blob_int(&b, 4, 4);
    blob_int(&b, 64, 4);
    blob_str(&b, "last");
    blob_int(&b, 4, 4);
    blob_int(&b, 5, 4);
    blob_pad(&b, 64);
    blob_save(&b, source);

    pr_model_file *f;
    pr_gguf_writer *w;
    pr_err err = {0};
    char *copy;
    size_t len;
    if (pr_model_file_open(source, &f, &err)) fail_msg("%s", err.text);
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    for (size_t i = 0; i < pr_model_file_n_meta(f); i++) pr_gguf_meta_copy(w, f, pr_model_file_meta_key(f, i));
    if (pr_gguf_finish(w, &err)) fail_msg("%s", err.text);
    assert_int_equal(pr_file_slurp(path, 1 << 20, &copy, &len, NULL), PR_OK);
    assert_true(len > to && memcmp(copy + from, b.data + from, to - from) == 0);
    pr_free(copy);
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    pr_gguf_meta_copy(w, f, "nothing");
    pr_gguf_meta_copy(w, f, "nor this"); /* the first error is the one that is told */
    assert_int_equal(pr_gguf_finish(w, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "has no nothing"));
    pr_model_file_close(f);
    unlink(source);
}

static void parts_of_killed_writers_go(void **state) {
    (void)state;
    static const char *const suffixes[] = {".part1", ".part4000000000", ".part", ".part1x"};
    char left[sizeof suffixes / sizeof *suffixes][300];
    pr_gguf_writer *w;
    for (size_t i = 0; i < 4; i++) {
        snprintf(left[i], sizeof left[i], "%s%s", path, suffixes[i]);
        save_text(left[i], "half a file");
    }
    int held = open(left[0], O_RDONLY);
    assert_true(held >= 0);
    assert_int_equal(flock(held, LOCK_EX), 0);
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    assert_true(pr_path_exists(left[0])); /* its writer is at work */
    assert_false(pr_path_exists(left[1]));
    assert_true(pr_path_exists(left[2]) && pr_path_exists(left[3])); /* other things */
    pr_gguf_abort(w);
    close(held);
    assert_int_equal(pr_gguf_create(path, 32, &w, NULL), PR_OK);
    assert_false(pr_path_exists(left[0]));
    pr_gguf_abort(w);
    unlink(left[2]);
    unlink(left[3]);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    for (int64_t n = 0;; n++) {
        pr_err err = {0};
        size_t before = pr_mem_total();
        unlink(path);
        pr_mem_fail_after(n, true);
        pr_status status = write_sample(32, 33, &err);
        bool failed = pr_mem_failed();
        pr_mem_fail_after(-1, false);
        assert_int_equal(pr_mem_total(), before);
        assert_int_equal(status, failed ? PR_ERR_NOMEM : PR_OK);
        assert_int_equal(n_entries(), failed ? 0 : 1);
        if (!failed) break;
        assert_true(n < 100);
    }
    check_sample(32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_what_is_read_back),
        cmocka_unit_test(writes_files_without_tensors),
        cmocka_unit_test(large_pieces_pass_the_buffer),
        cmocka_unit_test(data_goes_to_its_place),
        cmocka_unit_test(refuses_wrong_calls),
        cmocka_unit_test(checks_the_disk_before_it_writes),
        cmocka_unit_test(a_failed_write_leaves_nothing),
        cmocka_unit_test(parts_of_killed_writers_go),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(replaces_nothing_but_regular_files),
        cmocka_unit_test(later_values_are_patched_in),
        cmocka_unit_test(refuses_wrong_patches),
        cmocka_unit_test(copies_any_value),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
