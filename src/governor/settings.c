/*
 * Settings: one table says everything of a setting.
 *
 * Name, flag, kind, place, bounds and default stand in a row; reading, checking, listing and the documentation follow from
 * it. Defaults are texts that go through the same parser as everybody's. The file is read by inih, whose lines are cut
 * at 200 bytes without a word: so longer ones, and zero bytes, are refused before it sees them.
 */
#include "governor/settings.h"

#include <ctype.h>
#include <ini.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/status.h"
#include "base/str.h"
#include "governor/alert.h"

enum { LINE_MAX_BYTES = 190, FILE_MAX_BYTES = 1 << 16 };

typedef enum setting_kind {
    KIND_FRACTION, /* double, over 0 up to 1 */
    KIND_SECONDS,  /* double: "90", "90s", "5m", "1h"; "-1" where the least is below 0 */
    KIND_U32,
    KIND_U64,
    KIND_BYTES, /* uint64_t: "4G" */
    KIND_TEXT,  /* char[PR_SETTING_TEXT] */
    KIND_LOG,   /* pr_log_format */
    KIND_KV     /* pr_kv_types */
} setting_kind;

typedef struct setting {
    const char *name, *flag;
    setting_kind kind;
    size_t at; /* in pr_settings */
    double least, most;
    const char *fallback, *help;
} setting;

#define AT(field) offsetof(pr_settings, field)

static const setting settings_table[] = {
    {"QUANTIZE_MEMORY_COMFORTABLE", "memory-comfortable", KIND_FRACTION, AT(memory_comfortable), 0, 1, "0.4",
     "below this part of memory the best level is used"},
    {"QUANTIZE_MEMORY_MODERATE", "memory-moderate", KIND_FRACTION, AT(memory_moderate), 0, 1, "0.6",
     "from here on loaded models are lowered"},
    {"QUANTIZE_MEMORY_TIGHT", "memory-tight", KIND_FRACTION, AT(memory_tight), 0, 1, "0.75",
     "from here on high load means int2"},
    {"QUANTIZE_MEMORY_CRITICAL", "memory-critical", KIND_FRACTION, AT(memory_critical), 0, 0.95, "0.85",
     "from here on everything means int2"},
    {"QUANTIZE_LOAD_LOW", "load-low", KIND_U32, AT(load_low), 1, 1e6, "2", "fewer requests are a low load"},
    {"QUANTIZE_LOAD_MODERATE", "load-moderate", KIND_U32, AT(load_moderate), 1, 1e6, "5", "more are a heavy one"},
    {"QUANTIZE_LOAD_HIGH", "load-high", KIND_U32, AT(load_high), 1, 1e6, "10", "this many are a high one"},
    {"QUANTIZE_DWELL_SECONDS", "dwell", KIND_SECONDS, AT(dwell_seconds), 0, 86400, "30",
     "calm time before a level is raised"},
    {"MAX_MODEL_CACHE_MB", "max-model-cache-mb", KIND_U64, AT(max_model_cache_mb), 0, 1e9, "8000",
     "weights of all models; 0: half the limit"},
    {"PRECIS_MEMORY", "memory", KIND_BYTES, AT(memory_bytes), 0, 1e18, "0",
     "memory this program may use; 0: what the machine has"},
    {"PRECIS_HOST", "host", KIND_TEXT, AT(host), 1, 255, "127.0.0.1", "address to listen on"},
    {"PRECIS_PORT", "port", KIND_U32, AT(port), 0, 65535, "8000", "port to listen on; 0: any free one"},
    {"PRECIS_MODELS", "models", KIND_TEXT, AT(models), 0, PR_SETTING_TEXT - 1, "", "folder of models"},
    {"PRECIS_KEEP_ALIVE", "keep-alive", KIND_SECONDS, AT(keep_alive_seconds), -1, 1e9, "5m",
     "how long an idle model stays; -1: for ever"},
    {"PRECIS_MAX_QUEUE", "max-queue", KIND_U32, AT(max_queue), 0, 1e6, "128", "requests that may wait"},
    {"PRECIS_NUM_PARALLEL", "num-parallel", KIND_U32, AT(num_parallel), 1, 1024, "8", "requests that run at once"},
    {"PRECIS_DRAFTS", "drafts", KIND_U32, AT(drafts), 0, 16, "16",
     "tokens to draft from the text for a request that runs alone, where that pays; 0: none"},
    {"PRECIS_CONTEXT_LENGTH", "context-length", KIND_U32, AT(context_length), 16, 1e7, "2048", "tokens of a request"},
    {"PRECIS_KV_CACHE_TYPE", "kv-cache-type", KIND_KV, AT(kv_cache_type), 0, 0, "f16",
     "f16, q8 or q4 of keys and values; two with a comma: of each"},
    {"PRECIS_TEMPLATE", "template", KIND_TEXT, AT(chat_template), 0, 64, "",
     "chat template of models that bring none that is known"},
    {"PRECIS_RESPONSE_CACHE_MB", "response-cache-mb", KIND_U64, AT(response_cache_mb), 0, 1e6, "500",
     "megabytes of answers kept for the same question; 0: off"},
    {"PRECIS_RESPONSE_CACHE_ENTRIES", "response-cache-entries", KIND_U32, AT(response_cache_entries), 0, 1e6, "128",
     "how many such answers; 0: off"},
    {"PRECIS_RESPONSE_CACHE_TTL", "response-cache-ttl", KIND_SECONDS, AT(response_cache_ttl_seconds), 0.001, 1e9, "1h",
     "for how long"},
    {"PRECIS_RECENT_CACHE", "recent-cache", KIND_U32, AT(recent_cache), 0, 1e4, "10",
     "last requests answered alike when repeated; 0: off"},
    {"PRECIS_RECENT_CACHE_TTL", "recent-cache-ttl", KIND_SECONDS, AT(recent_cache_ttl_seconds), 0.001, 1e9, "5m",
     "for how long"},
    {"PRECIS_API_KEYS_FILE", "api-keys-file", KIND_TEXT, AT(api_keys_file), 0, PR_SETTING_TEXT - 1, "",
     "file of API keys"},
    {"PRECIS_ORIGINS", "origins", KIND_TEXT, AT(origins), 0, PR_SETTING_TEXT - 1, "",
     "origins that browsers may come from"},
    {"PRECIS_LOG_FORMAT", "log-format", KIND_LOG, AT(log_format), 0, 0, "auto",
     "json, text, or auto: text on a terminal"},
    {"PRECIS_ALERTS", "alerts", KIND_TEXT, AT(alerts), 0, PR_SETTING_TEXT - 1, "",
     "rules such as latency_p95 > 50ms, memory_peak > 100MB"},
    {"PRECIS_CONFIG", "config", KIND_TEXT, AT(config), 0, PR_SETTING_TEXT - 1, "", "configuration file"},
};

