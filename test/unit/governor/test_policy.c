#include "governor/policy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "support/sanitized.h"

#define GB 1000000000ull

static pr_gov_settings set;

static int defaults(void **state) {
    (void)state;
    pr_gov_defaults(&set);
    return 0;
}

/* A model of 1.1e9 parameters on a machine of 16 GB. */
static pr_gov_snapshot machine(double used, uint32_t requests) {
    pr_gov_snapshot s = {.limit_bytes = 16 * GB, .top = PR_LEVEL_FP16, .n_params = 1100000000, .running = requests};
    s.used_bytes = (uint64_t)(used * 16e9);
    for (int i = 0; i < PR_LEVELS; i++) s.level_bytes[i] = pr_gov_params_bytes(s.n_params, (pr_level)i);
    s.down_seconds = 1e9;
    return s;
}

/* The same, loaded at a level, its weights part of what is used. */
static pr_gov_snapshot loaded(double used, uint32_t requests, pr_level level) {
    pr_gov_snapshot s = machine(used, requests);
    s.loaded = true;
    s.level = level;
    s.weight_bytes = s.level_bytes[level];
    return s;
}

static pr_gov_decision decide(const pr_gov_snapshot *s) {
    pr_gov_decision d;
    pr_gov_decide(&set, s, &d);
    size_t len = strlen(d.reason);
    assert_true(len > 10 && len < PR_GOV_REASON - 1);
    assert_non_null(strstr(d.reason, pr_level_name(d.level)));
    assert_true(d.level <= s->top);
    assert_true(!d.moves || d.weight_bytes >= s->level_bytes[d.level]);
    assert_true(d.level == s->top || d.weight_bytes < s->level_bytes[d.level + 1]);
    assert_true(d.freed_bytes == 0 || d.needed_bytes == 0);
    if (s->loaded) {
        pr_level from = s->level < s->top ? s->level : s->top;
        assert_int_equal(d.changed, d.level != from);
        int there = (d.weight_bytes > s->weight_bytes) - (d.weight_bytes < s->weight_bytes);
        assert_int_equal(d.direction, d.changed ? (d.level > from) - (d.level < from) : there);
        assert_int_equal(d.moves, d.cause != PR_GOV_STAY);
        assert_true(d.moves || !d.changed);
        assert_int_equal((int64_t)d.needed_bytes - (int64_t)d.freed_bytes,
                         (int64_t)d.weight_bytes - (int64_t)s->weight_bytes);
    }
    return d;
}

/* ---- the table --------------------------------------------------------- */

/* SPEC section 1, row by row; columns: requests 0 to 12. */
static const struct {
    double from, to;
    const char *levels;
} rows[] = {
    {0, .40, "ff88884444444"},   {.40, .60, "8844444444444"}, {.60, .75, "4444444444444"},
    {.75, .85, "4444444444222"}, {.85, 2, "2222222222222"},
};

static pr_level by_letter(char letter) {
    return letter == 'f'   ? PR_LEVEL_FP16
           : letter == '8' ? PR_LEVEL_INT8
           : letter == '4' ? PR_LEVEL_INT4
                           : PR_LEVEL_INT2;
}

/* The table again, from the rows above. */
static pr_level table(double used, uint32_t requests) {
    size_t row = 0;
    while (used >= rows[row].to && row < 4) row++;
    return by_letter(rows[row].levels[requests < 12 ? requests : 12]);
}

static void table_has_every_cell(void **state) {
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        for (uint32_t n = 0; n <= 12; n++) {
            pr_level want = by_letter(rows[i].levels[n]);
            assert_int_equal(pr_gov_table(&set, rows[i].from, n), want);
            assert_int_equal(pr_gov_table(&set, nextafter(rows[i].from, 2), n), want);
            assert_int_equal(pr_gov_table(&set, (rows[i].from + rows[i].to) / 2, n), want);
            assert_int_equal(pr_gov_table(&set, nextafter(rows[i].to, 0), n), want);
        }
        assert_int_equal(pr_gov_table(&set, rows[i].from, UINT32_MAX), by_letter(rows[i].levels[12]));
    }
    assert_int_equal(pr_gov_table(&set, -1, 0), PR_LEVEL_FP16);
    assert_int_equal(pr_gov_table(&set, 1e300, 0), PR_LEVEL_INT2);
    assert_int_equal(pr_gov_table(&set, (double)NAN, 0), PR_LEVEL_INT2);
}

