/*
 * Decoding, encoding and packing of tensors: against goldens of an independent implementation, and
 * packed tiles against decoded rows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "quant_goldens.h"
#include "store/convert.h"

/* Hex text to bytes; returns their number. */
static size_t unhex(const char *hex, uint8_t *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return n;
}

static void decodes_as_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof decode_goldens / sizeof *decode_goldens; i++) {
        const golden *g = &decode_goldens[i];
        uint8_t blocks[512 + 1];
        float want[256], got[256];
        size_t bytes = unhex(g->blocks, blocks + 1); /* at an odd address */
        size_t n = unhex(g->numbers, (uint8_t *)want) / sizeof(float);
        const pr_dtype_info *type = pr_dtype_get(g->dtype);
        assert_int_equal(bytes / type->block_bytes * type->block_elems, n);
        pr_dequant(g->dtype, blocks + 1, n, got);
        for (size_t j = 0; j < n; j++) {
            if (memcmp(&want[j], &got[j], sizeof(float)) != 0 && !(want[j] == 0 && got[j] == 0)) {
                fail_msg("%s[%zu]: %.9g, not %.9g", type->name, j, (double)got[j], (double)want[j]);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(decodes_as_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
