/*
 * The safetensors reader: folders, shards, config.json as metadata, and every kind of damage.
 */
#include "blob.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <time.h>

#include "base/mem.h"
#include "base/str.h"
#include "store/convert.h"
#include "store/model_file.h"

static char folder[256];

static const char *in_folder(const char *name) {
    static char paths[4][400];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static const char *const files[] = {"config.json", "model.safetensors", "model.safetensors.index.json", "a.safetensors",
                                    "b.safetensors"};

static void empty_folder(void) {
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlink(in_folder(files[i]));
}

static int make_folder(void **state) {
    (void)state;
    temp_folder(folder, sizeof folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    empty_folder();
    return rmdir(folder);
}

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\", \"x\"], \"hidden_size\": 64, \"rms_norm_eps\": 1e-6, "
    "\"tie_word_embeddings\": true,"
    " \"rope_scaling\": {\"factor\": 8.0, \"deep\": {\"type\": \"llama3\"}}, \"nothing\": null, \"eos_token_id\": [1, "
    "2, 3],"
    " \"mixed\": [1, 2.5], \"flags\": [true, false], \"empty\": [], \"objects\": [{\"a\": 7}, [8, 9], \"s\"]}";

/* A .safetensors file with this header and n bytes of data, byte i being i. */
static void make(blob *b, const char *header, size_t n) {
    b->n = 0;
    blob_int(b, strlen(header), 8);
    blob_bytes(b, header, strlen(header));
    for (size_t i = 0; i < n; i++) blob_int(b, i, 1);
}

static const char two[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                          "\"w\":{\"dtype\":\"F16\",\"shape\":[3,2],\"data_offsets\":[4,16]},"
                          "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}";

static pr_model_file *opened(const char *path) {
    pr_model_file *f;
    pr_err err = {0};
    if (pr_model_file_open(path, &f, &err) != PR_OK) fail_msg("%s", err.text);
    return f;
}

static void refused(const char *path, pr_status want, const char *words) {
    pr_model_file *f;
    pr_err err = {0};
    size_t before = pr_mem_total();
    pr_status status = pr_model_file_open(path, &f, &err);
    if (status != want || !strstr(err.text, words)) {
        fail_msg("wanted %s with \"%s\", got %s: %s", pr_status_name(want), words, pr_status_name(status), err.text);
    }
    assert_null(f);
    assert_int_equal(pr_mem_total(), before);
}

static void check_two(const pr_model_file *f) {
    uint8_t data[12];
    assert_int_equal(pr_model_file_kind(f), PR_FILE_SAFETENSORS);
    assert_string_equal(pr_model_file_dir(f), folder);
    assert_int_equal(pr_model_file_n_tensors(f), 2);
    assert_string_equal(pr_model_file_tensor(f, 0)->name, "s");
    const pr_tensor_info *w = pr_model_file_find(f, "w"), *s = pr_model_file_find(f, "s");
    assert_int_equal(w->dtype, PR_F16);
    assert_int_equal(w->n_dims, 2);
    assert_int_equal(w->dims[0], 2); /* columns first */
    assert_int_equal(w->dims[1], 3);
    assert_int_equal(w->bytes, 12);
    assert_int_equal(s->n_dims, 1);
    assert_int_equal(s->dims[0], 1);
    assert_int_equal(pr_model_file_read(f, w, 0, data, 12, NULL), PR_OK);
    for (int i = 0; i < 12; i++) assert_int_equal(data[i], i + 4);
}

static void opens_by_folder_config_or_file(void **state) {
    (void)state;
    static blob b;
    char slashed[300];
    make(&b, two, 16);
    blob_save(&b, in_folder("model.safetensors"));
    save_text(in_folder("config.json"), config);
    snprintf(slashed, sizeof slashed, "%s//", folder);
    const char *paths[] = {folder, slashed, in_folder("config.json"), in_folder("model.safetensors")};
    for (size_t i = 0; i < 4; i++) {
        pr_model_file *f = opened(paths[i]);
        check_two(f);
        assert_int_equal(pr_model_file_bytes(f), b.n);
        pr_model_file_close(f);
    }
}

static void set_changed(const char *path, time_t seconds) {
    struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* By this a copy made of the model is known to be old. */
static void another_tokenizer_is_a_change(void **state) {
    (void)state;
    const time_t second = 1600000000;
    const char *text = in_folder("tokenizer.json");
    save_text(text, "{}");
    set_changed(in_folder("model.safetensors"), second);
    set_changed(in_folder("config.json"), second - 10);
    for (int later = -5; later <= 5; later += 10) {
        set_changed(text, second + later);
        pr_model_file *f = opened(folder);
        assert_int_equal(pr_model_file_changed_ns(f), (second + (later > 0 ? later : 0)) * 1000000000);
        pr_model_file_close(f);
    }
    unlink(text);
}

static void config_becomes_metadata(void **state) {
    (void)state;
    pr_model_file *f = opened(folder);
    uint32_t u = 0;
    float x = 0;
    bool flag = false;
    const char *s = "";
    size_t len;
    int64_t i;
    double d;
    char text[64];
    assert_int_equal(pr_meta_u32(f, "hidden_size", &u, NULL), PR_OK);
    assert_int_equal(u, 64);
    assert_int_equal(pr_meta_u32(f, "rope_scaling.factor", &u, NULL), PR_OK); /* 8.0 is 8 */
    assert_int_equal(u, 8);
    assert_int_equal(pr_meta_f32(f, "rms_norm_eps", &x, NULL), PR_OK);
    assert_true(x == 1e-6f);
    assert_int_equal(pr_meta_bool(f, "tie_word_embeddings", &flag, NULL), PR_OK);
    assert_true(flag);
    assert_int_equal(pr_meta_str(f, "rope_scaling.deep.type", &s, NULL), PR_OK);
    assert_string_equal(s, "llama3");
    assert_null(pr_model_file_meta(f, "nothing"));
    assert_null(pr_model_file_meta(f, "rope_scaling"));
    const pr_meta *names = pr_model_file_meta(f, "architectures");
    assert_true(pr_meta_at_str(names, 0, &s, &len) && len == 16 && memcmp(s, "LlamaForCausalLM", 16) == 0);
    assert_true(pr_meta_at_str(names, 1, &s, &len) && len == 1);
    assert_false(pr_meta_at_str(names, 2, &s, &len));
    assert_true(pr_meta_at_i64(pr_model_file_meta(f, "eos_token_id"), 2, &i) && i == 3);
    assert_true(pr_meta_at_f64(pr_model_file_meta(f, "mixed"), 0, &d) && d == 1);
    assert_true(pr_meta_at_f64(pr_model_file_meta(f, "mixed"), 1, &d) && d == 2.5);
    assert_string_equal(pr_meta_format(pr_model_file_meta(f, "flags"), text, sizeof text), "[2 booleans]");
    assert_int_equal(pr_meta_len(pr_model_file_meta(f, "empty")), 0);
    assert_int_equal(pr_meta_u32(f, "objects.0.a", &u, NULL), PR_OK);
    assert_int_equal(u, 7);
    assert_true(pr_meta_at_i64(pr_model_file_meta(f, "objects.1"), 1, &i) && i == 9);
    assert_int_equal(pr_meta_str(f, "objects.2", &s, NULL), PR_OK);
    pr_model_file_close(f);
}

static void refuses_damaged_headers(void **state) {
    (void)state;
#define T(name, rest) "\"" name "\":{" rest "}"
    static const struct {
        const char *header;
        size_t bytes;
        pr_status status;
        const char *words;
    } cases[] = {
        {"{" T("w", "\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]") "}", 4, PR_ERR_UNSUPPORTED,
         "'w' has dtype F8_E4M3"},
        {"{" T("w", "\"shape\":[4],\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT, "'w' has no dtype"},
        {"{" T("w", "\"dtype\":\"F32\",\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT, "'w' has no shape"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,4]") "}", 4, PR_ERR_UNSUPPORTED,
         "'w' has 5 dimensions"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT, "whole numbers"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT, "whole numbers"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]") "}", 0, PR_ERR_FORMAT, "dimension of 0"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT,
         "overflows"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]") "}", 4, PR_ERR_FORMAT, "ascending"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]") "}", 4, PR_ERR_FORMAT, "ascending"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT,
         "4 bytes by its offsets, but 8 by its shape"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]") "}", 4, PR_ERR_FORMAT, "truncated"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]") "}", 4, PR_ERR_FORMAT,
         "'w' needs 4 bytes at offset"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,9223372036854775807]") "}",
         4, PR_ERR_FORMAT, "truncated"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]") "}", 5, PR_ERR_FORMAT,
         "1 bytes of the data belong to no tensor"},
        {"{" T("w", "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]") "," T(
             "v", "\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[6,10]") "}",
         12, PR_ERR_FORMAT, "the data of tensors 'w' and 'v' overlap"},
        {"{" T("", "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT, "tensor name"},
        {"{" T("a\\u001bb", "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]") "}", 4, PR_ERR_FORMAT, "'a?b'"},
        {"{\"w\":3}", 0, PR_ERR_FORMAT, "'w' has no dtype"},
        {"{\"w\":", 0, PR_ERR_FORMAT, "header: line 1"},
    };
#undef T
    static blob b;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make(&b, cases[i].header, cases[i].bytes);
        blob_save(&b, in_folder("model.safetensors"));
        refused(folder, cases[i].status, cases[i].words);
    }
    make(&b, two, 16);
    memset(b.data, 0xff, 8);
    blob_save(&b, in_folder("model.safetensors"));
    refused(folder, PR_ERR_FORMAT, "a header of 18446744073709551615 bytes");
    b.n = 5;
    blob_save(&b, in_folder("model.safetensors"));
    refused(folder, PR_ERR_FORMAT, "model.safetensors");
}

