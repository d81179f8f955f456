#!/usr/bin/env python3
"""llama.cpp's side of bench/quality.py, through its low-level binding; runs in the peer's own Python.

    llama_quality.py make SOURCE TYPE OUT [--imatrix FILE.npz]     a quantized file
    llama_quality.py imatrix SOURCE CHUNKS OUT.npz                 importance matrix: mean squares of every matrix' inputs
    llama_quality.py measure SOURCE CHUNKS --logits PROGRAM FILES  distances from SOURCE's logits, a JSON object

CHUNKS holds 32-bit numbers: n, then n token ids, again and again. PROGRAM is build/release/bench/logits: the reference logits
come out of it chunk by chunk, and every file answers the same chunk, so that no logits need be kept.

The binding passes an importance matrix as a list of (name, floats, count) that ends with an empty name. Where it has no such
list (ik_llama.cpp takes an opaque pointer to a C++ map, which cannot be made from Python) --imatrix is refused.
"""

import argparse
import array
import ctypes
import json
import os
import subprocess
import sys

import numpy as np

from llama_runner import Peer, open_library, set_if_there

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
         "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q2_K_S": 21, "IQ4_NL": 25,
         "IQ4_XS": 30}
GGML_F32 = 0
ROWS = 64  # compared at a time

# What the peer calls the input of each matrix of a llama-like layer.
INPUTS = {"attn_norm": ("attn_q", "attn_k", "attn_v"), "kqv_out": ("attn_output",), "ffn_norm": ("ffn_gate", "ffn_up"),
          "ffn_swiglu": ("ffn_down",)}


def read_chunks(path):
    numbers, chunks, at = array.array("i", open(path, "rb").read()), [], 0
    while at < len(numbers):
        chunks.append(list(numbers[at + 1:at + 1 + numbers[at]]))
        at += 1 + numbers[at]
    return chunks


# ---- making files ----------------------------------------------------------------------------------------------------


def imatrix_list(lib, path):
    """The binding's list, and what must stay alive with it."""
    if not hasattr(lib, "llama_model_imatrix_data"):
        raise SystemExit("this binding takes no importance matrix: its pointer is opaque")
    data = {name: np.ascontiguousarray(v, dtype=np.float32) for name, v in np.load(path).items()}
    entries = (lib.llama_model_imatrix_data * (len(data) + 1))()
    for entry, (name, values) in zip(entries, data.items()):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries, data


def make(lib, args):
    params = lib.llama_model_quantize_default_params()
    set_if_there(params, ftype=TYPES[args.type], nthread=args.threads, allow_requantize=True)
    if args.imatrix:
        entries, alive = imatrix_list(lib, args.imatrix)
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    if lib.llama_model_quantize(args.source.encode(), args.out.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"{args.source}: the peer cannot make {args.type} of it")


class Taps:
    """Sums the squares of what the peer's graph computes under the names of INPUTS."""

    def __init__(self, lib):
        base = ctypes.CDLL(os.path.join(os.path.dirname(lib.__file__), "lib", "libggml-base.so"))
        for name, result in (("ggml_get_name", ctypes.c_char_p), ("ggml_nelements", ctypes.c_int64),
                             ("ggml_get_data_f32", ctypes.POINTER(ctypes.c_float))):
            getattr(base, name).restype, getattr(base, name).argtypes = result, [ctypes.c_void_p]
        self.base, self.sums, self.n_tokens, self.n_seen = base, {}, 0, 0
        self.callback = lib.ggml_backend_sched_eval_callback(self.tap)

    def tap(self, tensor, ask, _):
        name = self.base.ggml_get_name(tensor).decode()
        if name.rpartition("-")[0] not in INPUTS:
            return not ask  # asked: not wanted; told: go on
        if not ask:
            count = self.base.ggml_nelements(tensor)
            values = np.ctypeslib.as_array(self.base.ggml_get_data_f32(tensor), (count,))
            squares = np.square(values.reshape(self.n_tokens, -1), dtype=np.float64).sum(axis=0)
            self.sums[name] = self.sums.get(name, 0) + squares
        return True


def imatrix(lib, args):
    chunks = read_chunks(args.chunks)
    taps = Taps(lib)
    longest = max(len(c) for c in chunks)
    peer = Peer(lib, args.source, args.threads, longest, False, cb_eval=taps.callback)
    for chunk in chunks:
        taps.n_tokens = len(chunk)
        taps.n_seen += len(chunk)
        peer.clear()
        peer.step(0, chunk, all_logits=True)  # all: else the last layer computes one row only
    out = {}
    for name, sums in taps.sums.items():
        kind, _, layer = name.rpartition("-")
        for matrix in INPUTS[kind]:
            out[f"blk.{layer}.{matrix}.weight"] = (sums / taps.n_seen).astype(np.float32)
    if len(out) != 7 * (1 + max(int(name.split(".")[1]) for name in out)):
        raise SystemExit("the peer names its activations otherwise: no importance matrix")
    np.savez(args.out, **out)