static void table_follows_settings(void **state) {
    (void)state;
    set.memory_comfortable = .5;
    set.load_low = 4;
    set.load_moderate = 4;
    set.load_high = 4;
    assert_int_equal(pr_gov_table(&set, .49, 3), PR_LEVEL_FP16);
    assert_int_equal(pr_gov_table(&set, .49, 4), PR_LEVEL_INT8);
    assert_int_equal(pr_gov_table(&set, .49, 5), PR_LEVEL_INT4);
    assert_int_equal(pr_gov_table(&set, .80, 4), PR_LEVEL_INT2);
    assert_string_equal(pr_gov_status(&set, .49), "comfortable");
    assert_string_equal(pr_gov_status(&set, .59), "moderate");
    assert_string_equal(pr_gov_status(&set, .60), "tight");
    assert_string_equal(pr_gov_status(&set, .75), "critical");
    assert_string_equal(pr_gov_status(&set, (double)NAN), "critical");
}

/* ---- the whole space, against a second description of the rules --------- */

static bool fits(const pr_gov_snapshot *s, int level) {
    return pr_gov_projected(s, (pr_level)level) <= set.memory_full;
}

static int choice(const pr_gov_snapshot *s, bool with_memory, bool with_load) {
    int level = (int)s->top;
    uint32_t requests = with_load ? s->running + s->queued : 0;
    while (level > 0 && table(with_memory ? pr_gov_projected(s, (pr_level)level) : 0, requests) < (pr_level)level) {
        level--;
    }
    int wish = level + (int)s->priority;
    wish = wish < 0 ? 0 : wish > (int)s->top ? (int)s->top : wish;
    bool room = !with_memory || pr_gov_projected(s, (pr_level)wish) < set.memory_critical;
    return wish <= level || room ? wish : level;
}

/* What should be chosen at load. */
static int expected(const pr_gov_snapshot *s) {
    int top = (int)s->top, to, by_load;
    if (s->force_given) {
        to = (int)s->force < top ? (int)s->force : top;
        while (to > 0 && !fits(s, to)) to--;
        return to;
    }
    bool own = s->poor_int2 || (s->n_params && s->n_params < GB);
    int floor = s->floor_given ? (int)s->floor : own ? PR_LEVEL_INT4 : 0;
    floor = floor < top ? floor : top;
    bool holds = fits(s, floor);
    to = choice(s, true, true);
    by_load = choice(s, false, true);
    int best = choice(s, false, false);
    to = holds && to < floor ? floor : to;
    by_load = holds && by_load < floor ? floor : by_load;
    best = holds && best < floor ? floor : best;
    if ((double)s->level_bytes[best] - (double)s->level_bytes[to] >= .01 * (double)s->limit_bytes) return to;
    while (by_load > to && !fits(s, by_load)) by_load--;
    return by_load > to ? by_load : to;
}

/* Calls check(snapshot) for memory x requests x priority x floor x force x top x size of the model. */
static void every_case(void (*check)(const pr_gov_snapshot *s)) {
    static const double edges[] = {.01, .2, .40, .5, .60, .7, .75, .8, .85, .9, .95, .98, 1, 1.2};
    static const uint64_t sizes[] = {135000000, 999999999, 1000000000, 1100000000, 7000000000, 30000000000};
    for (size_t i = 0; i < sizeof edges / sizeof *edges * 3; i++) {
        for (uint32_t n = 0; n <= 12; n++) {
            for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++) {
                pr_gov_snapshot s = machine(edges[i / 3], n / 2);
                s.queued = n - n / 2;
                s.used_bytes += i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : UINT64_MAX; /* the edge, just above, just below */
                s.n_params = sizes[size];
                s.poor_int2 = (i + n + size) % 2;
                for (int j = 0; j < PR_LEVELS; j++) s.level_bytes[j] = pr_gov_params_bytes(s.n_params, (pr_level)j);
                for (int rest = 0; rest < 3 * 5 * 5 * 2 * 2; rest++) {
                    s.priority = (pr_priority)(rest % 3 - 1);
                    s.floor_given = rest / 3 % 5 > 0;
                    s.floor = s.floor_given ? (pr_level)(rest / 3 % 5 - 1) : 0;
                    s.force_given = rest / 15 % 5 > 0;
                    s.force = s.force_given ? (pr_level)(rest / 15 % 5 - 1) : 0;
                    s.projected = rest / 75 % 2;
                    s.top = rest / 150 ? PR_LEVEL_INT8 : PR_LEVEL_FP16;
                    check(&s);
                }
            }
        }
    }
}

