#!/usr/bin/env python3
"""precis against llama.cpp on this machine: the same files, the same threads, taking turns.

    bench/compare.py [--model SmolLM2-135M-Instruct.Q4_1.gguf] [--threads 2] [--rounds 5] [--busy] > table.md

The first run makes a virtual environment under build/bench/ and builds llama-cpp-python in it from source for this very
processor (minutes; needs a C++ compiler and pip), and lets precis write the synthetic 1.1B files. Then for each model, in
each round, precis and the peer are measured one after the other (A B A B ...), so that a slow minute of a shared machine
falls on both. Medians are compared; every median stands beside its range.

What is measured, for both alike, model loaded and warmed up:
    prefill   512 tokens into an empty context, tokens a second
    decode    128 tokens one by one after a first one, tokens a second
The peer runs with flash attention off and on, and each number is its better median. Losses are printed like wins.

A neighbour on the machine spoils all of this, and the peer most (its threads spin). So what other processes used during each
measurement is counted; one that was disturbed is repeated, at most --retries times, and the worst that was kept is printed.

--busy measures decode (of a quarter as many tokens) again with one process spinning beside it, as a fraction of the same
program's decode alone, in turns too.

Output is Markdown on stdout; what is going on goes to stderr.
"""

import argparse
import datetime
import glob
import os
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer"))

from common import (PEERS, ROOT, Peer, Precis, Spinner, cell, machine, peer_python, ratio, say, table,  # noqa: E402
                    take_turns)

SYNTHETIC = [("synthetic 1.1B Q8_0", "q8_0"), ("synthetic 1.1B F16", "f16")]


def best_of(results, prefix, what):
    """The list of the peer's flash setting with the better median."""
    lists = [v[what] for name, v in results.items() if name.split(" ")[0] == prefix and what in v]
    return max(lists, key=statistics.median)


def speed_rows(label, results, peers):
    rows = []
    for what in ("decode", "prefill"):
        row = [label, what]
        mine = results.get("precis", {}).get(what)
        row.append(cell(mine) if mine else "-")
        for peer in peers:
            theirs = best_of(results, peer, what)
            row += [cell(theirs), ratio(mine, theirs) if mine else "-"]
        rows.append(row)
    return rows


def busy_rows(label, sides, model, rounds, generate):
    """Decode alone and beside a spinning neighbour, in turns."""
    alone, busy = {}, {}
    for r in range(rounds):
        say(f"  busy round {r + 1}")
        for store, beside in ((alone, False), (busy, True)):
            if beside:
                with Spinner():
                    got = take_turns(sides, model, 1, 0, generate)
            else:
                got = take_turns(sides, model, 1, 0, generate)
            for name, v in got.items():
                store.setdefault(name, []).extend(v["decode"])
    return [[label, side.name, cell(alone[side.name]), cell(busy[side.name]),
             f"{statistics.median(busy[side.name]) / statistics.median(alone[side.name]):.2f}"] for side in sides]


# ---- the run ---------------------------------------------------------------------------------------------------------


def find_default_model():
    places = [os.environ.get("PRECIS_TEST_MODEL", "")]
    folder = os.environ.get("PRECIS_MODELS") or os.path.expanduser("~/.local/share/precis/models")
    places += sorted(glob.glob(os.path.join(folder, "smollm2*.gguf")))
    return next((p for p in places if p and os.path.exists(p)), None)


def model_files(args):
    """[(label, path)], writing the synthetic ones when they are not there."""
    out = []
    if args.model:
        out.append(("SmolLM2-135M Q4_1" if "smollm2" in args.model.lower() else os.path.basename(args.model), args.model))
    else:
        say("no default model: give --model, or run `precis pull smollm2`")
    for label, kind in SYNTHETIC if args.synthetic else []:
        path = os.path.join(args.work, f"synthetic-1.1b-{kind}.gguf")
        if not os.path.exists(path):
            if not args.precis:
                say(f"{path} is missing and there is no precis to write it")
                continue
            subprocess.run([args.precis, "bench", "--synthetic", "1.1b", "--write-gguf", kind, path], check=True,
                           stdout=sys.stderr)
        out.append((label, path))
    return out


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--precis", default=os.path.join(ROOT, "build", "release", "precis"), help="the program")
    ap.add_argument("--peers-only", action="store_true", help="measure the peers alone")
    ap.add_argument("--model", default=find_default_model(), help="a GGUF file beside the synthetic ones")
    ap.add_argument("--no-synthetic", dest="synthetic", action="store_false", help="leave out the 1.1B files (3.4 GB of disk)")
    ap.add_argument("--work", default=os.path.join(ROOT, "build", "bench"), help="folder for environments and synthetic files")
    ap.add_argument("--peer-python", help="a Python that has the peer's binding, instead of building one")
    ap.add_argument("--ik", action="store_true", help="also ik_llama.cpp (built from ik-llama-cpp-python)")
    ap.add_argument("-t", "--threads", type=int, default=2)
    ap.add_argument("-r", "--rounds", type=int, default=5)
    ap.add_argument("-p", "--prompt", type=int, default=512)
    ap.add_argument("-n", "--generate", type=int, default=128)
    ap.add_argument("--retries", type=int, default=5, help="how often a disturbed measurement is repeated")
    ap.add_argument("--busy", action="store_true", help="also decode beside a spinning process")
    args = ap.parse_args()
    if args.rounds < 1:
        ap.error("--rounds: at least 1")
    if args.peers_only:
        args.precis = None
    elif not (os.path.exists(args.precis) or shutil.which(args.precis)):
        ap.error(f"--precis {args.precis}: not there; run make first, or give --peers-only")
    os.makedirs(args.work, exist_ok=True)
    return args


def main():
    args = options()
    names = ["llama.cpp"] + (["ik_llama.cpp"] if args.ik else [])
    sides = [] if args.peers_only else [Precis(args)]
    about = []
    for name in names:
        python = peer_python(args, name)
        pair = [Peer(args, name, python, flash) for flash in (False, True)]
        sides += pair
        info = pair[0].about()
        about.append(f"{name}: {PEERS[name][0]} {info['version']}, {info['system_info'].strip(' |')}")
    speed, busy, others = [], [], []
    for label, path in model_files(args):
        say(label)
        results = take_turns(sides, path, args.rounds, args.prompt, args.generate, args.retries)
        speed += speed_rows(label, results, names)
        others += [x for side in results.values() for x in side["others"]]
        if args.busy:
            busy += busy_rows(label, sides, path, args.rounds, max(args.generate // 4, 1))
    print(f"{datetime.date.today()}, {machine()}. {args.threads} threads, "
          f"{args.rounds} rounds; tok/s, median (lowest-highest). Other processes used at most {max(others, default=0):.2f} "
          "processors during a measurement.\n")
    if not args.peers_only:
        print(f"precis: {Precis(args).version()}  ")
    print("  \n".join(about) + "\n")
    head = ["model", "what", "precis"] + [h for name in names for h in (name, "precis / " + name)]
    print(table(head, speed))
    if busy:
        print("\nDecode beside one spinning process:\n")
        print(table(["model", "program", "alone", "beside it", "kept"], busy))


if __name__ == "__main__":
    main()
