/*
 * Fuzz: a safetensors folder. Input: two bytes with the length of config.json, config.json, model.safetensors. What
 * opens must be consistent, and nothing leaks.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "store/model_file.h"

static char folder[64];
static int config_fd, tensors_fd;

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static int open_in_folder(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static void remove_folder(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    rmdir(folder);
}

static void make_folder(void) {
    if (folder[0]) return;
    snprintf(folder, sizeof folder, "%s/precis-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    require(mkdtemp(folder) != NULL);
    atexit(remove_folder);
    config_fd = open_in_folder("config.json");
    tensors_fd = open_in_folder("model.safetensors");
}

static void put(int fd, const uint8_t *data, size_t n) {
    require(ftruncate(fd, 0) == 0 && pwrite(fd, data, n, 0) == (ssize_t)n);
}

static void walk(const pr_model_file *f) {
    for (size_t i = 0; i < pr_model_file_n_meta(f); i++) {
        char shown[128];
        const char *key = pr_model_file_meta_key(f, i), *text;
        const pr_meta *m = pr_model_file_meta(f, key);
        size_t len;
        double number;
        require(m != NULL);
        pr_meta_format(m, shown, sizeof shown);
        if (pr_meta_kind(m) != PR_META_ARRAY) continue;
        for (uint64_t k = 0; k <= pr_meta_len(m); k++) {
            bool found = pr_meta_at_str(m, k, &text, &len);
            if (pr_meta_at_f64(m, k, &number)) found = true;
            require(!found || k < pr_meta_len(m));
        }
    }
    uint64_t end = 0;
    for (size_t i = 0; i < pr_model_file_n_tensors(f); i++) {
        const pr_tensor_info *t = pr_model_file_tensor(f, i);
        unsigned char byte;
        require(pr_model_file_find(f, t->name) == t);
        require(i == 0 || t->offset == end); /* no holes */
        end = t->offset + t->bytes;
        require(pr_model_file_read(f, t, t->bytes - 1, &byte, 1, NULL) == PR_OK);
    }
    require(pr_model_file_n_tensors(f) == 0 || end == pr_model_file_bytes(f));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pr_model_file *f;
    pr_err err = {0};
    if (size < 2) return 0;
    size_t n_config = data[0] | (size_t)data[1] << 8;
    if (n_config > size - 2) n_config = size - 2;
    make_folder();
    put(config_fd, data + 2, n_config);
    put(tensors_fd, data + 2 + n_config, size - 2 - n_config);
    size_t before = pr_mem_total();
    pr_status status = pr_model_file_open(folder, &f, &err);
    require(status == PR_OK ? f != NULL : f == NULL && err.status == status && err.text[0] != '\0');
    if (f) walk(f);
    pr_model_file_close(f);
    require(pr_mem_total() == before);
    return 0;
}