static void truncation_never_crashes(void **state) {
    (void)state;
    static blob b;
    make(&b, two, 16);
    for (size_t n = 0; n < b.n; n++) {
        blob_save_part(&b, n, in_folder("model.safetensors"));
        refused(folder, PR_ERR_FORMAT, "model.safetensors");
        refused(in_folder("model.safetensors"), PR_ERR_FORMAT,
                n ? n > 9 ? "safetensors" : "not a GGUF" : "it is empty");
    }
}

static void refuses_bad_folders(void **state) {
    (void)state;
    static blob b;
    empty_folder();
    refused(folder, PR_ERR_NOTFOUND, "config.json is missing");
    save_text(in_folder("config.json"), "{\"a\": 1}");
    refused(folder, PR_ERR_NOTFOUND, "neither model.safetensors nor model.safetensors.index.json");
    make(&b, two, 16);
    blob_save(&b, in_folder("model.safetensors"));
    save_text(in_folder("config.json"), "[1]");
    refused(folder, PR_ERR_FORMAT, "not a JSON object");
    save_text(in_folder("config.json"), "{\"a\": tru}");
    refused(folder, PR_ERR_FORMAT, "line 1");
    save_text(in_folder("config.json"), "{\"a.b\": 1, \"a\": {\"b\": 2}}");
    refused(folder, PR_ERR_FORMAT, "metadata key 'a.b' occurs twice");
    save_text(in_folder("config.json"), "{\"\": 1}");
    refused(folder, PR_ERR_FORMAT, "empty key");
    save_text(in_folder("config.json"), "{\"a\\n\": 1}");
    refused(folder, PR_ERR_FORMAT, "unprintable key 'a?'");
    pr_str deep = {0};
    for (int i = 0; i < 30; i++) pr_str_puts(&deep, "{\"k\":");
    pr_str_puts(&deep, "1");
    for (int i = 0; i < 30; i++) pr_str_puts(&deep, "}");
    save_text(in_folder("config.json"), deep.data);
    pr_str_free(&deep);
    refused(folder, PR_ERR_LIMIT, "nested more than");
    save_text(in_folder("config.json"), config);
}

