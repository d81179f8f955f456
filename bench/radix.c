/*
 * What keeping and finding prefixes costs: a Markdown table for docs/CACHES.md.
 *
 *   build/release/bench/radix [TOKENS [PROMPTS]]
 *
 * PROMPTS prompts of TOKENS tokens each, the first half of which is the same for all of them: kept, found again in another
 * order, given back; medians for one prompt. Pages are tiny, since what they hold is not looked at.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/os.h"
#include "kv/radix.h"

enum { TOKENS = 8192, PROMPTS = 200, SAMPLES_MAX = 10000 };

static void stop(const char *what) {
    fprintf(stderr, "radix: %s\n", what);
    exit(1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_us(double *seconds, size_t n) {
    qsort(seconds, n, sizeof *seconds, by_value);
    return seconds[n / 2] * 1e6;
}

static void fill(int32_t *tokens, uint32_t n, uint32_t prompt) {
    for (uint32_t i = 0; i < n; i++) tokens[i] = (int32_t)((i < n / 2 ? i : i * 31 + prompt * 7919) % 49152);
}

int main(int argc, char **argv) {
    static double keep[SAMPLES_MAX], find[SAMPLES_MAX], take[SAMPLES_MAX];
    uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : TOKENS;
    uint32_t prompts = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : PROMPTS;
    if (n < 64 || n > 1 << 20 || prompts < 1 || prompts > SAMPLES_MAX) stop("usage: radix [TOKENS [PROMPTS]]");
    const pr_kv_shape shape = {1, 1, 8, PR_KV_FORM_F16, PR_KV_FORM_F16};
    uint64_t pages = ((uint64_t)prompts + 2) * (n / PR_KV_TOKENS + 1);
    pr_kv_pool *pool;
    pr_radix *tree;
    int32_t *tokens = pr_alloc(PR_TAG_MISC, n * sizeof *tokens);
    pr_kv_seq seq;
    if (!tokens || pr_kv_pool_open(&shape, pages * pr_kv_page_bytes(&shape), &pool, NULL) ||
        pr_radix_open(pool, &tree, NULL))
        stop("out of memory");
    for (uint32_t i = 0; i < prompts; i++) {
        fill(tokens, n, i);
        if (pr_kv_seq_init(&seq, pool, n, NULL) || pr_kv_seq_reserve(&seq, n, NULL)) stop("out of memory");
        pr_kv_seq_commit(&seq, n, 0);
        double begin = pr_now();
        pr_radix_insert(tree, &shape, &seq, tokens, n);
        keep[i] = pr_now() - begin;
        pr_kv_seq_free(&seq);
    }
    for (uint32_t i = 0; i < prompts; i++) {
        fill(tokens, n, (uint32_t)((uint64_t)i * 7919 % prompts));
        if (pr_kv_seq_init(&seq, pool, n, NULL)) stop("out of memory");
        double begin = pr_now();
        pr_radix_match match = pr_radix_find(tree, &shape, tokens, n - 1, 0);
        find[i] = pr_now() - begin;
        if (match.n_tokens != n - 1) stop("a prompt was not found");
        begin = pr_now();
        pr_radix_take(tree, &match, &seq);
        take[i] = pr_now() - begin;
        pr_kv_seq_free(&seq);
    }
    uint32_t held = pr_radix_pages(tree);
    double begin = pr_now();
    pr_radix_evict(tree, held, NULL);
    double evict = (pr_now() - begin) / held * 1e6;
    printf("| prompts of %u tokens | %u, in %u pages |\n|---|---|\n| keep one | %.1f us |\n| find one | %.1f us |\n"
           "| take one | %.1f us |\n| evict a page | %.2f us |\n",
           n, prompts, held, median_us(keep, prompts), median_us(find, prompts), median_us(take, prompts), evict);
    pr_radix_close(tree);
    pr_kv_pool_close(pool);
    pr_free(tokens);
    return 0;
}
