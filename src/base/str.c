/*
 * Byte strings, and the small text work everybody needs.
 *
 * The builder remembers a failure instead of returning one from every append:
 * text is built by many calls in a row, and one check at the end is a check
 * that gets written. Parsers of numbers accept the whole text or nothing, and
 * none of them looks at the locale: a server started under a German locale must
 * read "0.7" like any other.
 */
#include "base/str.h"

#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- builder ---- */

void pr_str_free(pr_str *s) {
    pr_free(s->data);
    *s = (pr_str){0};
}

void pr_str_clear(pr_str *s) {
    s->len = 0;
    s->failed = false;
    if (s->data) s->data[0] = '\0';
}

/* Room for extra more bytes and the terminator. */
static bool reserve(pr_str *s, size_t extra) {
    size_t need;
    if (s->failed || !pr_size_add(s->len, extra, &need) || !pr_size_add(need, 1, &need)) {
        s->failed = true;
        return false;
    }
    if (need <= s->cap) return true;
    size_t cap = s->cap < 32 ? 64 : s->cap > SIZE_MAX / 2 ? need : s->cap * 2;
    if (cap < need) cap = need;
    char *data = pr_realloc(PR_TAG_MISC, s->data, cap);
    if (!data) {
        s->failed = true;
        return false;
    }
    s->data = data;
    s->cap = cap;
    return true;
}

void pr_str_append(pr_str *s, const char *data, size_t len) {
    if (!reserve(s, len)) return;
    if (len) memcpy(s->data + s->len, data, len);
    s->len += len;
    s->data[s->len] = '\0';
}

void pr_str_puts(pr_str *s, const char *text) { pr_str_append(s, text, strlen(text)); }

void pr_str_vprintf(pr_str *s, const char *fmt, va_list args) {
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (len < 0) s->failed = true;
    if (len < 0 || !reserve(s, (size_t)len)) return;
    vsnprintf(s->data + s->len, (size_t)len + 1, fmt, args);
    s->len += (size_t)len;
}

void pr_str_printf(pr_str *s, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    pr_str_vprintf(s, fmt, args);
    va_end(args);
}

char *pr_str_take(pr_str *s) {
    pr_str_append(s, "", 0); /* makes "" of an empty one */
    char *data = s->failed ? NULL : s->data;
    if (s->failed) pr_free(s->data);
    *s = (pr_str){0};
    return data;
}

/* ---- unsafe characters ---- */

