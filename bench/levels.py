#!/usr/bin/env python3
"""Speed of a packed model's levels against the peers' files of the same shape and about as many bits, taking turns.

    bench/levels.py [--shapes 1.1b,7b] [--threads 2] [--rounds 5] > table.md

For each shape precis writes a synthetic F16 model and packs it. Then each level meets the file type it competes with:
    fp16 - F16, int8 - Q8_0, int4 - Q4_0, int2 - Q2_K
in every peer that is asked for (llama.cpp and ik_llama.cpp), with flash attention off and on; the better median of a peer counts.
Measured are prefill of 512 tokens into an empty context and decode of 128 tokens, in rounds that give everyone a turn, as
in bench/compare.py; disturbed measurements are repeated there and here.

GB/s is decode times the weights that one token reads: of precis as it reports them, of a peer the tensors in its file less
the table of embeddings, of which a token reads one row. Its share is of the read bandwidth that `precis bench` measures
beside each of its runs (the median). Levels and types are paired by kind, not by bytes (Q2_K is over 3 bits a weight): both
GB/s and tokens a second are there to judge by. What a level is worth in quality is bench/quality.py's subject.

Files stand in --work/levels, a peer's only while its pair is measured (--keep keeps them): 5 GB at most for 1.1b, 31 GB for
7b. Where two files do not fit the memory together (F16 at 7b on 24 GB) each side is measured in one block instead of in
turns, since both would only read the disk; the table says so.
"""

import argparse
import datetime
import os
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer"))

from common import (PEERS, ROOT, Peer, Precis, cell, gguf_bytes_read, machine, peer_python, ratio, say, table,  # noqa: E402
                    take_turns)

QUALITY = os.path.join(ROOT, "bench", "peer", "llama_quality.py")
LEVELS = ["int2", "int4", "int8", "fp16"]
PAIRS = [("fp16", "F16"), ("int2", "Q2_K"), ("int8", "Q8_0"), ("int4", "Q4_0")]  # those that need the source first
FROM_SOURCE = {"F16", "Q2_K"}


def run(command):
    subprocess.run(command, check=True, stdout=sys.stderr)


# ---- precis: the command lines of elastic models are here and nowhere else ------------------------------------------


def pack(args, source, out):
    run([args.precis, "pack", source, "-o", out, *args.pack_flags.split()])


class Level(Precis):
    """A packed model at one level."""

    def __init__(self, args, level, path):
        super().__init__(args)
        self.name, self.level, self.path, self.bytes_read, self.bandwidth = f"precis {level}", level, path, 0, []

    def command(self, model):
        return [self.args.precis, "bench", model, "--level", self.level]

    def measure(self, _, prompt, generate):
        got = self.bench(self.path, prompt, generate)
        self.bytes_read = got["weight_bytes_read"]
        self.bandwidth.append(got["bandwidth_bytes_per_second"])
        return {"prefill": got["prefill_tokens_per_second"], "decode": got["decode_tokens_per_second"]}


# ---- the pairs -------------------------------------------------------------------------------------------------------


def peer_file(args, shape, kind, source):
    """The peer's file of a type: written as it is, or made from the source by llama.cpp."""
    if kind == "F16":
        return source
    path = os.path.join(args.folder, f"{shape}-{kind.lower()}.gguf")
    if not os.path.exists(path):
        say(f"writing {path}")
        if kind == "Q2_K":
            run([args.pythons["llama.cpp"], QUALITY, "-t", str(args.threads), "make", source, kind, path + ".part"])
        else:
            run([args.precis, "bench", "--synthetic", shape, "--write-gguf", kind.lower(), path + ".part"])
        os.rename(path + ".part", path)
    return path


def memory_available():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))


def measure(args, sides, path):
    """take_turns(), or one block a side where two files are too much; and which it was."""
    together = 2.2 * os.path.getsize(path) < memory_available()
    if together:
        return take_turns(sides, path, args.rounds, args.prompt, args.generate, args.retries), True
    results = {}
    for side in sides:
        results.update(take_turns([side], path, args.rounds, args.prompt, args.generate, args.retries))
    return results, False


def better(results, peer, what):
    return max((v[what] for name, v in results.items() if name.split(" ")[0] == peer), key=statistics.median)


def speed(values, bytes_read, bandwidth):
    gbs = statistics.median(values) * bytes_read / 1e9
    return [f"{gbs:.1f}", f"{100e9 * gbs / bandwidth:.0f}%"]


def pair_rows(args, shape, level, kind, path, packed):
    mine = Level(args, level, packed)
    flashes = (False, True) if args.flash else (False,)
    sides = [mine] + [Peer(args, name, args.pythons[name], flash) for name in args.peers for flash in flashes]
    say(f"{shape}: {level} and {kind}")
    results, in_turns = measure(args, sides, path)
    bandwidth, theirs = statistics.median(mine.bandwidth), gguf_bytes_read(path)
    ours = results[mine.name]
    what = f"{shape} {level}" + ("" if in_turns else " (in blocks)")
    rows = [[what, "precis", f"{mine.bytes_read / 1e9:.2f}", cell(ours["decode"]),
             *speed(ours["decode"], mine.bytes_read, bandwidth), "", cell(ours["prefill"]), ""]]
    for name in args.peers:
        decode, prefill = better(results, name, "decode"), better(results, name, "prefill")
        rows.append(["", f"{name} {kind}", f"{theirs / 1e9:.2f}", cell(decode), *speed(decode, theirs, bandwidth),
                     ratio(ours["decode"], decode), cell(prefill), ratio(ours["prefill"], prefill)])
    others = [x for side in results.values() for x in side["others"]]
    return rows, mine.bandwidth, others


