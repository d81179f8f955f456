/*
 * API keys.
 *
 * Only hashes are kept. A token is hashed before anything is compared, every entry is compared, and the comparison does not
 * stop at the first difference: how long a refusal takes says nothing about how close the guess was. A salt would add
 * nothing, since keys are random and long, not passwords.
 *
 * Limits live with the key. There are few keys and a decision takes nanoseconds, so one lock for all is enough. A reload
 * goes by names: a key that stays keeps its count of requests and its bucket, one that goes opens nothing any more.
 */
#include "http/keys.h"

#include <math.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "http/guard.h"

enum { NAME_BYTES = 65, FILE_BYTES_MAX = 1 << 20, WORDS_MAX = 5 };

struct pr_key {
    pr_keys *keys;
    char name[NAME_BYTES];
    unsigned char hash[SHA256_DIGEST_LENGTH];
    bool gone;                /* by a reload */
    uint32_t rpm, concurrent; /* 0: no limit */
    uint32_t running;
    double tokens, filled_at; /* the bucket as it was at that time; filled_at < 0: never used, full */
};

struct pr_keys {
    pthread_mutex_t lock; /* everything but names, which never change */
    size_t n;
    pr_key **all; /* keys that a reload took away stay until the end: requests may hold them */
};

/* ---- the file ---- */