static void opens_sharded_models(void **state) {
    (void)state;
    static blob b;
    empty_folder();
    save_text(in_folder("config.json"), config);
    make(&b, "{\"w\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4);
    blob_save(&b, in_folder("a.safetensors"));
    make(&b, "{\"v\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]}}", 6);
    blob_save(&b, in_folder("b.safetensors"));
    save_text(in_folder("model.safetensors.index.json"),
              "{\"weight_map\": {\"v\": \"b.safetensors\", \"w\": \"a.safetensors\"}}");
    const char *paths[] = {folder, in_folder("model.safetensors.index.json")};
    for (int i = 0; i < 2; i++) {
        pr_model_file *f = opened(paths[i]);
        uint8_t byte = 0;
        const pr_tensor_info *v = pr_model_file_find(f, "v"), *w = pr_model_file_find(f, "w");
        assert_int_equal(pr_model_file_n_tensors(f), 2);
        assert_int_not_equal(v->shard, w->shard);
        assert_int_equal(pr_model_file_read(f, v, 5, &byte, 1, NULL), PR_OK);
        assert_int_equal(byte, 5);
        pr_model_file_close(f);
    }
    save_text(in_folder("model.safetensors.index.json"), "{\"weight_map\": {\"v\": \"../b.safetensors\"}}");
    refused(folder, PR_ERR_FORMAT, "'v' has no plain file name");
    save_text(in_folder("model.safetensors.index.json"), "{\"weight_map\": {\"v\": 3}}");
    refused(folder, PR_ERR_FORMAT, "'v' has no plain file name");
    save_text(in_folder("model.safetensors.index.json"), "{\"weight_map\": {}}");
    refused(folder, PR_ERR_FORMAT, "weight_map is missing or empty");
    save_text(in_folder("model.safetensors.index.json"), "{\"weight_map\": {\"v\": \"c.safetensors\"}}");
    refused(folder, PR_ERR_NOTFOUND, "c.safetensors");
    blob_save(&b, in_folder("a.safetensors")); /* the same tensor in both */
    save_text(in_folder("model.safetensors.index.json"),
              "{\"weight_map\": {\"v\": \"a.safetensors\", \"w\": \"b.safetensors\"}}");
    refused(folder, PR_ERR_FORMAT, "tensor 'v' occurs twice");
}

static void survives_a_failing_system(void **state) {
    (void)state;
    static blob b;
    pr_model_file *f;
    pr_err err = {0};
    empty_folder();
    make(&b, two, 16);
    blob_save(&b, in_folder("model.safetensors"));
    save_text(in_folder("config.json"), config);
    pr_file_fault(1);
    f = opened(folder);
    pr_file_fault(0);
    check_two(f);
    pr_model_file_close(f);
    for (int n = 1;; n++) {
        size_t before = pr_mem_total();
        pr_file_fault(-n);
        pr_status status = pr_model_file_open(folder, &f, &err);
        pr_file_fault(0);
        if (status == PR_OK) break;
        assert_int_equal(status, PR_ERR_IO);
        assert_int_equal(pr_mem_total(), before);
        assert_true(n < 20);
    }
    pr_model_file_close(f);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (int64_t n = 0;; n++) {
            size_t before = pr_mem_total();
            pr_mem_fail_after(n, sticky);
            pr_status status = pr_model_file_open(folder, &f, &err);
            bool failed = pr_mem_failed();
            pr_mem_fail_after(-1, false);
            if (status == PR_OK) check_two(f), pr_model_file_close(f);
            else assert_int_equal(status, PR_ERR_NOMEM);
            assert_int_equal(pr_mem_total(), before);
            if (!failed) break;
            assert_true(n < 1000);
        }
    }
}