_Static_assert(sizeof settings_table / sizeof *settings_table == PR_SETTING_COUNT, "an origin for each setting");

enum { CONFIG_ROW = PR_SETTING_COUNT - 1, ALERTS_ROW = PR_SETTING_COUNT - 2 };

const char *pr_setting_origin_name(pr_setting_origin origin) {
    static const char *const names[] = {"default", "file", "environment", "flag"};
    return names[origin];
}

/* ---- values ----------------------------------------------------------- */

static bool within(const setting *row, double value) { return value >= row->least && value <= row->most; }

static bool parse_seconds(const char *text, double *out) {
    static const struct {
        const char *end;
        double factor;
    } units[] = {{"s", 1}, {"m", 60}, {"h", 3600}};
    char number[32];
    size_t len = strlen(text);
    double factor = 1;
    for (size_t i = 0; i < 3; i++) {
        if (!pr_str_ends(text, units[i].end)) continue;
        factor = units[i].factor;
        len--;
        break;
    }
    if (len == 0 || len >= sizeof number) return false;
    memcpy(number, text, len);
    number[len] = '\0';
    if (!pr_parse_f64(number, out)) return false;
    *out *= factor;
    return true;
}

static bool clean_text(const char *text) {
    for (; *text; text++) {
        if ((unsigned char)*text < ' ' || *text == 127) return false;
    }
    return true;
}

/* Put a value into its place; false when it is none. */
static bool put_value(const setting *row, const char *text, pr_settings *out) {
    void *at = (char *)out + row->at;
    double real = 0;
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    switch (row->kind) {
    case KIND_FRACTION:
        if (!pr_parse_f64(text, &real) || !within(row, real) || real <= 0) return false;
        *(double *)at = real;
        return true;
    case KIND_SECONDS:
        if (!parse_seconds(text, &real) || (real < 0 && real != -1) || !within(row, real)) return false;
        *(double *)at = real;
        return true;
    case KIND_U32:
        if (!pr_parse_u32(text, &u32) || !within(row, u32)) return false;
        *(uint32_t *)at = u32;
        return true;
    case KIND_U64:
    case KIND_BYTES:
        if (!(row->kind == KIND_U64 ? pr_parse_u64(text, &u64) : pr_parse_bytes(text, &u64))) return false;
        if (!within(row, (double)u64)) return false;
        *(uint64_t *)at = u64;
        return true;
    case KIND_TEXT:
        if (!within(row, (double)strlen(text)) || !clean_text(text)) return false;
        snprintf(at, PR_SETTING_TEXT, "%s", text);
        return true;
    case KIND_LOG: return pr_log_format_by_name(text, at);
    case KIND_KV: return pr_kv_types_parse(text, at);
    }
    return false;
}

