/*
 * Whose turn it is (fair.h).
 */
#include "sched/fair.h"

static bool before(const pr__turn *a, const pr__turn *b) {
    if (a->key != b->key && a->key_served != b->key_served) return a->key_served < b->key_served;
    return a->served < b->served;
}

size_t pr__fair_pick(pr__turn *turns, size_t n, size_t most, uint64_t rows_max, size_t *order) {
    size_t picked = 0;
    while (picked < most) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!turns[i].taken && turns[i].rows <= rows_max && (best == n || before(&turns[i], &turns[best])))
                best = i;
        if (best == n) break;
        turns[best].taken = true;
        rows_max -= turns[best].rows;
        order[picked++] = best;
        for (size_t i = 0; i < n; i++)
            if (turns[i].key == turns[best].key) turns[i].key_served += turns[best].rows;
    }
    return picked;
}
