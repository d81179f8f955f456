/*
 * Plane files: what was written is read back, and whatever is wrong with a file is found and named.
 */
#include "support/rig.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "store/convert.h"
#include "support/planes_file.h"

static pr_model_file *open_file(const char *path) {
    pr_err err = {0};
    pr_model_file *f;
    if (pr_model_file_open(path, &f, &err)) fail_msg("%s", err.text);
    return f;
}

static void check_contents(const planes_file *spec, const pr_model_file *f) {
    const pr_plane_set *set = pr_model_file_planes(f);
    pr_err err = {0};
    for (uint32_t u = 0; u < set->n_units; u++) {
        const pr_plane_tensor *t = &set->tensors[set->units[u].tensor];
        for (int p = 0; p < (int)t->n_planes; p++) {
            uint8_t *data = malloc((size_t)pr_plane_unit_bytes(set, u, (pr_plane)p));
            if (pr_plane_unit_read(f, u, (pr_plane)p, data, &err)) fail_msg("%s", err.text);
            assert_true(planes_file_same(spec, set, u, (pr_plane)p, data));
            free(data);
        }
    }
}

static void written_is_read_back(void **state) {
    (void)state;
    const planes_file *spec = &planes_file_small;
    const char *path = rig_path("p.gguf");
    planes_file_write(spec, path);
    pr_model_file *f = open_file(path);
    const pr_plane_set *set = pr_model_file_planes(f);
    assert_non_null(set);
    assert_int_equal(set->n_tensors, 4);
    assert_int_equal(set->n_planes, 4);
    assert_int_equal(set->n_units, 3 + 1 + 2 + 4);
    assert_int_equal(set->n_increments, 9 + 0 + 4 + 4);
    assert_int_equal(set->n_weights, 64 * 70 + 32 * 16 + 160 * 33 + 96 * 100);
    assert_int_equal(set->level_cursor[3], 17);
    assert_true(set->kl[0] == 1 && set->kl[17] == 1.0f / 18);
    for (uint32_t i = 0; i < 4; i++) {
        const pr_plane_tensor *t = &set->tensors[i];
        const pr_tensor_info *info = pr_model_file_find(f, t->name);
        assert_int_equal(t->cols, spec->tensors[i].cols);
        assert_int_equal(t->rows, spec->tensors[i].rows);
        assert_int_equal(t->n_planes, spec->tensors[i].n_planes);
        assert_true(pr_plane_book_ok(&t->book) && t->book.f8 == t->book.f2 / 32);
        assert_non_null(info);
        assert_int_equal(info->dtype, PR_PLANES);
        assert_ptr_equal(info->planes, t);
        assert_int_equal(info->dims[0], t->cols);
        assert_int_equal(info->dims[1], t->rows);
        for (uint32_t p = 0; p < 4; p++) assert_true((t->data[p] != NULL) == (p < t->n_planes));
        assert_int_equal(t->data[0]->offset % 4096, 0);
    }
    assert_true(set->tensors[0].data[1]->offset > set->tensors[3].data[0]->offset); /* level-major */
    assert_non_null(pr_model_file_find(f, "m0.p16"));
    check_contents(spec, f);
    pr_model_file_close(f);
}

static void virtual_tensors_have_no_bytes(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf");
    planes_file_write(&planes_file_small, path);
    pr_model_file *f = open_file(path);
    pr_err err = {0};
    float out[8];
    uint8_t byte;
    const pr_tensor_info *t = pr_model_file_find(f, "m1");
    assert_int_equal(pr_model_file_read(f, t, 0, &byte, 1, &err), PR_ERR_ARG);
    assert_int_equal(pr_convert_floats(f, t, out, &err), PR_ERR_UNSUPPORTED);
    assert_int_equal(pr_convert_floats(f, pr_model_file_find(f, "kept"), out, &err), PR_OK);
    assert_true(out[7] == 7);
    pr_model_file_done(f, t);
    pr_model_file_done_all(f);
    pr_model_file_close(f);
}

static void ordinary_files_have_no_planes(void **state) {
    (void)state;
    pr_model_file *f = open_file(rig_model(&(llama_gguf){.n_layers = 1}, "m.gguf"));
    assert_null(pr_model_file_planes(f));
    pr_model_file_close(f);
}

static void one_plane_needs_no_increments(void **state) {
    (void)state;
    const planes_file spec = {.n_tensors = 1, .tensors = {{32, 1, 1}}, .seed = 3};
    const char *path = rig_path("p.gguf");
    planes_file_write(&spec, path);
    pr_model_file *f = open_file(path);
    assert_int_equal(pr_model_file_planes(f)->n_increments, 0);
    check_contents(&spec, f);
    pr_model_file_close(f);
}

