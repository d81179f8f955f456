/*
 * The byte alphabet of GPT-2.
 *
 * Byte-level vocabularies store tokens as text in which every byte is one
 * printable character: bytes that print in Latin-1 stand for themselves, the
 * other 68 take the code points from U+0100 on, in order. Both directions are
 * computed from those three printable ranges, so there is no table to get wrong.
 */
#include "base/str.h"
#include "text/internal.h"

static bool prints(uint32_t byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

uint32_t pr__alphabet_of(unsigned char byte) {
    if (prints(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xa0) return 0x100u + 0x21 + (byte - 0x7fu);
    return 0x143; /* 0xad, the soft hyphen, is the last one */
}

size_t pr__alphabet_encode(unsigned char byte, char out[2]) {
    char utf8[4];
    size_t n = pr_utf8_encode(pr__alphabet_of(byte), utf8); /* below U+0800: at most two bytes */
    for (size_t i = 0; i < n; i++) out[i] = utf8[i];
    return n;
}

int pr__alphabet_byte(int32_t cp) {
    if (cp < 0 || cp > 0x143) return -1;
    if (cp < 0x100) return prints((uint32_t)cp) ? cp : -1;
    if (cp <= 0x120) return cp - 0x100;
    return cp == 0x143 ? 0xad : cp - 0x121 + 0x7f;
}