static void check_first(const pr_gov_snapshot *s) {
    pr_gov_decision d = decide(s);
    if ((int)d.level != expected(s)) {
        fail_msg("%s: expected %s, %s %s", d.reason, pr_level_name((pr_level)expected(s)),
                 s->floor_given ? "floor" : "", s->force_given ? "force" : "");
    }
    assert_int_equal(d.needed_bytes, d.weight_bytes);
    if (d.weight_bytes > s->level_bytes[d.level]) { /* below the line where the next level would be granted */
        double next = d.use + 1. / (double)s->limit_bytes;
        bool wish = s->priority == PR_PRIORITY_QUALITY && next <= set.memory_critical + 1e-9;
        assert_true(!s->projected && !s->force_given && s->priority != PR_PRIORITY_SPEED);
        assert_true(table(d.use - 1e-9, s->running + s->queued) > d.level || wish);
    }
    assert_true(d.changed && d.direction == 0);
}

static void the_whole_space_at_load(void **state) {
    (void)state;
    every_case(check_first);
}

/* Loaded anywhere: what is decided is decided again, unchanged, at once. */
static void check_loaded(const pr_gov_snapshot *at_load) {
    for (int level = 0; level <= (int)at_load->top; level++) {
        pr_gov_snapshot s = *at_load;
        s.loaded = true;
        s.level = (pr_level)level;
        s.weight_bytes = s.level_bytes[level];
        if (!s.projected) s.used_bytes += s.weight_bytes;
        s.calm_seconds = 31;
        pr_gov_decision d = decide(&s);
        if (!s.force_given && d.direction < 0) assert_true(s.used_bytes * 100 >= s.limit_bytes * 60);
        if (!fits(&s, (int)d.level)) assert_true(d.level == PR_LEVEL_INT2 || d.direction > 0);
        if (!d.moves) continue;
        if (!s.projected) s.used_bytes += d.weight_bytes - s.weight_bytes;
        s.level = d.level;
        s.weight_bytes = d.weight_bytes;
        s.calm_seconds = 0;
        s.down_seconds = d.direction < 0 ? 0 : 1e9;
        pr_gov_decision again = decide(&s);
        if (again.moves) fail_msg("%s | then %s", d.reason, again.reason);
    }
}

static void a_change_calls_for_no_other(void **state) {
    (void)state;
    if (!TEST_SANITIZED) every_case(check_loaded);
}

static void more_memory_used_or_more_requests_never_raise(void **state) {
    (void)state;
    for (int rest = 0; rest < 3 * 5 * 2; rest++) {
        for (uint32_t n = 0; n <= 12; n++) {
            int last = PR_LEVELS, next_last = PR_LEVELS;
            for (int percent = 0; percent <= 110; percent++) {
                pr_gov_snapshot s = machine(percent / 100., n);
                s.priority = (pr_priority)(rest % 3 - 1);
                s.floor_given = rest / 3 % 5 > 0;
                s.floor = s.floor_given ? (pr_level)(rest / 3 % 5 - 1) : 0;
                s.n_params = rest / 15 ? 7000000000 : 400000000;
                for (int j = 0; j < PR_LEVELS; j++) s.level_bytes[j] = pr_gov_params_bytes(s.n_params, (pr_level)j);
                int level = (int)decide(&s).level;
                s.queued = 1;
                int next = (int)decide(&s).level;
                assert_true(level <= last && next <= next_last && next <= level);
                last = level;
                next_last = next;
            }
        }
    }
}