/* A character that moves the cursor, ends the line, or changes the direction of what stands beside it. */
static bool is_unsafe(int32_t cp) {
    return cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0x61c || cp == 0x200e || cp == 0x200f ||
           (cp >= 0x2028 && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
}

/* ---- JSON strings ---- */

/* The short escape of c, or 0. */
static char json_escape(unsigned char c) {
    switch (c) {
    case '"': return '"';
    case '\\': return '\\';
    case '\b': return 'b';
    case '\f': return 'f';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    }
    return 0;
}

/* Are text[0..8) all ASCII that a JSON string holds as it is? Eight bytes are looked at as one number: `below` has the
 * high bit of each byte that is under 0x20 set, `quote`, `slash` and `delete` of each that is a zero after the xor (and perhaps
 * of bytes above one that is, which does no harm). */
static bool plain_ascii(const char *text) {
    const uint64_t ones = 0x0101010101010101, high = 0x8080808080808080;
    uint64_t eight;
    memcpy(&eight, text, sizeof eight);
    uint64_t quote = eight ^ ones * '"', slash = eight ^ ones * '\\', delete = eight ^ ones * 0x7f;
    uint64_t below = eight - ones * 0x20;
    return ((eight | below | (quote - ones) | (slash - ones) | (delete - ones)) & high) == 0;
}

void pr_str_json(pr_str *s, const char *text, size_t len) {
    pr_str_append(s, "\"", 1);
    size_t plain = 0, i = 0; /* text[plain..i) needs no change */
    while (i < len) {
        if (len - i >= 8 && plain_ascii(text + i)) {
            i += 8;
            continue;
        }
        unsigned char c = (unsigned char)text[i];
        int32_t cp = c;
        size_t step = c < 0x80 ? 1 : pr_utf8_decode(text + i, len - i, &cp);
        bool same = !is_unsafe(cp) && cp != '"' && cp != '\\';
        if (!same) {
            pr_str_append(s, text + plain, i - plain);
            if (cp < 0) pr_str_puts(s, "\xef\xbf\xbd");
            else if (json_escape(c)) pr_str_append(s, (char[]){'\\', json_escape(c)}, 2);
            else pr_str_printf(s, "\\u%04x", (unsigned)cp);
            plain = i + step;
        }
        i += step;
    }
    pr_str_append(s, text + plain, i - plain);
    pr_str_append(s, "\"", 1);
}

/* ---- sizes and numbers ---- */

char *pr_format_bytes(char *buf, size_t buf_len, uint64_t bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 999.5) {
        value /= 1000;
        unit++;
    }
    unsigned tenths = (unsigned)(value * 10 + 0.5); /* by hand: %f follows the locale */
    if (unit && tenths < 100) snprintf(buf, buf_len, "%u.%u %s", tenths / 10, tenths % 10, units[unit]);
    else snprintf(buf, buf_len, "%u %s", (unsigned)(value + 0.5), units[unit]);
    return buf;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* "", "k", "kB", "KiB", ... in any case; false for anything else. */
static bool unit_factor(const char *text, uint64_t *out) {
    static const char letters[] = "kmgtKMGT";
    *out = 1;
    if (!text[0] || ((text[0] == 'b' || text[0] == 'B') && !text[1])) return true;
    const char *at = strchr(letters, text[0]);
    if (!at) return false;
    bool binary = text[1] == 'i' || text[1] == 'I';
    const char *rest = text + (binary ? 2 : 1);
    if (*rest == 'b' || *rest == 'B') rest++;
    else if (binary) return false;
    for (size_t i = 0; i <= (size_t)(at - letters) % 4; i++) *out *= binary ? 1024 : 1000;
    return !*rest;
}

bool pr_parse_bytes(const char *text, uint64_t *out) {
    enum { FRACTION_DIGITS = 6 }; /* 10^6 times 2^40 fits */
    uint64_t whole = 0, part = 0, scale = 1, factor, bytes;
    if (!is_digit(*text)) return false;
    for (; is_digit(*text); text++) {
        if (__builtin_mul_overflow(whole, 10, &whole)) return false;
        if (__builtin_add_overflow(whole, (uint64_t)(*text - '0'), &whole)) return false;
    }
    bool fraction = *text == '.';
    if (fraction && !is_digit(*++text)) return false;
    for (int n = 0; is_digit(*text); text++, n++) {
        if (n >= FRACTION_DIGITS) continue; /* below one byte in most units */
        part = part * 10 + (uint64_t)(*text - '0');
        scale *= 10;
    }
    if (*text == ' ') text++;
    if (!unit_factor(text, &factor) || (fraction && factor == 1)) return false;
    if (__builtin_mul_overflow(whole, factor, &bytes)) return false;
    if (__builtin_add_overflow(bytes, part * factor / scale, &bytes)) return false;
    *out = bytes;
    return true;
}

static int digit_value(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

bool pr_parse_u64(const char *text, uint64_t *out) {
    int base = 10;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
    }
    if (!*text) return false;
    uint64_t value = 0;
    for (; *text; text++) {
        int digit = digit_value(*text);
        if (digit >= base || __builtin_mul_overflow(value, (uint64_t)base, &value)) return false;
        if (__builtin_add_overflow(value, (uint64_t)digit, &value)) return false;
    }
    *out = value;
    return true;
}

bool pr_parse_u32(const char *text, uint32_t *out) {
    uint64_t value;
    if (!pr_parse_u64(text, &value) || value > UINT32_MAX) return false;
    *out = (uint32_t)value;
    return true;
}

static locale_t c_locale;

static void c_locale_make(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

bool pr_parse_f64(const char *text, double *out) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, c_locale_make);
    /* strtod also takes blanks, "inf", "nan" and hex floats; a setting should not be any of them. */
    if (!*text || text[strspn(text, "0123456789+-.eE")] || !c_locale) return false;
    char *end;
    double value = strtod_l(text, &end, c_locale);
    if (*end || end == text || !(value >= -1.7976931348623157e308 && value <= 1.7976931348623157e308)) return false;
    *out = value;
    return true;
}

