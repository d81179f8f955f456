#!/usr/bin/env python3
"""What each graph pass is worth: precis with a pass switched off, against precis with all of them, taking turns.

    bench/passes.py MODEL [--rounds 7] [--threads 2] > table.md

Every round measures the full set and each variant once, so that a slow minute of a shared machine falls on all alike. The
ratio is the median over rounds of (variant / full) in the same round: 0.95 means that without the pass precis is 5%
slower. Logits are the same bits with any pass off; the unit tests hold that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRECIS = os.environ.get("PRECIS", os.path.join(ROOT, "build", "release", "precis"))
PASSES = ["fold", "rows", "gate", "qkv", "residual", "layout", "norm", "dead"]


def measure(model, threads, off):
    command = [PRECIS, "bench", model, "-t", str(threads), "-p", "512", "-n", "64", "-r", "1", "--json"]
    for name in off:
        command += ["--no-pass", name]
    out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return out["prefill_tokens_per_second"], out["decode_tokens_per_second"]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model")
    args.add_argument("--rounds", type=int, default=7)
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    variants = [(name, [name]) for name in PASSES] + [("all of them", PASSES)]
    ratios = {name: ([], []) for name, _ in variants}
    for done in range(args.rounds):
        full = measure(args.model, args.threads, [])
        for name, off in variants:
            one = measure(args.model, args.threads, off)
            for kind in range(2):
                ratios[name][kind].append(one[kind] / full[kind])
        print(f"round {done + 1} of {args.rounds}", file=sys.stderr)
    print("| without | prefill 512 | decode |\n|---|---|---|")
    for name, _ in variants:
        prefill, decode = (statistics.median(r) for r in ratios[name])
        print(f"| {name} | {prefill:.3f} | {decode:.3f} |")


if __name__ == "__main__":
    main()