/* ---- the trace of the SPEC ---------------------------------------------- */

static const struct {
    double used;
    uint32_t requests;
    pr_level level;
} spec_trace[] = {{.35, 1, PR_LEVEL_FP16},
                  {.48, 3, PR_LEVEL_FP16},
                  {.68, 5, PR_LEVEL_INT4},
                  {.42, 2, PR_LEVEL_INT4},
                  {.32, 0, PR_LEVEL_INT8}};

/* Memory as given (projected), or given for the level that is then decided: others use the rest. */
static void play_spec_trace(bool projected) {
    pr_gov_clock clock = {0};
    pr_gov_snapshot model = {0};
    double now = 1000;
    for (size_t i = 0; i < 5; i++) {
        /* Two minutes at each point, a sample a second: every change must come, and no other. */
        int changes = 0;
        for (int second = 0; second < 50; second++, now++) {
            pr_gov_snapshot s = machine(spec_trace[i].used, spec_trace[i].requests);
            s.projected = projected;
            s.loaded = model.loaded;
            s.level = model.level;
            s.weight_bytes = model.weight_bytes;
            if (!projected) s.used_bytes += s.weight_bytes - s.level_bytes[spec_trace[i].level];
            pr_gov_clock_read(&clock, &set, now, &s);
            pr_gov_decision d = decide(&s);
            pr_gov_clock_decided(&clock, now, &d);
            changes += d.changed;
            model.loaded = true;
            model.level = d.level;
            model.weight_bytes = s.level_bytes[d.level];
        }
        assert_int_equal(model.level, spec_trace[i].level);
        assert_int_equal(changes, i == 0 || i == 2 || i == 4);
    }
}

static void the_trace_of_the_spec(void **state) {
    (void)state;
    play_spec_trace(true);
    play_spec_trace(false);
}

/* ---- single rules ------------------------------------------------------- */

static void down_at_once_and_several_levels(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.60, 8, PR_LEVEL_FP16);
    pr_gov_decision d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT4);
    assert_int_equal(d.cause, PR_GOV_MEMORY);
    assert_int_equal(d.freed_bytes, s.level_bytes[PR_LEVEL_FP16] - s.level_bytes[PR_LEVEL_INT4]);
    s.used_bytes--;
    assert_int_equal(decide(&s).changed, false);
    s = loaded(.65, 1, PR_LEVEL_INT4);
    d = decide(&s);
    assert_false(d.changed);
    assert_null(strstr(d.reason, "under 1%"));
    s = loaded(.97, 1, PR_LEVEL_FP16);
    d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT2 + (pr_gov_projected(&s, PR_LEVEL_INT4) < .85));
}

static void up_one_level_after_the_dwell_time(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.30, 1, PR_LEVEL_INT2);
    s.calm_seconds = 29.9;
    assert_false(decide(&s).changed);
    s.calm_seconds = 30;
    pr_gov_decision d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT4);
    assert_int_equal(d.cause, PR_GOV_CALM);
    assert_int_equal(d.needed_bytes, s.level_bytes[PR_LEVEL_INT4] - s.level_bytes[PR_LEVEL_INT2]);
    s.down_seconds = 29;
    assert_false(decide(&s).changed);
    s.down_seconds = 30;
    s.queued = 1;
    assert_false(decide(&s).changed);
    s.queued = 0;
    s.used_bytes = (uint64_t)(.40 * 16e9) + 1;
    assert_false(decide(&s).changed);
    s = loaded(.39, 0, PR_LEVEL_INT8); /* fp16 would take .45 */
    s.calm_seconds = 1000;
    assert_false(decide(&s).changed);
}

static void a_request_that_would_not_fit(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.55, 3, PR_LEVEL_FP16);
    s.request_bytes = (uint64_t)(.29 * 16e9);
    pr_gov_decision d = decide(&s);
    assert_false(d.changed);
    assert_true(d.request_fits);
    s.request_bytes = (uint64_t)(.31 * 16e9);
    d = decide(&s);
    assert_int_equal(d.cause, PR_GOV_REQUEST);
    assert_int_equal(d.level, PR_LEVEL_INT4);
    assert_true(d.request_fits);
    s.request_bytes = 16 * GB;
    d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT2);
    assert_false(d.request_fits);
}