/* The shortest text that reads back as the same number. */
static void format_real(double value, char *buf, size_t len) {
    double back = value + 1;
    for (int digits = 6; digits <= 17 && back != value; digits++) {
        snprintf(buf, len, "%.*g", digits, value);
        char *comma = strchr(buf, ','); /* of the locale */
        if (comma) *comma = '.';
        if (!pr_parse_f64(buf, &back)) return;
    }
}

static void format_value(const setting *row, const pr_settings *s, char *buf, size_t len) {
    const void *at = (const char *)s + row->at;
    char kv[PR_KV_TYPES_TEXT];
    switch (row->kind) {
    case KIND_FRACTION:
    case KIND_SECONDS: format_real(*(const double *)at, buf, len); return;
    case KIND_U32: snprintf(buf, len, "%u", *(const uint32_t *)at); return;
    case KIND_U64:
    case KIND_BYTES: snprintf(buf, len, "%llu", (unsigned long long)*(const uint64_t *)at); return;
    case KIND_TEXT: snprintf(buf, len, "%s", (const char *)at); return;
    case KIND_LOG: snprintf(buf, len, "%s", pr_log_format_name(*(const pr_log_format *)at)); return;
    case KIND_KV: snprintf(buf, len, "%s", pr_kv_types_format(*(const pr_kv_types *)at, kv)); return;
    }
}

/* What a value of this kind looks like, for errors. */
static void expected(const setting *row, char *buf, size_t len) {
    switch (row->kind) {
    case KIND_FRACTION: snprintf(buf, len, "a fraction over 0, up to %g", row->most); return;
    case KIND_SECONDS:
        snprintf(buf, len, "a time such as 90, 5m or 1h%s", row->least < 0 ? ", or -1 for ever" : "");
        return;
    case KIND_U32:
    case KIND_U64: snprintf(buf, len, "a number from %.0f to %.0f", row->least, row->most); return;
    case KIND_BYTES: snprintf(buf, len, "a size such as 900M or 4G"); return;
    case KIND_TEXT:
        snprintf(buf, len, "a text of %.0f to %.0f bytes without control characters", row->least, row->most);
        return;
    case KIND_LOG: snprintf(buf, len, "json, text or auto"); return;
    case KIND_KV: snprintf(buf, len, "f16, q8 or q4, or two of them as KEYS,VALUES"); return;
    }
}

/* what: where the value stands, with its name. */
static pr_status take(size_t i, const char *text, pr_setting_origin origin, const char *what, pr_settings *out,
                      pr_err *err) {
    char kind[96];
    if (put_value(&settings_table[i], text, out)) {
        out->origin[i] = origin;
        return PR_OK;
    }
    expected(&settings_table[i], kind, sizeof kind);
    return pr_fail(err, PR_ERR_ARG, "%s: '%.80s' is not %s", what, text, kind);
}

/* ---- file ------------------------------------------------------------- */

/* Equal but for case, and for - and _. */
static bool same_name(const char *a, const char *b) {
    for (; *a && *b; a++, b++) {
        char x = *a == '-' ? '_' : (char)toupper((unsigned char)*a);
        char y = *b == '-' ? '_' : (char)toupper((unsigned char)*b);
        if (x != y) return false;
    }
    return *a == *b;
}

typedef struct file_reader {
    pr_settings *out;
    const char *what;
    uint64_t seen;      /* a bit a setting */
    bool origin_alerts; /* some rule came already */
    pr_status status;
    pr_err *err;
} file_reader;

_Static_assert(PR_SETTING_COUNT <= 64, "file_reader.seen");

/* A line of [alerts]: a rule more. Its grammar is looked at with those of flag and environment, which go over these. */
static pr_status read_alert(file_reader *r, const char *name, const char *value) {
    char *to = r->out->alerts;
    size_t len = r->origin_alerts ? strlen(to) : 0;
    int n = snprintf(to + len, PR_SETTING_TEXT - len, "%s%s: %s", len ? ", " : "", name, value);
    if (n < 0 || len + (size_t)n >= PR_SETTING_TEXT || !clean_text(to))
        return pr_fail(r->err, PR_ERR_ARG,
                       "%s: alert %.60s: all rules together take more than %d bytes, or are no text", r->what, name,
                       PR_SETTING_TEXT - 1);
    r->origin_alerts = true;
    r->out->origin[ALERTS_ROW] = PR_FROM_FILE;
    return PR_OK;
}