# ---- measuring -------------------------------------------------------------------------------------------------------


class Measured:
    """One file, and its distances so far."""

    def __init__(self, lib, path, threads, window):
        full = os.path.basename(path) == "F32.gguf"  # it is there to check the reference, so keys and values are F32 too
        kv = {"type_k": GGML_F32, "type_v": GGML_F32} if full else {}
        self.lib, self.path = lib, path
        self.peer = Peer(lib, path, threads, (window + 255) // 256 * 256, False, **kv)
        self.kl, self.same, self.nll = [], 0, 0.0

    def rows(self, chunk):
        self.peer.clear()
        self.peer.step(0, chunk, all_logits=True)
        shape = (len(chunk) - 1, self.peer.n_vocab)
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.peer.ctx), shape)

    def add(self, chunk, reference):
        mine = Rows(self.rows(chunk))
        self.kl.append(reference.divergence(mine))
        self.same += int((reference.best == mine.best).sum())
        self.nll += mine.nll(chunk)

    def result(self):
        kl = np.sort(np.concatenate(self.kl))
        n = len(kl)
        return {"path": self.path, "bytes": os.path.getsize(self.path), "scored": n, "kl_mean": float(kl.mean()),
                "kl_error": float(kl.std() / np.sqrt(n)), "kl_99": float(kl[(n * 99 + 99) // 100 - 1]),
                "top1_agreement": self.same / n, "perplexity": float(np.exp(self.nll / n))}


class Rows:
    """Rows of logits, with what is needed of each more than once. exp() in 32 bits and sums in 64, as in `precis eval`: a KL
    below some 1e-7 is rounding."""

    def __init__(self, logits):
        self.logits, self.best = logits, logits.argmax(axis=1)
        top = logits.max(axis=1, keepdims=True)
        sums = np.concatenate([np.exp(part).sum(axis=1, dtype=np.float64) for part in blocks(logits - top)])
        self.log_sum = top[:, 0].astype(np.float64) + np.log(sums)

    def divergence(self, other):
        out = []
        for p, q, shift, base in zip(blocks(self.logits), blocks(other.logits), blocks(other.log_sum - self.log_sum),
                                     blocks(self.log_sum)):
            weights = np.exp(p - base[:, None].astype(np.float32))
            out.append((weights * ((p.astype(np.float64) - q) + shift[:, None])).sum(axis=1))
        return np.maximum(np.concatenate(out), 0)

    def nll(self, chunk):
        return float((self.log_sum - self.logits[np.arange(len(self.logits)), chunk[1:]]).sum())


def blocks(rows):
    return [rows[at:at + ROWS] for at in range(0, len(rows), ROWS)]


def measure(lib, args):
    chunks = read_chunks(args.chunks)
    window = max(len(c) for c in chunks)
    files = [Measured(lib, path, args.threads, window) for path in args.files]
    n_vocab, nll, n = files[0].peer.n_vocab, 0.0, 0
    with open(args.chunks, "rb") as f:
        program = subprocess.Popen([args.logits, args.source, str(window)], stdin=f, stdout=subprocess.PIPE)
    for i, chunk in enumerate(chunks):
        data = program.stdout.read(4 * n_vocab * (len(chunk) - 1))
        if len(data) != 4 * n_vocab * (len(chunk) - 1):
            raise SystemExit("the reference logits end early")
        reference = Rows(np.frombuffer(data, dtype=np.float32).reshape(-1, n_vocab))
        nll += reference.nll(chunk)
        n += len(chunk) - 1
        for one in files:
            one.add(chunk, reference)
        if (i + 1) % 8 == 0 or i + 1 == len(chunks):
            print(f"  chunk {i + 1} of {len(chunks)}", file=sys.stderr, flush=True)
    if program.stdout.read(1) or program.wait() != 0:
        raise SystemExit("the reference logits do not fit the chunks")
    return {"reference_perplexity": float(np.exp(nll / n)), "files": [one.result() for one in files]}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--module", default="llama_cpp", help="binding to import")
    ap.add_argument("-t", "--threads", type=int, default=2)
    sub = ap.add_subparsers(dest="what", required=True)
    p = sub.add_parser("make")
    p.add_argument("source")
    p.add_argument("type", choices=sorted(TYPES))
    p.add_argument("out")
    p.add_argument("--imatrix")
    p = sub.add_parser("imatrix")
    p.add_argument("source")
    p.add_argument("chunks")
    p.add_argument("out")
    p = sub.add_parser("measure")
    p.add_argument("source")
    p.add_argument("chunks")
    p.add_argument("files", nargs="+")
    p.add_argument("--logits", required=True)
    args = ap.parse_args()
    lib = open_library(args.module)
    result = {"make": make, "imatrix": imatrix, "measure": measure}[args.what](lib, args)
    if result:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