static void small_savings_are_not_made(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.80, 1, PR_LEVEL_FP16);
    for (int i = 0; i < PR_LEVELS; i++) s.level_bytes[i] = (uint64_t)(i + 1) * 50000000;
    s.weight_bytes = s.level_bytes[PR_LEVEL_FP16];
    pr_gov_decision d = decide(&s); /* 100 MB less of 16 GB */
    assert_false(d.changed);
    assert_non_null(strstr(d.reason, "under 1%"));
    s.running = 3; /* load calls for int8 */
    assert_int_equal(decide(&s).level, PR_LEVEL_INT8);
    s.running = 12;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT4); /* and memory for int2, but 150 MB are too little */
    s.running = 1;
    s.used_bytes = (uint64_t)(.955 * 16e9); /* full: every byte counts */
    assert_int_equal(decide(&s).level, PR_LEVEL_INT4);
    s.used_bytes = (uint64_t)(.80 * 16e9);
    s.limit_bytes = 9900000000; /* 100 MB is over 1% */
    s.used_bytes = (uint64_t)(.80 * 9.9e9);
    assert_int_equal(decide(&s).level, PR_LEVEL_INT4);
    s.loaded = false;
    s.weight_bytes = 0;
    s.limit_bytes = 16 * GB;
    s.used_bytes = (uint64_t)(.90 * 16e9);
    assert_int_equal(decide(&s).level, PR_LEVEL_FP16);
}

static void floors_hold_until_full(void **state) {
    (void)state;
    pr_gov_snapshot s = machine(.90, 1);
    s.limit_bytes = GB; /* a small model on a small machine */
    s.n_params = 135000000;
    s.used_bytes = GB / 10 * 8;
    for (int i = 0; i < PR_LEVELS; i++) s.level_bytes[i] = pr_gov_params_bytes(s.n_params, (pr_level)i);
    pr_gov_decision d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT4); /* by default: int2 by the table */
    s.n_params = 0;
    s.used_bytes = GB / 100 * 83;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT2);
    s.floor_given = true;
    s.floor = PR_LEVEL_INT4;
    d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT4);
    assert_true(d.floor_met);
    s.used_bytes = GB / 100 * 88; /* 95.6% with int4 */
    d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT2);
    assert_false(d.floor_met);
    s.n_params = 135000000;
    s.floor = PR_LEVEL_INT2; /* a stated floor goes over the default one */
    s.used_bytes = GB / 100 * 83;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT2);
}

static void raised_to_a_floor_with_room(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.50, 4, PR_LEVEL_INT4);
    s.floor_given = true;
    s.floor = PR_LEVEL_FP16;
    pr_gov_decision d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_FP16);
    assert_int_equal(d.cause, PR_GOV_FLOOR);
    s.down_seconds = 10;
    assert_false(decide(&s).changed);
    s.down_seconds = 30;
    s.used_bytes = (uint64_t)(.80 * 16e9);
    d = decide(&s);
    assert_false(d.changed);
    assert_false(d.floor_met);
    assert_int_equal(pr_gov_allowed(&set, &s), PR_LEVEL_INT8);
    s.floor = PR_LEVEL_INT8;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT8);
    s.used_bytes = (uint64_t)(.99 * 16e9);
    assert_int_equal(pr_gov_allowed(&set, &s), PR_LEVEL_INT2);
    s.used_bytes = (uint64_t)(.90 * 16e9); /* int8 would fit, but it does not hold yet: the table decides */
    assert_int_equal(decide(&s).level, PR_LEVEL_INT2);
    s = loaded(.90, 4, PR_LEVEL_INT8); /* here it holds */
    s.floor_given = true;
    s.floor = PR_LEVEL_INT8;
    assert_false(decide(&s).changed);
}

