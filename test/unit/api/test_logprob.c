#include "api/logprob.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { N = 1000, K = 20 };

static void test_against_sorting(void **state) {
    (void)state;
    float logits[N];
    pr_logprob chosen, top[K];
    srand(1);
    for (int i = 0; i < N; i++) logits[i] = (float)(rand() % 400) / 20 - 10; /* with ties */
    double sum = 0;
    for (int i = 0; i < N; i++) sum += exp((double)logits[i]);
    assert_int_equal(pr_logprobs(logits, N, 17, K, &chosen, top), K);
    assert_true(chosen.token == 17 && fabs((double)chosen.logprob - ((double)logits[17] - log(sum))) < 1e-4);
    for (int k = 0; k < K; k++) {
        int better = 0;
        for (int i = 0; i < N; i++)
            better += logits[i] > logits[top[k].token] || (logits[i] == logits[top[k].token] && i < top[k].token);
        assert_int_equal(better, k);
    }
}

static void test_edges(void **state) {
    (void)state;
    pr_logprob chosen, top[K];
    const float two[] = {-INFINITY, 3};
    assert_int_equal(pr_logprobs(two, 2, 0, 5, &chosen, top), 2);
    assert_true(chosen.logprob == -9999 && top[0].token == 1 && top[0].logprob == 0 && top[1].logprob == -9999);
    assert_int_equal(pr_logprobs(two, 2, 1, 0, &chosen, top), 0);
    assert_true(chosen.logprob == 0);
    pr_logprobs(two, 2, 7, 0, &chosen, top);
    assert_true(chosen.logprob == -9999);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_sorting), cmocka_unit_test(test_edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