/* ---- writing ----------------------------------------------------------------- */

/* Complete, read the unfinished file, complete again with other numbers. */
static void unfinished_files_can_be_read(void **state) {
    (void)state;
    const char *source = rig_path("p.gguf"), *path = rig_path("q.gguf");
    pr_gguf_writer *w;
    pr_err err = {0};
    planes_file_write(&planes_file_small, source);
    pr_model_file *f = open_file(source);
    pr_plane_set set = *pr_model_file_planes(f);
    assert_int_equal(pr_gguf_create(path, 4096, &w, NULL), PR_OK);
    pr_planes_describe(w, &set);
    pr_planes_describe_tensors(w, &set);
    assert_int_equal(pr_planes_complete(w, &set, &err), PR_ERR_ARG); /* there is no data */
    assert_non_null(strstr(err.text, "lacks"));
    pr_gguf_abort(w);

    assert_int_equal(pr_gguf_create(path, 4096, &w, NULL), PR_OK);
    for (size_t i = 0; i < pr_model_file_n_meta(f); i++) {
        const char *key = pr_model_file_meta_key(f, i);
        if (!strstr(key, "precis.")) pr_gguf_meta_copy(w, f, key);
    }
    pr_planes_describe(w, &set);
    pr_planes_describe_tensors(w, &set);
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        for (uint32_t u = 0; u < set.n_units; u++) {
            if ((uint32_t)p >= set.tensors[set.units[u].tensor].n_planes) continue;
            size_t bytes = (size_t)pr_plane_unit_bytes(&set, u, (pr_plane)p);
            uint8_t *data = malloc(bytes);
            assert_int_equal(pr_plane_unit_read(f, u, (pr_plane)p, data, &err), PR_OK);
            assert_int_equal(pr_gguf_data(w, data, bytes, &err), PR_OK);
            free(data);
        }
    }
    set.level_cursor[1] = 1;
    if (pr_planes_complete(w, &set, &err)) fail_msg("%s", err.text);
    pr_model_file *part = open_file(pr_gguf_part_path(w));
    assert_int_equal(pr_model_file_planes(part)->level_cursor[1], 1);
    check_contents(&planes_file_small, part);
    pr_model_file_close(part);
    set.level_cursor[1] = 2;
    if (pr_planes_complete(w, &set, &err)) fail_msg("%s", err.text);
    assert_int_equal(access(path, F_OK), -1);
    if (pr_gguf_finish(w, &err)) fail_msg("%s", err.text);
    part = open_file(path);
    assert_int_equal(pr_model_file_planes(part)->level_cursor[1], 2);
    check_contents(&planes_file_small, part);
    pr_model_file_close(part);
    pr_model_file_close(f);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf");
    const planes_file spec = {.n_tensors = 2, .tensors = {{32, 33, 4}, {64, 16, 2}}, .unit_tiles = 1};
    bool through = false;
    for (int64_t n = 0; !through; n++) {
        pr_err err = {0};
        pr_model_file *f = NULL;
        size_t before = pr_mem_total();
        unlink(path);
        pr_mem_fail_after(n, true);
        pr_status status = planes_file_try(&spec, path, &err);
        if (!status) status = pr_model_file_open(path, &f, &err);
        if (!status) check_contents(&spec, f);
        through = !pr_mem_failed();
        pr_mem_fail_after(-1, false);
        pr_model_file_close(f);
        assert_int_equal(status, through ? PR_OK : PR_ERR_NOMEM);
        assert_int_equal(pr_mem_total(), before);
        assert_true(n < 300);
    }
}

static void short_reads_are_put_together(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf");
    planes_file_write(&planes_file_small, path);
    pr_file_fault(97);
    pr_model_file *f = open_file(path);
    check_contents(&planes_file_small, f);
    pr_file_fault(0);
    pr_model_file_close(f);
}

static void read_errors_name_the_tensor(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf");
    uint8_t *data = malloc(1 << 16);
    pr_err err = {0};
    planes_file_write(&planes_file_small, path);
    pr_model_file *f = open_file(path);
    pr_file_fault(-1);
    assert_int_equal(pr_plane_unit_read(f, 0, PR_PLANE_P4, data, &err), PR_OK);
    assert_int_equal(pr_plane_unit_read(f, 0, PR_PLANE_P4, data, &err), PR_ERR_IO);
    pr_file_fault(0);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "'m0.p4'"));
    pr_model_file_close(f);
    free(data);
}

/* ---- files that are wrong ----------------------------------------------------- */