/* ---- UTF-8 ---- */

size_t pr_utf8_len(unsigned char lead) {
    if (lead >= 0xc2 && lead <= 0xdf) return 2;
    if (lead >= 0xe0 && lead <= 0xef) return 3;
    if (lead >= 0xf0 && lead <= 0xf4) return 4;
    return 1;
}

static bool is_tail(char c) { return ((unsigned char)c & 0xc0) == 0x80; }

size_t pr_utf8_decode(const char *text, size_t len, int32_t *cp) {
    static const int32_t least[5] = {0, 0, 0x80, 0x800, 0x10000}; /* overlong below */
    unsigned char lead = (unsigned char)text[0];
    size_t n = pr_utf8_len(lead);
    *cp = -1;
    if (n == 1) {
        if (lead < 0x80) *cp = lead;
        return 1;
    }
    if (n > len) return 1;
    int32_t value = lead & (0x7f >> n);
    for (size_t i = 1; i < n; i++) {
        if (!is_tail(text[i])) return 1;
        value = value << 6 | ((unsigned char)text[i] & 0x3f);
    }
    if (value < least[n] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return 1;
    *cp = value;
    return n;
}

size_t pr_utf8_encode(uint32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(((0xf00u >> n) & 0xf0) | cp);
    return n;
}

size_t pr_utf8_complete(const char *text, size_t len) {
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        char c = text[len - back];
        if (is_tail(c)) continue;
        return pr_utf8_len((unsigned char)c) > back ? len - back : len;
    }
    return len; /* no lead in sight: not an unfinished character */
}

/* ---- for people ---- */

enum { SAFE_CHAR_MAX = 8 };

/* The first character of text[0..len), made safe; returns how many bytes it had, *n of the result's. */
static size_t safe_char(const char *text, size_t len, char out[SAFE_CHAR_MAX], size_t *n) {
    static const char digits[] = "0123456789abcdef";
    int32_t cp;
    size_t used = pr_utf8_decode(text, len, &cp);
    if (cp >= 0 && !is_unsafe(cp)) {
        memcpy(out, text, *n = used);
        return used;
    }
    out[0] = '\\';
    *n = 2;
    if (cp == '\n' || cp == '\r' || cp == '\t') {
        out[1] = cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't';
        return used;
    }
    bool byte = cp < 0x80; /* not UTF-8, too */
    unsigned value = byte ? (unsigned char)text[0] : (unsigned)cp;
    out[1] = byte ? 'x' : 'u';
    for (int shift = byte ? 4 : 12; shift >= 0; shift -= 4) out[(*n)++] = digits[value >> shift & 15];
    return used;
}

char *pr_text_safe(char *out, size_t out_len, const char *text) {
    size_t len = strlen(text), at = 0, n = 0;
    char c[SAFE_CHAR_MAX];
    for (size_t i = 0; i < len; at += n) {
        i += safe_char(text + i, len - i, c, &n);
        if (at + n >= out_len) break;
        memcpy(out + at, c, n);
    }
    if (out_len) out[at] = '\0';
    return out;
}

void pr_str_line(pr_str *s, const char *fmt, ...) {
    pr_str text = {0};
    char c[SAFE_CHAR_MAX];
    va_list args;
    va_start(args, fmt);
    pr_str_vprintf(&text, fmt, args);
    va_end(args);
    s->failed |= text.failed;
    const char *data = text.data ? text.data : ""; /* of an empty line */
    for (size_t i = 0, n; i < text.len; pr_str_append(s, c, n)) i += safe_char(data + i, text.len - i, c, &n);
    pr_str_puts(s, "\n");
    pr_str_free(&text);
}

/* ---- comparing ---- */

bool pr_str_starts(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

bool pr_str_ends(const char *text, const char *suffix) {
    size_t len = strlen(text), n = strlen(suffix);
    return len >= n && memcmp(text + len - n, suffix, n) == 0;
}
