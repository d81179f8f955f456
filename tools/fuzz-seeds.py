#!/usr/bin/env python3
"""Seeds for the fuzz targets of model files, written to fuzz/corpus/{gguf,planes,safetensors,tokenizer_json}/.

Each seed is a small valid input that reaches another part of the readers; the
fuzzer does the damage. Run it again after changing it and commit what it writes.
"""
import json
import struct
import zlib
from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus"
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
# ggml type -> numbers, bytes a block
TYPES = {0: (1, 4), 1: (1, 2), 30: (1, 2), 28: (1, 8), 24: (1, 1), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
         10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136)}
MARK = "\u2581"


def text(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, v):
    return text(v) if kind == STR else struct.pack("<" + FORMATS[kind], v)


def meta(key, kind, v):
    if isinstance(v, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(value(kind, x) for x in v)
    return text(key) + struct.pack("<I", kind) + value(kind, v)


def content(count):
    return bytes(i * 37 % 256 for i in range(count))


def gguf(metas, tensors=(), version=3, alignment=32):
    """tensors: (name, ggml type, dims)"""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metas)) + b"".join(metas)
    data = b""
    for name, kind, dims in tensors:
        data += b"\0" * (-len(data) % alignment)
        out += text(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, len(data))
        count = 1
        for d in dims:
            count *= d
        elems, size = TYPES[kind]
        data += content(count // elems * size)
    return out + b"\0" * (-len(out) % alignment) + data


def spm_vocab():
    tokens = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in (10, 32, 0xc3)] + [MARK, "H", "e", "l", "o", "ll", MARK + "H", "<x>"]
    types = [2, 3, 3, 6, 6, 6] + [1] * 7 + [4]
    return [meta("tokenizer.ggml.model", STR, "llama"), meta("tokenizer.ggml.tokens", STR, tokens),
            meta("tokenizer.ggml.scores", F32, [-float(i) for i in range(len(tokens))]), meta("tokenizer.ggml.token_type", I32, types),
            meta("tokenizer.ggml.bos_token_id", U32, 1), meta("tokenizer.ggml.add_bos_token", BOOL, True),
            meta("tokenizer.chat_template", STR, "{{ messages }}")]


def bpe_vocab():
    return [meta("tokenizer.ggml.model", STR, "gpt2"), meta("tokenizer.ggml.pre", STR, "llama-bpe"),
            meta("tokenizer.ggml.tokens", STR, ["H", "e", "l", "o", "ll", "llo", "\u0120", "<e>"]),
            meta("tokenizer.ggml.token_type", I32, [1] * 7 + [3]), meta("tokenizer.ggml.merges", STR, ["l l", "ll o"]),
            meta("tokenizer.ggml.eos_token_id", U32, 7)]


def every_kind():
    return [meta("k.%d" % kind, kind, v) for kind, v in
            [(U8, 1), (I8, -1), (U16, 2), (I16, -2), (U32, 3), (I32, -3), (F32, .5), (BOOL, True), (STR, "s"), (U64, 4), (I64, -4), (F64, .25),
             (U8, [1, 2])][:12]] + [meta("a.%d" % kind, kind, [v, v]) for kind, v in [(U8, 1), (I16, -2), (F32, .5), (BOOL, False), (STR, "ab"), (F64, 1.5)]]


PLANES = ("p2", "p4", "p8", "p16")