/* The same model as safetensors and as GGUF: llama.cpp's conversion permutes only q and k. */
static void agrees_with_gguf(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"lm_head.weight", "token_embd.weight"},
        {"model.norm.weight", "output_norm.weight"},
        {"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"},
        {"model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"},
        {"model.layers.1.input_layernorm.weight", "blk.1.attn_norm.weight"},
        {"model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"},
    };
    char st_path[512], gguf_path[512];
    if (!shared_path(st_path, sizeof st_path, "models/tinystories-656k")) skip();
    if (!shared_path(gguf_path, sizeof gguf_path, "models/tinystories-656k/tinystories-656k-f32.gguf")) skip();
    pr_model_file *st = opened(st_path), *gguf = opened(gguf_path);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const pr_tensor_info *a = pr_model_file_find(st, pairs[i][0]), *b = pr_model_file_find(gguf, pairs[i][1]);
        assert_non_null(a);
        assert_non_null(b);
        assert_memory_equal(a->dims, b->dims, sizeof a->dims);
        assert_int_equal(a->n_dims, b->n_dims);
        size_t bytes = (size_t)(a->dims[0] * a->dims[1]) * sizeof(float);
        float *x = malloc(bytes), *y = malloc(bytes);
        assert_int_equal(pr_convert_floats(st, a, x, NULL), PR_OK);
        assert_int_equal(pr_convert_floats(gguf, b, y, NULL), PR_OK);
        assert_memory_equal(x, y, bytes);
        free(x);
        free(y);
    }
    pr_model_file_close(st);
    pr_model_file_close(gguf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_by_folder_config_or_file),
        cmocka_unit_test(another_tokenizer_is_a_change),
        cmocka_unit_test(config_becomes_metadata),
        cmocka_unit_test(refuses_damaged_headers),
        cmocka_unit_test(truncation_never_crashes),
        cmocka_unit_test(refuses_bad_folders),
        cmocka_unit_test(opens_sharded_models),
        cmocka_unit_test(survives_a_failing_system),
        cmocka_unit_test(agrees_with_gguf),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