static uint8_t *load(const char *path, size_t *n) {
    char *text;
    assert_int_equal(pr_file_slurp(path, 1 << 26, &text, n, NULL), PR_OK);
    return (uint8_t *)text;
}

static void save(const char *path, const uint8_t *data, size_t n) {
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0 && write(fd, data, n) == (ssize_t)n && close(fd) == 0);
}

static void set_time(int fd, int64_t mtime_ns) {
    const struct timespec at = {.tv_sec = mtime_ns / 1000000000, .tv_nsec = mtime_ns % 1000000000};
    assert_int_equal(futimens(fd, (const struct timespec[2]){at, at}), 0);
}

/* Flip a byte of an open file; with `mtime_ns` as if it had always been so. */
static void flip(const char *path, uint64_t at, int64_t mtime_ns) {
    int fd = open(path, O_RDWR);
    uint8_t byte = 0;
    assert_true(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= 1;
    assert_true(pwrite(fd, &byte, 1, (off_t)at) == 1);
    if (mtime_ns) set_time(fd, mtime_ns);
    close(fd);
}

static void changed_bytes_are_found(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf");
    uint8_t *data = malloc(1 << 16);
    pr_err err = {0};
    planes_file_write(&planes_file_small, path);
    pr_model_file *f = open_file(path);
    const pr_plane_set *set = pr_model_file_planes(f);
    struct stat st;
    stat(path, &st);
    int64_t mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    uint64_t at = set->tensors[2].data[1]->offset + pr_plane_unit_offset(set, 5, PR_PLANE_P4);
    flip(path, at, mtime);
    assert_int_equal(pr_plane_unit_read(f, 4, PR_PLANE_P4, data, &err), PR_OK);
    assert_int_equal(pr_plane_unit_read(f, 5, PR_PLANE_P4, data, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "'m2.p4' is damaged in tiles 2 to 2"));
    assert_int_equal(pr_plane_unit_read(f, 5, PR_PLANE_P2, data, &err), PR_OK);
    flip(path, at, mtime + 1); /* the bytes are right again, but who knows */
    assert_int_equal(pr_plane_unit_read(f, 5, PR_PLANE_P4, data, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "has changed since it was opened"));
    pr_model_file_close(f);
    f = open_file(path);
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(pr_plane_unit_read(f, 0, PR_PLANE_P16, data, &err), PR_ERR_FORMAT);
    assert_non_null(strstr(err.text, "has changed since it was opened"));
    pr_model_file_close(f);
    free(data);
}

static void cut_files_are_refused(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf"), *cut = rig_path("cut.gguf");
    size_t n;
    planes_file_write(&planes_file_small, path);
    uint8_t *data = load(path, &n);
    save(cut, data, n - 4096);
    rig_refuses(cut, NULL, PR_ERR_FORMAT, "'m0.p16'");
    pr_free(data);
}

/* Where the bytes of a key's value begin, after the type (of a scalar) or the length (of an array). */
static size_t value_at(const uint8_t *data, size_t n, const char *key, bool array) {
    uint64_t len = strlen(key);
    for (size_t i = 0; i + 8 + len < n; i++) {
        if (memcmp(data + i, &len, 8) == 0 && memcmp(data + i + 8, key, len) == 0)
            return i + 8 + len + (array ? 16 : 4);
    }
    fail_msg("no %s", key);
    return 0;
}

/* With the 32-bit element i of key set to v the file is refused with this text; at -1 it is the array's length, at -2
 * the type of its elements, at -3 a letter of the key. */
static void bent(const char *key, int i, uint32_t v, const char *text) {
    const char *path = rig_path("p.gguf"), *bad = rig_path("bad.gguf");
    size_t n;
    uint8_t *data = load(path, &n);
    size_t at = value_at(data, n, key, i < 0 || strcmp(key, "precis.planes.version") != 0);
    if (i == -3) data[at - 17] ^= 1;
    else if (i == -2) memcpy(data + at - 12, &v, 4);
    else if (i == -1) memcpy(data + at - 8, &v, 4);
    else memcpy(data + at + 4 * (size_t)i, &v, 4);
    save(bad, data, n);
    pr_model_file *f;
    pr_err err = {0};
    size_t held = pr_mem_total();
    pr_status status = pr_model_file_open(bad, &f, &err);
    if (!status) fail_msg("%s[%d] = %u was taken", key, i, v);
    if (i >= -1) assert_int_equal(status, strstr(key, "version") ? PR_ERR_UNSUPPORTED : PR_ERR_FORMAT);
    assert_int_equal(pr_mem_total(), held);
    if (!strstr(err.text, text)) fail_msg("%s[%d] = %u: wanted \"%s\", got: %s", key, i, v, text, err.text);
    assert_non_null(strstr(err.text, bad));
    pr_free(data);
}

/* Element i of an integer key. */
static uint32_t element(const char *key, int i) {
    size_t n;
    uint32_t v;
    uint8_t *data = load(rig_path("p.gguf"), &n);
    memcpy(&v, data + value_at(data, n, key, true) + 4 * (size_t)i, 4);
    pr_free(data);
    return v;
}

static void wrong_keys_are_named(void **state) {
    (void)state;
    static const char *const keys[] = {"precis.planes.names",   "precis.planes.shapes", "precis.planes.books",
                                       "precis.planes.factors", "precis.planes.units",  "precis.planes.crc",
                                       "precis.increments",     "precis.increments.kl", "precis.levels"};
    planes_file_write(&planes_file_small, rig_path("p.gguf"));
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) bent(keys[k], -3, 0, keys[k]);
    for (size_t k = 1; k < sizeof keys / sizeof *keys; k++) {
        bool real = strstr(keys[k], "factors") || strstr(keys[k], "kl");
        bent(keys[k], -2, real ? 5 : 6, keys[k]); /* i32, f32 */
    }
    bent("precis.planes.version", 0, 2, "precis.planes.version is 2");
    bent("precis.planes.version", 0, 0, "precis.planes.version is 0");
}