static int hex_value(char c) {
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static bool parse_hash(const char *text, unsigned char *out) {
    if (strlen(text) != 2 * SHA256_DIGEST_LENGTH) return false;
    for (size_t i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        out[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

static bool parse_limit(const char *text, const char *name, uint32_t *out) {
    size_t n = strlen(name);
    return strncmp(text, name, n) == 0 && text[n] == '=' && pr_parse_u32(text + n + 1, out) && *out > 0;
}

static pr_status parse_key(char *const *words, size_t n, pr_key *key, const char *where, pr_err *err) {
    if (n < 2) return pr_fail(err, PR_ERR_FORMAT, "%s: a key needs a name and the SHA-256 of the key", where);
    if (!pr_http_id_ok(words[0])) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: a key's name is 1 to 64 letters, digits, '.', '_' and '-'", where);
    }
    memcpy(key->name, words[0], strlen(words[0]) + 1);
    if (!parse_hash(words[1], key->hash)) {
        return pr_fail(err, PR_ERR_FORMAT, "%s: the SHA-256 of key \"%s\" is not 64 hex digits", where, key->name);
    }
    for (size_t i = 2; i < n; i++) {
        if (!parse_limit(words[i], "rpm", &key->rpm) && !parse_limit(words[i], "concurrent", &key->concurrent)) {
            return pr_fail(err, PR_ERR_FORMAT, "%s: a limit of key \"%s\" is neither rpm=N nor concurrent=N", where,
                           key->name);
        }
    }
    return PR_OK;
}

/* Room for one more. */
static pr_status grow(pr_keys *keys, size_t more, pr_err *err) {
    pr_key **all = pr_realloc_array(PR_TAG_HTTP, keys->all, keys->n + more, sizeof *all);
    if (!all) return pr_fail_nomem(err, "API keys", (keys->n + more) * sizeof *all);
    keys->all = all;
    return PR_OK;
}

static pr_status add_key(pr_keys *keys, const pr_key *key, const char *where, pr_err *err) {
    for (size_t i = 0; i < keys->n; i++) {
        if (strcmp(keys->all[i]->name, key->name) == 0 || memcmp(keys->all[i]->hash, key->hash, sizeof key->hash) == 0)
            return pr_fail(err, PR_ERR_FORMAT, "%s: key \"%s\" is there twice", where, key->name);
    }
    pr_status status = grow(keys, 1, err);
    if (status) return status;
    pr_key *own = pr_calloc(PR_TAG_HTTP, 1, sizeof *own);
    if (!own) return pr_fail_nomem(err, "an API key", sizeof *own);
    *own = *key;
    keys->all[keys->n++] = own;
    return PR_OK;
}

static pr_status parse_line(pr_keys *keys, char *line, const char *where, pr_err *err) {
    char *words[WORDS_MAX] = {0}, *next;
    size_t n = 0;
    line[strcspn(line, "#")] = '\0';
    for (char *word = strtok_r(line, " \t\r", &next); word; word = strtok_r(NULL, " \t\r", &next)) {
        if (n == WORDS_MAX) return pr_fail(err, PR_ERR_FORMAT, "%s: too many words", where);
        words[n++] = word;
    }
    if (!n) return PR_OK;
    pr_key key = {.keys = keys, .filled_at = -1};
    pr_status status = parse_key(words, n, &key, where, err);
    return status ? status : add_key(keys, &key, where, err);
}

static pr_status parse_lines(pr_keys *keys, char *text, const char *what, pr_err *err) {
    unsigned number = 1;
    for (char *line = text, *end; line; line = end, number++) {
        char where[256];
        end = strchr(line, '\n');
        if (end) *end++ = '\0';
        snprintf(where, sizeof where, "%s, line %u", what, number);
        pr_status status = parse_line(keys, line, where, err);
        if (status) return status;
    }
    return keys->n ? PR_OK : pr_fail(err, PR_ERR_FORMAT, "%s: no key in it", what);
}

pr_status pr_keys_parse(const char *text, size_t len, const char *what, pr_keys **out, pr_err *err) {
    *out = NULL;
    if (memchr(text, '\0', len)) return pr_fail(err, PR_ERR_FORMAT, "%s: not a text file", what);
    pr_keys *keys = pr_calloc(PR_TAG_HTTP, 1, sizeof *keys);
    char *copy = pr_strndup(PR_TAG_HTTP, text, len);
    pr_status status = PR_OK;
    if (!keys || !copy) status = pr_fail_nomem(err, what, len);
    if (keys) pthread_mutex_init(&keys->lock, NULL);
    if (!status) status = parse_lines(keys, copy, what, err);
    pr_free(copy);
    if (status) pr_keys_close(keys);
    else *out = keys;
    return status;
}

pr_status pr_keys_load(const char *path, pr_keys **out, pr_err *err) {
    char *text;
    size_t len;
    *out = NULL;
    pr_status status = pr_file_slurp(path, FILE_BYTES_MAX, &text, &len, err);
    if (status) return status;
    status = pr_keys_parse(text, len, path, out, err);
    pr_free(text);
    return status;
}

void pr_keys_close(pr_keys *keys) {
    if (!keys) return;
    pthread_mutex_destroy(&keys->lock);
    for (size_t i = 0; i < keys->n; i++) pr_free(keys->all[i]);
    pr_free(keys->all);
    pr_free(keys);
}

static pr_key *find_name(const pr_keys *keys, const char *name) {
    for (size_t i = 0; i < keys->n; i++)
        if (strcmp(keys->all[i]->name, name) == 0) return keys->all[i];
    return NULL;
}

/* What `from` has becomes what `keys` has; there is room for it. */
static void take_over(pr_keys *keys, pr_keys *from) {
    size_t before = keys->n, kept = 0;
    for (size_t i = 0; i < before; i++) keys->all[i]->gone = true;
    for (size_t i = 0; i < from->n; i++) {
        pr_key *fresh = from->all[i], *old = find_name(keys, fresh->name);
        if (!old) {
            fresh->keys = keys;
            keys->all[keys->n++] = fresh;
            continue;
        }
        memcpy(old->hash, fresh->hash, sizeof old->hash);
        if (!old->rpm) old->filled_at = -1; /* its first bucket is full */
        old->rpm = fresh->rpm;
        old->concurrent = fresh->concurrent;
        old->gone = false;
        from->all[kept++] = fresh;
    }
    from->n = kept;
}

pr_status pr_keys_reload(pr_keys *keys, const char *path, pr_err *err) {
    pr_keys *from;
    pr_status status = pr_keys_load(path, &from, err);
    if (status) return status;
    pthread_mutex_lock(&keys->lock);
    status = grow(keys, from->n, err);
    if (!status) take_over(keys, from);
    pthread_mutex_unlock(&keys->lock);
    pr_keys_close(from);
    return status;
}

size_t pr_keys_count(pr_keys *keys) {
    size_t n = 0;
    pthread_mutex_lock(&keys->lock);
    for (size_t i = 0; i < keys->n; i++) n += !keys->all[i]->gone;
    pthread_mutex_unlock(&keys->lock);
    return n;
}

/* ---- asking ---- */

pr_key *pr_keys_find(pr_keys *keys, const char *token, size_t len) {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    pr_key *found = NULL;
    if (!SHA256((const unsigned char *)token, len, hash)) return NULL;
    pthread_mutex_lock(&keys->lock);
    for (size_t i = 0; i < keys->n; i++) {
        bool same = CRYPTO_memcmp(hash, keys->all[i]->hash, sizeof hash) == 0;
        if (same && !keys->all[i]->gone) found = keys->all[i];
    }
    pthread_mutex_unlock(&keys->lock);
    return found;
}

const char *pr_key_name(const pr_key *key) { return key->name; }

static void refill(pr_key *key, double now) {
    double rate = key->rpm / 60.0;
    if (key->filled_at < 0) key->tokens = key->rpm;
    else if (now > key->filled_at) key->tokens = fmin(key->rpm, key->tokens + (now - key->filled_at) * rate);
    key->filled_at = now;
}

bool pr_key_admit(pr_key *key, double now, uint32_t *retry_after) {
    pthread_mutex_lock(&key->keys->lock);
    bool admitted = true;
    *retry_after = 0;
    if (key->rpm) refill(key, now);
    if (key->rpm && key->tokens < 1) {
        *retry_after = (uint32_t)ceil((1 - key->tokens) * 60 / key->rpm);
        if (*retry_after < 1) *retry_after = 1;
        admitted = false;
    } else if (key->concurrent && key->running >= key->concurrent) {
        *retry_after = 1;
        admitted = false;
    } else {
        if (key->rpm) key->tokens -= 1;
        key->running++;
    }
    pthread_mutex_unlock(&key->keys->lock);
    return admitted;
}

void pr_key_release(pr_key *key) {
    pthread_mutex_lock(&key->keys->lock);
    if (key->running) key->running--;
    pthread_mutex_unlock(&key->keys->lock);
}