static pr_status read_pair(file_reader *r, const char *section, const char *name, const char *value) {
    char what[256];
    if (same_name(section, "alerts")) return read_alert(r, name, value);
    if (*section && !same_name(section, "precis")) {
        return pr_fail(r->err, PR_ERR_ARG, "%s: unknown section [%.60s]", r->what, section);
    }
    for (size_t i = 0; i < PR_SETTING_COUNT; i++) {
        const setting *row = &settings_table[i];
        if (!same_name(name, row->name) && !same_name(name, row->flag)) continue;
        if (i == CONFIG_ROW) return pr_fail(r->err, PR_ERR_ARG, "%s: %s cannot stand in a file", r->what, row->name);
        if (r->seen & UINT64_C(1) << i)
            return pr_fail(r->err, PR_ERR_ARG, "%s: %s stands there twice", r->what, row->name);
        r->seen |= UINT64_C(1) << i;
        if (i == ALERTS_ROW && r->origin_alerts)
            return pr_fail(r->err, PR_ERR_ARG, "%s: give rules as %s or in [alerts], not both", r->what, row->name);
        r->origin_alerts |= i == ALERTS_ROW;
        snprintf(what, sizeof what, "%.120s: %s", r->what, row->name);
        return take(i, value, PR_FROM_FILE, what, r->out, r->err);
    }
    return pr_fail(r->err, PR_ERR_ARG, "%s: unknown setting '%.80s'", r->what, name);
}

/* For inih: 0 is an error. It goes on after one; we do not. */
static int on_pair(void *arg, const char *section, const char *name, const char *value) {
    file_reader *r = arg;
    if (r->status == PR_OK) r->status = read_pair(r, section, name, value);
    return r->status == PR_OK;
}

pr_status pr_settings_parse(const char *text, size_t len, const char *what, pr_settings *out, pr_err *err) {
    size_t line = 1, start = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\0') return pr_fail(err, PR_ERR_FORMAT, "%s: line %zu holds a zero byte", what, line);
        if (text[i] == '\n') {
            start = i + 1;
            line++;
        } else if (i - start >= LINE_MAX_BYTES) {
            return pr_fail(err, PR_ERR_FORMAT, "%s: line %zu is longer than %d bytes", what, line, LINE_MAX_BYTES);
        }
    }
    char *copy = pr_strndup(PR_TAG_FILE, text, len);
    if (!copy) return pr_fail_nomem(err, what, len + 1);
    file_reader r = {.out = out, .what = what, .status = PR_OK, .err = err};
    int at = ini_parse_string(copy, on_pair, &r);
    pr_free(copy);
    if (r.status != PR_OK || at == 0) return r.status;
    return pr_fail(err, PR_ERR_FORMAT, "%s: line %d is not NAME = value", what, at);
}

/* ---- together --------------------------------------------------------- */

void pr_settings_defaults(pr_settings *out) {
    *out = (pr_settings){0};
    for (size_t i = 0; i < PR_SETTING_COUNT; i++) (void)put_value(&settings_table[i], settings_table[i].fallback, out);
}

static pr_status take_environment(const char *const *environment, size_t i, pr_settings *out, pr_err *err) {
    const char *name = settings_table[i].name;
    size_t len = strlen(name);
    char what[96];
    for (; environment && *environment; environment++) {
        if (strncmp(*environment, name, len) != 0 || (*environment)[len] != '=') continue;
        const char *value = *environment + len + 1;
        snprintf(what, sizeof what, "%s in the environment", name);
        return *value ? take(i, value, PR_FROM_ENVIRONMENT, what, out, err) : PR_OK;
    }
    return PR_OK;
}

pr_status pr_setting_from_environment(const char *name, const char *const *environment, pr_settings *out, bool *given,
                                      pr_err *err) {
    size_t i = 0;
    while (strcmp(settings_table[i].name, name) != 0) i++;
    pr_status status = take_environment(environment, i, out, err);
    *given = status == PR_OK && out->origin[i] == PR_FROM_ENVIRONMENT;
    return status;
}