def drop(args, *paths):
    for path in paths:
        if not args.keep and os.path.exists(path):
            os.unlink(path)


def shape_rows(args, shape):
    source, packed = (os.path.join(args.folder, f"{shape}{end}") for end in ("-f16.gguf", "-packed.gguf"))
    pairs = [(level, kind) for level, kind in PAIRS if level in args.levels]
    if not os.path.exists(source):
        say(f"writing {source}")
        run([args.precis, "bench", "--synthetic", shape, "--write-gguf", "f16", source + ".part"])
        os.rename(source + ".part", source)
    if not os.path.exists(packed):
        say(f"packing {packed}")
        pack(args, source, packed + ".part")
        os.rename(packed + ".part", packed)
    rows, bandwidth, others = {}, [], []
    for i, (level, kind) in enumerate(pairs):
        path = peer_file(args, shape, kind, source)
        rows[level], read, busy = pair_rows(args, shape, level, kind, path, packed)
        bandwidth, others = bandwidth + read, others + busy
        if path != source:
            drop(args, path)
        if not FROM_SOURCE & {kind for _, kind in pairs[i + 1:]}:
            drop(args, source)
    drop(args, packed)
    return [row for level in LEVELS if level in rows for row in rows[level]], bandwidth, others


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--shapes", default="1.1b,7b", help="of `precis bench --synthetic` (1.1b,7b)")
    ap.add_argument("--levels", default=",".join(LEVELS), help="(" + ",".join(LEVELS) + ")")
    ap.add_argument("--peers", default=",".join(PEERS), help="(" + ",".join(PEERS) + ")")
    ap.add_argument("--no-flash", dest="flash", action="store_false", help="peers without flash attention only: half the time")
    ap.add_argument("--pack-flags", default="", help="more flags for `precis pack`; speed does not depend on what weights say")
    ap.add_argument("--keep", action="store_true", help="keep all files for another run")
    ap.add_argument("--precis", default=os.path.join(ROOT, "build", "release", "precis"), help="the program")
    ap.add_argument("--work", default=os.path.join(ROOT, "build", "bench"), help="folder for environments and models")
    ap.add_argument("-t", "--threads", type=int, default=2)
    ap.add_argument("-r", "--rounds", type=int, default=5)
    ap.add_argument("-p", "--prompt", type=int, default=512)
    ap.add_argument("-n", "--generate", type=int, default=128)
    ap.add_argument("--retries", type=int, default=5, help="how often a disturbed measurement is repeated")
    args = ap.parse_args()
    args.peer_python = None
    args.levels, args.peers, args.shapes = args.levels.split(","), args.peers.split(","), args.shapes.split(",")
    if args.rounds < 1 or args.prompt < 1 or args.generate < 1:
        ap.error("-r, -p, -n: at least 1")
    unknown = [x for x in args.levels if x not in LEVELS] + [x for x in args.peers if x not in PEERS]
    if unknown:
        ap.error(f"unknown: {', '.join(unknown)}")
    if not (os.path.exists(args.precis) or shutil.which(args.precis)):
        ap.error(f"--precis {args.precis}: not there; run make first")
    args.folder = os.path.join(args.work, "levels")
    os.makedirs(args.folder, exist_ok=True)
    return args


def main():
    args = options()
    args.pythons = {name: peer_python(args, name) for name in {"llama.cpp", *args.peers}}
    rows, bandwidth, others = [], [], []
    for shape in args.shapes:
        got = shape_rows(args, shape)
        rows, bandwidth, others = rows + got[0], bandwidth + got[1], others + got[2]
    about = {name: Peer(args, name, args.pythons[name], False).about() for name in args.peers}
    print(f"{datetime.date.today()}, {machine()}. {args.threads} threads, {args.rounds} rounds; tok/s, median "
          f"(lowest-highest). Read bandwidth {statistics.median(bandwidth) / 1e9:.1f} GB/s ({min(bandwidth) / 1e9:.1f}-{max(bandwidth) / 1e9:.1f}). "
          f"Other processes used at most {max(others):.2f} processors during a measurement.\n")
    print(f"precis: {Precis(args).version()}  ")
    for name, x in about.items():
        print(f"{name}: {PEERS[name][0]} {x['version']}, {x['system_info'].strip(' |')}  ")
    print("\n" + table(["level", "program", "GB a token", "decode", "GB/s", "of read", "precis / it", "prefill",
                        "precis / it"], rows))


if __name__ == "__main__":
    main()
