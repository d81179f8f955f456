/*
 * SHA-256 of files.
 *
 * The sum is taken from the finished file and not from the bytes as they
 * arrive: a resumed download has a part that arrived another day, and what
 * counts is what stands on the disk. The file was just written, so it is read
 * from the page cache.
 */
#include "cmd/digest.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/os.h"
#include "cmd/progress.h"
#include "cmd/term.h"

enum { PIECE_BYTES = 1 << 20 };

bool pr__sha256_is(const char *text, size_t len) {
    if (len != PR_SHA256_HEX - 1) return false;
    for (size_t i = 0; i < len; i++) {
        if (!isxdigit((unsigned char)text[i])) return false;
    }
    return true;
}

static pr_status digest_file(const pr_file *file, EVP_MD_CTX *ctx, unsigned char *piece, pr_err *err) {
    pr_progress bar;
    pr_status status = PR_OK;
    pr__progress_begin(&bar, "checking", true, 0);
    for (uint64_t at = 0; at < file->size && status == PR_OK;) {
        size_t n = file->size - at < PIECE_BYTES ? (size_t)(file->size - at) : PIECE_BYTES;
        status = pr_file_read(file, at, piece, n, err);
        if (status == PR_OK && EVP_DigestUpdate(ctx, piece, n) != 1)
            status = pr_fail(err, PR_ERR_NOMEM, "SHA-256 failed");
        if (status == PR_OK && *pr__interrupt()) status = pr_fail(err, PR_ERR_CANCELLED, "stopped while checking");
        at += n;
        pr__progress_update(&bar, at, file->size);
    }
    pr__progress_end(&bar);
    return status;
}

pr_status pr__sha256_file(const char *path, char hex[PR_SHA256_HEX], pr_err *err) {
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    pr_file file = {.fd = -1};
    unsigned char *piece = NULL;
    EVP_MD_CTX *ctx = NULL;
    pr_status status = pr_file_open(path, &file, err);
    if (status != PR_OK) return status;
    piece = pr_alloc(PR_TAG_FILE, PIECE_BYTES);
    ctx = EVP_MD_CTX_new();
    if (!piece || !ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
        status = pr_fail_nomem(err, "SHA-256", PIECE_BYTES);
    if (status == PR_OK) status = digest_file(&file, ctx, piece, err);
    if (status == PR_OK && EVP_DigestFinal_ex(ctx, sum, &len) != 1)
        status = pr_fail(err, PR_ERR_NOMEM, "SHA-256 failed");
    for (unsigned i = 0; status == PR_OK && i < len && 2 * i + 2 < PR_SHA256_HEX; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", sum[i]);
    EVP_MD_CTX_free(ctx);
    pr_free(piece);
    pr_file_close(&file);
    return status;
}

pr_status pr__sha256_check(const char *path, const char *wanted, pr_err *err) {
    char hex[PR_SHA256_HEX];
    pr_status status = pr__sha256_file(path, hex, err);
    if (status != PR_OK || !strcasecmp(hex, wanted)) return status;
    return pr_fail(err, PR_ERR_FORMAT, "SHA-256 is %s, expected %s", hex, wanted);
}
