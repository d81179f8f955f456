#!/usr/bin/env python3
"""Write the goldens of test/goldens/logits/: logits of small models as `transformers` computes them.

    python tools/goldens/logits.py [--data ../shared/data] [NAME ...]

Without names: every synthetic variant (synth.py), and the trained models of the data folder when it is there.

A golden is a text file that test/unit/engine/test_golden.c reads:

    # comment lines
    tokens N          then N token ids
    row POS STRIDE N  then the N logits of ids 0, STRIDE, 2 * STRIDE, ... after the token at POS
    max POS M         the largest |logit| of that row, the yardstick of the comparison
"""

import argparse
import os
import sys

import numpy as np

import reference
import synth

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "test", "goldens", "logits")
N_TOKENS = 80
POSITIONS = [0, 1, 15, 16, 31, 32, 47, 64, 79]  # either side of a KV page (32) and of the sliding window (16)

TRAINED = {
    "stories260K": ("gguf", "models/stories260K/stories260K-f32.gguf"),
    "tinystories-656k": ("folder", "models/tinystories-656k"),
    "prose-6m": ("gguf", "models/prose-6m/prose-6m-f16.gguf"),
}


def token_sequence(n, n_vocab, first=3):
    """A fixed sequence without pattern that starts with BOS: what a tokenizer would say does not matter here."""
    return [1] + [int(first + (i * i * 31 + i * 17 + 11) % (n_vocab - first)) for i in range(1, n)]


def wrapped(values, fmt):
    words = [fmt % v for v in values]
    lines, line = [], ""
    for word in words:
        if line and len(line) + 1 + len(word) > 118:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join(lines + [line]) + "\n"


def write_golden(name, comment, tokens, logits, positions, stride, out=OUT):
    """The last position in full when that is small, the others thinned out by stride."""
    path = os.path.join(out, name + ".txt")
    with open(path, "w") as f:
        f.write(f"# {comment}\n# by tools/goldens/logits.py: {reference.versions()}\n")
        f.write(f"tokens {len(tokens)}\n" + wrapped(tokens, "%d"))
        for pos in positions:
            step = 1 if pos == positions[-1] and logits.shape[1] <= 512 else stride
            row = logits[pos][::step]
            f.write(f"max {pos} {np.abs(logits[pos]).max():.9g}\nrow {pos} {step} {len(row)}\n" + wrapped(row, "%.8g"))
    print(f"{path}: {os.path.getsize(path)} bytes, largest logit {np.abs(logits).max():.3f}", file=sys.stderr)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", default="../shared/data", help="folder of the trained models")
    ap.add_argument("names", nargs="*", help="goldens to write; default: all")
    args = ap.parse_args()
    os.makedirs(OUT, exist_ok=True)
    for variant in synth.VARIANTS:
        s = synth.full_spec(variant)
        if args.names and s["name"] not in args.names:
            continue
        tokens = token_sequence(N_TOKENS, s["n_vocab"])
        result = reference.logits(reference.from_tensors(synth.config(s), synth.weights(s)), tokens)
        write_golden(s["name"], f"synthetic model {s['name']}", tokens, result, POSITIONS, 7)
    for name, (kind, path) in TRAINED.items():
        if args.names and name not in args.names:
            continue
        path = os.path.join(args.data, path)
        if not os.path.exists(path):
            print(f"SKIPPED {name}: no {path}", file=sys.stderr)
            continue
        model = reference.from_gguf(path) if kind == "gguf" else reference.from_folder(path)
        n_vocab = model.config.vocab_size
        tokens = token_sequence(N_TOKENS, n_vocab)
        write_golden(name, f"trained model {name}", tokens, reference.logits(model, tokens), POSITIONS, max(7, n_vocab // 97))


if __name__ == "__main__":
    main()