static void set_by_hand(void **state) {
    (void)state;
    pr_gov_snapshot s = loaded(.70, 12, PR_LEVEL_INT4);
    s.force_given = true;
    s.force = PR_LEVEL_FP16;
    pr_gov_decision d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_FP16);
    assert_int_equal(d.cause, PR_GOV_FORCE);
    s = loaded(.10, 0, PR_LEVEL_FP16);
    s.force_given = true;
    s.force = PR_LEVEL_INT2;
    d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT2);
    assert_int_equal(d.cause, PR_GOV_FORCE);
    s.force = PR_LEVEL_FP16;
    assert_false(decide(&s).changed);
    s.used_bytes = 16 * GB; /* at last bytes win, and that is a downgrade like another */
    d = decide(&s);
    assert_true(d.level < PR_LEVEL_FP16);
    assert_int_equal(d.cause, PR_GOV_MEMORY);
    pr_gov_clock clock = {0};
    pr_gov_clock_decided(&clock, 5, &d);
    pr_gov_clock_read(&clock, &set, 6, &s);
    assert_true(s.down_seconds == 1);
    d = (pr_gov_decision){.changed = true, .direction = -1, .cause = PR_GOV_FORCE};
    clock = (pr_gov_clock){0};
    pr_gov_clock_decided(&clock, 5, &d);
    pr_gov_clock_read(&clock, &set, 6, &s);
    assert_true(s.down_seconds > 1e6);
    s = loaded(.50, 0, PR_LEVEL_INT2);
    s.force_given = true;
    s.force = PR_LEVEL_FP16;
    s.down_seconds = 1;
    assert_false(decide(&s).changed);
}

static void devices_and_caps(void **state) {
    (void)state;
    pr_gov_snapshot s = machine(.10, 0);
    s.levels_able = 1u << PR_LEVEL_INT4 | 1u << PR_LEVEL_INT2;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT4);
    s.priority = PR_PRIORITY_QUALITY;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT4);
    s.levels_able = 1u << PR_LEVEL_FP16 | 1u << PR_LEVEL_INT4;
    s.priority = PR_PRIORITY_SPEED;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT4); /* one down: the next that there is */
    s.floor_given = true;
    s.floor = PR_LEVEL_INT8;
    assert_int_equal(decide(&s).level, PR_LEVEL_FP16); /* at least int8 */
    s.floor_given = false;
    s.force_given = true;
    s.force = PR_LEVEL_INT8;
    pr_gov_decision d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT4);
    assert_non_null(strstr(d.reason, "which there is not"));
    s.force_given = false;
    s.levels_able = 1u << PR_LEVEL_FP16;
    s.top = PR_LEVEL_INT8;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT8);
    s = machine(.10, 0);
    s.weight_bytes_max = s.level_bytes[PR_LEVEL_INT8];
    assert_int_equal(decide(&s).level, PR_LEVEL_INT8);
    s.weight_bytes_max = 1;
    d = decide(&s);
    assert_int_equal(d.level, PR_LEVEL_INT2);
    assert_false(d.request_fits);
    s = loaded(.10, 0, PR_LEVEL_FP16); /* a cap that came later */
    s.weight_bytes_max = s.level_bytes[PR_LEVEL_INT8];
    assert_int_equal(decide(&s).level, PR_LEVEL_INT8);
    s = machine(.10, 0);
    s.limit_bytes = 0;
    assert_int_equal(decide(&s).level, PR_LEVEL_INT2);
}

static void names(void **state) {
    (void)state;
    pr_priority p;
    assert_true(pr_priority_by_name("quality", &p) && p == PR_PRIORITY_QUALITY);
    assert_true(pr_priority_by_name("speed", &p) && p == PR_PRIORITY_SPEED);
    assert_true(pr_priority_by_name("balanced", &p) && p == PR_PRIORITY_BALANCED);
    assert_false(pr_priority_by_name("Quality", &p));
}

/* ---- random traces ------------------------------------------------------- */

static uint64_t random_state;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

typedef struct world {
    pr_gov_snapshot s;
    pr_gov_clock clock;
    uint64_t others;
    double now, down_at, up_at;
    double up_others;
    uint32_t up_requests;
} world;