static pr_status take_flag(const pr_setting_flag *flag, bool config, pr_settings *out, pr_err *err) {
    char what[96];
    for (size_t i = 0; i < PR_SETTING_COUNT; i++) {
        if (strcmp(flag->name, settings_table[i].flag) != 0) continue;
        snprintf(what, sizeof what, "--%s", flag->said ? flag->said : flag->name);
        return config == (i == CONFIG_ROW) ? take(i, flag->value, PR_FROM_FLAG, what, out, err) : PR_OK;
    }
    return pr_fail(err, PR_ERR_ARG, "--%.80s: unknown setting", flag->name);
}

/* Environment and flags: of the file's name, or of everything else. */
static pr_status take_given(const pr_settings_input *in, bool config, pr_settings *out, pr_err *err) {
    pr_status status = PR_OK;
    for (size_t i = 0; status == PR_OK && i < PR_SETTING_COUNT; i++) {
        if (config == (i == CONFIG_ROW)) status = take_environment(in->environment, i, out, err);
    }
    for (size_t i = 0; status == PR_OK && i < in->n_flags; i++) status = take_flag(&in->flags[i], config, out, err);
    return status;
}

pr_status pr_settings_load(const pr_settings_input *in, pr_settings *out, pr_err *err) {
    pr_settings_defaults(out);
    pr_status status = take_given(in, true, out, err);
    if (status == PR_OK && *out->config) {
        char *text = NULL;
        size_t len = 0;
        status = pr_file_slurp(out->config, FILE_MAX_BYTES, &text, &len, err);
        if (status == PR_OK) status = pr_settings_parse(text, len, out->config, out, err);
        pr_free(text);
    }
    if (status == PR_OK) status = take_given(in, false, out, err);
    return status == PR_OK ? pr_settings_check(out, err) : status;
}

/* ---- check ------------------------------------------------------------ */

static pr_status check_alerts(const pr_settings *s, pr_err *err) {
    char what[96];
    size_t n;
    pr_alert_rule *rules = pr_calloc(PR_TAG_MISC, PR_ALERTS_MAX, sizeof *rules);
    if (!rules) return pr_fail_nomem(err, "alerts", PR_ALERTS_MAX * sizeof *rules);
    snprintf(what, sizeof what, "%s (%s)", settings_table[ALERTS_ROW].name,
             pr_setting_origin_name(s->origin[ALERTS_ROW]));
    pr_status st = pr_alert_parse(s->alerts, strlen(s->alerts), what, rules, &n, err);
    pr_free(rules);
    return st;
}

pr_status pr_settings_check(const pr_settings *s, pr_err *err) {
    const double memory[] = {s->memory_comfortable, s->memory_moderate, s->memory_tight, s->memory_critical};
    const uint32_t load[] = {s->load_low, s->load_moderate, s->load_high};
    for (size_t i = 1; i < 4; i++) {
        if (memory[i] > memory[i - 1]) continue;
        return pr_fail(err, PR_ERR_ARG, "%s (%g, %s) must be above %s (%g, %s)", settings_table[i].name, memory[i],
                       pr_setting_origin_name(s->origin[i]), settings_table[i - 1].name, memory[i - 1],
                       pr_setting_origin_name(s->origin[i - 1]));
    }
    for (size_t i = 1; i < 3; i++) {
        if (load[i] >= load[i - 1]) continue;
        return pr_fail(err, PR_ERR_ARG, "%s (%u, %s) must not be below %s (%u, %s)", settings_table[4 + i].name,
                       load[i], pr_setting_origin_name(s->origin[4 + i]), settings_table[3 + i].name, load[i - 1],
                       pr_setting_origin_name(s->origin[3 + i]));
    }
    return check_alerts(s, err);
}

bool pr_settings_get(const pr_settings *s, size_t i, pr_setting_info *out) {
    if (i >= PR_SETTING_COUNT) return false;
    const setting *row = &settings_table[i];
    *out = (pr_setting_info){.name = row->name, .flag = row->flag, .help = row->help, .origin = s->origin[i]};
    format_value(row, s, out->value, sizeof out->value);
    return true;
}

void pr_settings_governor(const pr_settings *s, pr_gov_settings *out) {
    pr_gov_defaults(out);
    out->memory_comfortable = s->memory_comfortable;
    out->memory_moderate = s->memory_moderate;
    out->memory_tight = s->memory_tight;
    out->memory_critical = s->memory_critical;
    out->load_low = s->load_low;
    out->load_moderate = s->load_moderate;
    out->load_high = s->load_high;
    out->dwell_seconds = s->dwell_seconds;
}

uint64_t pr_settings_cache_bytes(const pr_settings *s, uint64_t limit_bytes) {
    return s->max_model_cache_mb ? s->max_model_cache_mb * 1000000 : limit_bytes / 2;
}
