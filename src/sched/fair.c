/*
 * Whose turn it is (fair.h).
 */
#include "sched/fair.h"

/* Parties that come anew start level with those that went on. */
static void begin_round(pr__fair *queue, pr__turn *turns, size_t n) {
    uint64_t least = UINT64_MAX, lowest = UINT64_MAX;
    queue->round++;
    for (size_t i = 0; i < n; i++) {
        const pr__share *s = turns[i].share;
        if (s->round + 1 == queue->round && s->served < least) least = s->served;
    }
    if (least == UINT64_MAX) least = queue->least;
    for (size_t i = 0; i < n; i++) {
        pr__share *s = turns[i].share;
        if (s->round + 1 < queue->round && s->served < least) s->served = least;
        s->round = queue->round;
        if (s->served < lowest) lowest = s->served;
    }
    if (n) queue->least = lowest;
}

static bool before(const pr__turn *a, const pr__turn *b) {
    if (a->share->served != b->share->served) return a->share->served < b->share->served;
    return a->order < b->order;
}

size_t pr__fair_pick(pr__fair *queue, pr__turn *turns, size_t n, size_t most, uint32_t rows_max, size_t *order) {
    size_t picked = 0;
    begin_round(queue, turns, n);
    while (picked < most && rows_max > 0) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!turns[i].taken && turns[i].rows && (best == n || before(&turns[i], &turns[best]))) best = i;
        if (best == n) break;
        pr__turn *t = &turns[best];
        if (t->rows > rows_max) t->rows = rows_max;
        t->taken = true;
        t->share->served += t->rows;
        rows_max -= t->rows;
        order[picked++] = best;
    }
    return picked;
}

int pr__fair_batch(pr__stride *stride, const double weight[PR__BATCHES]) {
    int best = -1;
    double least = -1;
    for (int b = 0; b < PR__BATCHES; b++)
        if (stride->there[b] && weight[b] > 0 && (least < 0 || stride->pass[b] < least)) least = stride->pass[b];
    for (int b = 0; b < PR__BATCHES; b++) {
        bool there = weight[b] > 0;
        if (there && !stride->there[b] && stride->pass[b] < least) stride->pass[b] = least;
        stride->there[b] = there;
        if (there && (best < 0 || stride->pass[b] < stride->pass[best])) best = b;
    }
    if (best >= 0) stride->pass[best] += 1 / weight[best];
    return best;
}