static void wrong_matrices_are_named(void **state) {
    (void)state;
    const char *shapes = "precis.planes.shapes", *books = "precis.planes.books", *factors = "precis.planes.factors";
    planes_file_write(&planes_file_small, rig_path("p.gguf"));
    static const uint32_t cols[] = {0, 63, 0x80000000u, UINT32_MAX}, planes[] = {0, 5, UINT32_MAX};
    for (int i = 0; i < 4; i++) bent(shapes, 0, cols[i], shapes);
    for (int i = 0; i < 3; i++) bent(shapes, 2, planes[i], shapes);
    bent(shapes, 1, 0, shapes);
    bent(shapes, 1, 0x7fffffff, shapes);
    bent(shapes, 0, 96, "tensor 'm0.p2' is i8"); /* another size than the tensors have */
    bent(shapes, 0, 0x7fffffe0, "tensor 'm0.p2' is i8");
    bent(shapes, 1, 81, "precis.planes.units"); /* one tile more */
    bent(shapes, 2, 3, "precis.planes.crc");
    bent(shapes, 5, 2, "precis.increments");
    bent(books, 37 + 3, 17, "'m1'");
    bent(books, 37 + 3, 128, "precis.planes.books");
    bent(books, 37 + 4, (uint32_t)-65, "'m1'");
    bent(books, 37 + 20, 113, "'m1'");
    bent(books, 37 + 36, 0, "'m1'");
    bent(books, 37 + 36, 129, "'m1'");
    bent(factors, 3, 0x7f800000, "precis.planes.factors: those of 'm1'");
    bent(factors, 5, 0x7fc00000, "precis.planes.factors: those of 'm1'");
}

static void wrong_units_are_named(void **state) {
    (void)state;
    const char *units = "precis.planes.units", *crc = "precis.planes.crc", *list = "precis.increments",
               *kl = "precis.increments.kl", *levels = "precis.levels", *measured = "precis.kl.measured";
    planes_file_write(&planes_file_small, rig_path("p.gguf"));
    bent(units, 0, 1, "unit 0");
    bent(units, 3, 4, "unit 1");
    bent(units, 4, 1, "unit 1");
    bent(units, 4, (uint32_t)-1, "unit 1");
    bent(units, 5, 0, "unit 1");
    bent(units, 5, 100, "unit 1");
    bent(units, 5, UINT32_MAX, "unit 1");
    bent(units, 29, 0, "unit 9");
    bent(crc, 4 * 3 + 1, 7, "plane p4 of unit 3");
    bent(list, 0, 10, "number 0 is of unit 10");
    bent(list, 0, UINT32_MAX, list);
    bent(list, 1, 0, "number 0");
    bent(list, 1, 2, "number 0"); /* p8 before p4 */
    bent(list, 1, 4, "number 0");
    bent(list, 1, UINT32_MAX, "number 0");
    for (int i = 0; i < 16; i++) { /* the same twice, wherever the second stands */
        if (element(list, 2 * i) == element(list, 2 * i + 2)) continue;
        bent(list, 2 * i + 2, element(list, 2 * i), list);
        break;
    }
    bent(kl, 3, 0x7fc00000, "precis.increments.kl: element 3");
    bent(levels, 3, 18, levels);
    bent(levels, 1, 17, levels); /* not ascending */
    bent(levels, 0, UINT32_MAX, levels);
    bent(measured, -2, 6, measured);
    bent(measured, 0, UINT32_MAX, "precis.kl.measured: -1 of");
    bent(measured, 1, 18, "precis.kl.measured: up to 18 of 17");
    bent(measured, 1, UINT32_MAX, "precis.kl.measured: up to -1 of");
}

