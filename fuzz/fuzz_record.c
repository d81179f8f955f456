/*
 * Fuzz: records of answers, and the Cache-Control header.
 *
 * As a record: what is read lies inside, in order, and written again it has the same bytes. As a header: ages are no negative
 * numbers, and what a comma separates is read apart.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/answers.h"
#include "api/record.h"

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

static void write_again(pr_str *out, const pr_event *e) {
    if (e->ends) {
        pr_record_end(out, e->choice, &e->ending, &e->share);
    } else {
        pr_record_token(out, e->choice, e->level, e->text, e->len, e->has_lp ? &e->lp : NULL);
    }
}

/* Text without log probabilities that has some all the same, or flags other than 0 and 1, come from nobody who writes. */
static int is_plain(const pr_event *e) {
    return e->ends || e->has_lp || e->lp.tokens.len + e->lp.values.len + e->lp.tops.len + e->lp.offsets.len == 0;
}

static void read_record(const char *data, size_t size) {
    size_t at = 0;
    pr_event e;
    for (size_t n; (n = pr_record_next(data + at, size - at, &e)) > 0;) {
        pr_str again = {0};
        pr_event copy;
        require(n <= size - at && e.choice < PR_CHOICES_MAX && (unsigned)e.level < PR_LEVELS);
        require(e.ends ? e.ending.finish != NULL && e.len == 0 : e.text >= data && e.text + e.len <= data + size);
        write_again(&again, &e);
        require(pr_str_ok(&again) && pr_record_next(again.data, again.len, &copy) == again.len);
        require(copy.choice == e.choice && copy.level == e.level && copy.ends == e.ends && copy.len == e.len);
        require(e.len == 0 || memcmp(copy.text, e.text, e.len) == 0);
        if (is_plain(&e) && !e.ends) {
            require(again.len == n);
        }
        pr_str_free(&again);
        at += n;
    }
}

static void read_header(const char *data, size_t size) {
    char *text = pr_strndup(PR_TAG_MISC, data, size), *twice;
    pr_cache_control once, both;
    require(text != NULL);
    pr_cache_control_parse(text, &once);
    require(once.age_max >= 0);
    twice = strchr(text, '"') ? NULL : text; /* a quote that is open takes what follows */
    if (twice) {
        pr_str more = {0};
        pr_str_printf(&more, "%s,no-store", twice);
        pr_cache_control_parse(more.data, &both);
        require(both.no_store && both.no_cache == once.no_cache && both.age_max == once.age_max);
        pr_str_free(&more);
    }
    pr_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    if (data[0] == 'h') {
        read_header((const char *)data + 1, size - 1);
    } else {
        read_record((const char *)data + 1, size - 1);
    }
    return 0;
}
