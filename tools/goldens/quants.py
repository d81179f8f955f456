#!/usr/bin/env python3
"""Golden blocks for every block type: test/unit/store/quant_goldens.h.

The `gguf` package (PyPI) is the oracle. For each type a few blocks of random
bytes are made whose scales are ordinary half-precision numbers, and decoded;
for the types that precis also writes, Gaussian numbers are encoded, too.

    python3 tools/goldens/quants.py | clang-format > test/unit/store/quant_goldens.h
"""
import numpy as np
import gguf
from gguf import GGMLQuantizationType as T

# type -> byte offsets of half-precision scales within a block
TYPES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0],
}
ENCODED = ["Q8_0", "Q4_0", "Q4_1"]


def hexed(array):
    text = array.tobytes().hex()
    return "\n".join('     "%s"' % text[i:i + 100] for i in range(0, len(text), 100))


def main():
    rng = np.random.default_rng(20240611)
    print("/* Golden blocks; made by tools/goldens/quants.py from the gguf package, not by hand. Little-endian bytes in hex. */")
    print("#ifndef PRECIS_TEST_QUANT_GOLDENS_H\n#define PRECIS_TEST_QUANT_GOLDENS_H\n")
    print('#include "tensor/dtype.h"\n')
    print("typedef struct golden {\n    pr_dtype dtype;\n    const char *blocks;  /* as in a file */")
    print("    const char *numbers; /* float32 */\n} golden;\n")
    print("/* blocks decode to numbers */\nstatic const golden decode_goldens[] = {")
    for name, scales in TYPES.items():
        elems, size = gguf.GGML_QUANT_SIZES[T[name]]
        n = 2 if elems == 32 else 1
        blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for at in scales:
            d = rng.normal(0, 0.02, n).astype(np.float16)
            blocks[:, at:at + 2] = d.view(np.uint8).reshape(n, 2)
        numbers = gguf.quants.dequantize(blocks, T[name]).astype("<f4")
        print("    {PR_%s,\n%s,\n%s}," % (name, hexed(blocks), hexed(numbers)))
    print("};\n\n/* numbers encode to blocks */\nstatic const golden encode_goldens[] = {")
    for name in ENCODED:
        numbers = rng.normal(0, 0.05, (1, 96)).astype("<f4")
        numbers[0, 32:64] = 0
        numbers[0, 40] = 0 if name == "Q4_1" else -1.5
        blocks = gguf.quants.quantize(numbers, T[name])
        print("    {PR_%s,\n%s,\n%s}," % (name, hexed(blocks), hexed(numbers)))
    print("};\n\n#endif")


main()