/* Older files do not say how far their KL was measured: to the top. */
static void older_files_are_read(void **state) {
    (void)state;
    static const char *const swapped[] = {"precis.kl.measured", PLANES_FILE_OLDER};
    const char *path = rig_path("p.gguf");
    pr_err err = {0};
    pr_model_file *f;
    size_t n, at[2];
    planes_file_write(&planes_file_small, path);
    uint8_t *data = load(path, &n);
    for (int i = 0; i < 2; i++) at[i] = value_at(data, n, swapped[i], true);
    for (int i = 0; i < 2; i++) data[at[i] - 17] ^= 1;
    save(path, data, n);
    pr_free(data);
    if (pr_model_file_open(path, &f, &err)) fail_msg("%s", err.text);
    const pr_plane_set *set = pr_model_file_planes(f);
    assert_int_equal(set->n_measured, 2);
    assert_int_equal(set->measured_to, set->n_increments);
    pr_model_file_close(f);
}

/* The name of one tensor changed: m0.p8 is missing and another one is there. */
static void wrong_plane_tensors_are_named(void **state) {
    (void)state;
    const char *path = rig_path("p.gguf"), *bad = rig_path("bad.gguf");
    static const struct {
        const char *from, *to, *text;
    } names[] = {
        {"m0.p8", "m0_p8", "tensor 'm0.p8' is missing"},
        {"m1.p2", "m1.p4", "tensor 'm1.p2' is missing"},
    };
    size_t n;
    planes_file_write(&planes_file_small, path);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        uint8_t *data = load(path, &n);
        size_t at = value_at(data, n, names[k].from, false) - 4 - strlen(names[k].from);
        memcpy(data + at, names[k].to, strlen(names[k].from));
        save(bad, data, n);
        rig_refuses(bad, NULL, PR_ERR_FORMAT, names[k].text);
        pr_free(data);
    }
}

/* A kept tensor under the name of a matrix, and one more plane than there should be. */
static void stray_tensors_are_named(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
    } strays[] = {{"m0", "tensor 'm0' occurs twice"}, {"m1.p4", "tensor 'm1.p4' is there"}};
    const char *source = rig_path("p.gguf"), *bad = rig_path("bad.gguf");
    const uint64_t dims[1] = {4};
    planes_file_write(&(planes_file){.n_tensors = 2, .tensors = {{32, 16, 2}, {32, 16, 1}}}, source);
    for (size_t k = 0; k < 2; k++) {
        pr_gguf_writer *w;
        pr_err err = {0};
        pr_model_file *f = open_file(source);
        pr_plane_set set = *pr_model_file_planes(f);
        uint8_t zeros[4096] = {0};
        assert_int_equal(pr_gguf_create(bad, 32, &w, NULL), PR_OK);
        pr_planes_describe(w, &set);
        pr_gguf_tensor(w, strays[k].name, PR_F32, 1, dims);
        pr_planes_describe_tensors(w, &set);
        size_t left = 16;
        for (uint32_t u = 0; u < set.n_units; u++) {
            for (uint32_t p = 0; p < set.tensors[u].n_planes; p++)
                left += (size_t)pr_plane_unit_bytes(&set, u, (pr_plane)p);
        }
        assert_int_equal(pr_gguf_data(w, zeros, left, &err), PR_OK);
        if (pr_planes_complete(w, &set, &err) || pr_gguf_finish(w, &err)) fail_msg("%s", err.text);
        pr_model_file_close(f);
        rig_refuses(bad, NULL, PR_ERR_FORMAT, strays[k].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_is_read_back),          cmocka_unit_test(virtual_tensors_have_no_bytes),
        cmocka_unit_test(ordinary_files_have_no_planes), cmocka_unit_test(one_plane_needs_no_increments),
        cmocka_unit_test(unfinished_files_can_be_read),  cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(short_reads_are_put_together),  cmocka_unit_test(read_errors_name_the_tensor),
        cmocka_unit_test(changed_bytes_are_found),       cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(wrong_keys_are_named),          cmocka_unit_test(wrong_matrices_are_named),
        cmocka_unit_test(wrong_units_are_named),         cmocka_unit_test(older_files_are_read),
        cmocka_unit_test(wrong_plane_tensors_are_named), cmocka_unit_test(stray_tensors_are_named),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