static void world_open(world *w) {
    static const uint64_t sizes[] = {135000000, 1100000000, 3000000000, 7000000000};
    *w = (world){.s = machine(0, 0), .now = random_below(1000), .down_at = -1e9, .up_at = -1e9};
    w->s.n_params = sizes[random_below(4)];
    for (int j = 0; j < PR_LEVELS; j++) w->s.level_bytes[j] = pr_gov_params_bytes(w->s.n_params, (pr_level)j);
    w->s.priority = (pr_priority)((int)random_below(3) - 1);
    w->s.floor_given = random_below(3) == 0;
    w->s.floor = (pr_level)random_below(PR_LEVELS);
    w->others = (uint64_t)(random_below(100) * .01 * 16e9);
}

/* Jumps, creeps and long calms. */
static void world_turn(world *w) {
    uint32_t kind = random_below(10);
    if (kind == 0) w->others = (uint64_t)(random_below(1000) * .001 * 16e9);
    if (kind > 5) w->others = w->others * (98 + random_below(5)) / 100;
    if (kind == 1) w->s.running = random_below(13);
    if (kind == 2) w->s.queued = random_below(4);
    if (kind == 3) w->s.running = w->s.queued = 0;
    w->now += kind == 4 ? 25 + random_below(20) : .1 * random_below(50);
}

static void world_check(world *w, const pr_gov_decision *d) {
    bool some_fits = false;
    for (int i = 0; i < PR_LEVELS; i++) some_fits |= fits(&w->s, i);
    double use = (double)(w->others + d->weight_bytes) / (double)w->s.limit_bytes;
    assert_true(use <= set.memory_full || !some_fits);
    assert_true(!d->moves || fabs(use - d->use) < 1e-9);
    uint32_t requests = w->s.running + w->s.queued;
    if (d->direction > 0) {
        assert_true(w->now - w->down_at >= set.dwell_seconds);
        w->up_at = w->now;
        w->up_others = (double)w->others;
        w->up_requests = requests;
    }
    if (d->direction < 0) {
        bool caused = (double)w->others > w->up_others || requests > w->up_requests;
        assert_true(w->now - w->up_at >= set.dwell_seconds || caused);
        w->down_at = w->now;
    }
}

static void ten_thousand_random_traces(void **state) {
    (void)state;
    int traces = TEST_SANITIZED ? 1000 : 10000, ups = 0, downs = 0, within = 0;
    for (int trace = 0; trace < traces; trace++) {
        random_state = (uint64_t)trace;
        world w;
        world_open(&w);
        for (int turn = 0; turn < 60; turn++) {
            world_turn(&w);
            w.s.used_bytes = w.others + w.s.weight_bytes;
            pr_gov_clock_read(&w.clock, &set, w.now, &w.s);
            pr_gov_decision d = decide(&w.s);
            world_check(&w, &d);
            pr_gov_clock_decided(&w.clock, w.now, &d);
            ups += d.direction > 0;
            downs += d.direction < 0;
            within += d.moves && !d.changed;
            w.s.loaded = true;
            w.s.level = d.level;
            w.s.weight_bytes = d.weight_bytes;
        }
    }
    assert_true(ups > traces / 10 && downs > traces / 10 && within > traces / 10);
}

#define with_defaults(test) cmocka_unit_test_setup(test, defaults)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_defaults(table_has_every_cell),
        with_defaults(table_follows_settings),
        with_defaults(the_whole_space_at_load),
        with_defaults(a_change_calls_for_no_other),
        with_defaults(more_memory_used_or_more_requests_never_raise),
        with_defaults(the_trace_of_the_spec),
        with_defaults(down_at_once_and_several_levels),
        with_defaults(up_one_level_after_the_dwell_time),
        with_defaults(a_request_that_would_not_fit),
        with_defaults(small_savings_are_not_made),
        with_defaults(floors_hold_until_full),
        with_defaults(raised_to_a_floor_with_room),
        with_defaults(set_by_hand),
        with_defaults(devices_and_caps),
        with_defaults(names),
        with_defaults(ten_thousand_random_traces),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