def tile_bytes(plane, cols):
    """kernels/planes.h"""
    line = {0: cols // 4 * 16 + cols // 32 * 16 + 32, 1: cols // 4 * 16 + cols // 32 * 16, 2: cols * 8, 3: cols * 16}[plane]
    return (line + 63) // 64 * 64


def planes(matrices, unit_tiles):
    """matrices: (cols, rows, planes); the lowest increments first"""
    names, units, crc, increments, tensors = ["m%d" % i for i in range(len(matrices))], [], [], [], []
    for i, (cols, rows, n_planes) in enumerate(matrices):
        tiles = (rows + 15) // 16
        whole = [content(tile_bytes(p, cols) * tiles) for p in range(n_planes)]
        for at in range(0, tiles, unit_tiles):
            n = min(unit_tiles, tiles - at)
            sums = [zlib.crc32(whole[p][tile_bytes(p, cols) * at:tile_bytes(p, cols) * (at + n)]) for p in range(n_planes)]
            increments += [(len(units) // 3, p) for p in range(1, n_planes)]
            crc += [s - (s >> 31 << 32) for s in sums] + [0] * (4 - n_planes)
            units += [i, at, n]
    increments.sort(key=lambda x: x[1])
    for p in range(4):
        tensors += [("m%d.%s" % (i, PLANES[p]), 24, [tile_bytes(p, c), (r + 15) // 16]) for i, (c, r, n) in enumerate(matrices) if p < n]
    n = len(increments)
    book = [-6, -2, 2, 6] + [4 * i - 30 for i in range(16)] + [14 * i - 128 for i in range(16)] + [64]
    return gguf([meta("general.alignment", U32, 64), meta("precis.planes.version", U32, 1), meta("precis.planes.names", STR, names),
                 meta("precis.planes.shapes", I32, [x for m in matrices for x in m]), meta("precis.planes.books", I32, book * len(matrices)),
                 meta("precis.planes.factors", F32, [.5, .25, .125] * len(matrices)), meta("precis.planes.units", I32, units),
                 meta("precis.planes.crc", I32, crc), meta("precis.increments", I32, [x for i in increments for x in i]),
                 meta("precis.increments.kl", F32, [1 / (1 + i) for i in range(n + 1)]), meta("precis.levels", I32, [0, n // 3, n // 2, n])],
                tensors, alignment=64)


def safetensors(config, tensors):
    """tensors: (name, dtype, shape, bytes)"""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head, conf = json.dumps(header).encode(), json.dumps(config).encode()
    return struct.pack("<H", len(conf)) + conf + struct.pack("<Q", len(head)) + head + bytes(at)


def tokenizer(model, config=None, **parts):
    data = json.dumps(dict(parts, model=model), ensure_ascii=False).encode()
    return data + (b"\0" + json.dumps(config).encode() if config else b"")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
BPE = {"type": "BPE", "vocab": {"H": 0, "e": 1, "l": 2, "o": 3, "ll": 4, "\u0120": 5}, "merges": ["l l"]}
SPM = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": {"<unk>": 0, "<0x0A>": 1, MARK: 2, "H": 3, MARK + "H": 4}, "merges": [[MARK, "H"]]}
ADDED = [{"id": 6, "content": "<s>", "special": True, "rstrip": True}, {"id": 7, "content": "w", "special": False}]
SPLITS = {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}, {"type": "Digits", "individual_digits": True},
    {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Split", "pattern": {"String": "l"}, "behavior": "Contiguous"},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}
TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}

SEEDS = {
    "gguf": {
        "kinds": gguf(every_kind()), "kinds-v2": gguf(every_kind(), version=2), "spm": gguf(spm_vocab()), "bpe": gguf(bpe_vocab()),
        "blocks": gguf([meta("general.alignment", U32, 64)], [("t%d" % k, k, [256, 2] if k > 9 else [64, 3]) for k in TYPES if k != 20], alignment=64),
        "shapes": gguf([], [("one", 0, [5]), ("three", 1, [2, 2, 2]), ("four", 30, [1, 2, 1, 2]), ("nl", 20, [32, 17])]),
        "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF", "empty": b"", "split": gguf([meta("split.count", U16, 2)]),
    },
    "planes": {
        "one": planes([(32, 1, 1)], 1), "four": planes([(32, 16, 4)], 1), "units": planes([(32, 40, 3), (64, 16, 2)], 1),
        "wide": planes([(32, 40, 2), (32, 17, 2)], 2), "none": gguf([meta("precis.planes.version", U32, 2)]),
    },
    "safetensors": {
        "types": safetensors({"architectures": ["A"], "n": 3, "f": 1e-5, "b": True, "rope": {"type": "x", "l": [1, 2.5]}, "m": [1, "a", {"k": None}]},
                             [("f32", "F32", [2, 3], 24), ("f16", "F16", [4], 8), ("bf16", "BF16", [1, 1, 2], 4), ("i64", "I64", [1], 8), ("s", "F64", [], 8)]),
        "none": safetensors({}, []),
        "fp8": safetensors({"a": [True, False]}, [("w", "F8_E4M3", [2], 2)]),
    },
    "tokenizer_json": {
        "byte-level": tokenizer(BPE, {"eos_token": "<s>", "add_bos_token": True}, added_tokens=ADDED, pre_tokenizer=BYTE_LEVEL, decoder=BYTE_LEVEL,
                                post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}),
        "splits": tokenizer(BPE, pre_tokenizer=SPLITS, normalizer={"type": "NFC"}),
        "spm": tokenizer(SPM, {"bos_token": {"content": "<unk>"}}, normalizer=PREPEND, pre_tokenizer=None),
        "metaspace": tokenizer(SPM, pre_tokenizer={"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": True}),
        "unigram": tokenizer({"type": "Unigram", "vocab": [["a", 0.0]]}), "big-number": tokenizer(BPE, {"model_max_length": 10 ** 30}, pre_tokenizer=BYTE_LEVEL),
    },
}

for target, seeds in SEEDS.items():
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (folder / name).write_bytes(data)
