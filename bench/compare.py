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
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNNER = os.path.join(ROOT, "bench", "peer", "llama_runner.py")
PEERS = {"llama.cpp": ("llama-cpp-python", "llama_cpp"), "ik_llama.cpp": ("ik-llama-cpp-python", "ik_llama_cpp")}
SYNTHETIC = [("synthetic 1.1B Q8_0", "q8_0"), ("synthetic 1.1B F16", "f16")]


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_json(command):
    """The JSON object that a command prints on its last line of stdout."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
    text = done.stdout.strip()
    return json.loads(text[text.index("{"):])


# ---- the two sides ---------------------------------------------------------------------------------------------------


class Precis:
    name = "precis"

    def __init__(self, args):
        self.args = args

    def version(self):
        return subprocess.run([self.args.precis, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()

    def measure(self, model, prompt, generate):
        got = run_json([self.args.precis, "bench", model, "-t", str(self.args.threads), "-p", str(prompt), "-n", str(generate),
                        "-r", "1", "--json"])
        return {"prefill": got["prefill_tokens_per_second"], "decode": got["decode_tokens_per_second"]}


class Peer:
    def __init__(self, args, name, python, flash):
        self.args, self.python, self.flash, self.module = args, python, flash, PEERS[name][1]
        self.name = f"{name}{' flash' if flash else ''}"

    def command(self, *rest):
        return [self.python, RUNNER, "--module", self.module, "-t", str(self.args.threads), *rest]

    def about(self):
        return run_json(self.command())

    def measure(self, model, prompt, generate):
        return run_json(self.command(model, "-p", str(prompt), "-n", str(generate), *(["--flash"] if self.flash else [])))


def peer_python(args, name):
    """A Python that has the peer's binding, built natively when there is none yet."""
    if args.peer_python:
        return args.peer_python
    package, module = PEERS[name]
    python = os.path.join(args.work, "venv-" + module, "bin", "python")
    if os.path.exists(python) and subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL).returncode == 0:
        return python
    say(f"building {package} for this processor; this takes minutes")
    subprocess.run([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(python))], check=True)
    env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-binary", package, package], check=True, env=env,
                   stdout=sys.stderr)
    return python


# ---- measuring -------------------------------------------------------------------------------------------------------


DISTURBED = 0.1  # processors that others may use during a measurement


def busy_seconds():
    """CPU seconds that all processors spent on anything so far (with what the host took), and those of our children."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal = (int(x) for x in f.readline().split()[1:9])
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), children.ru_utime + children.ru_stime


def undisturbed(measure, retries):
    """measure()'s result, and how many processors others used meanwhile."""
    for attempt in range(retries + 1):
        all_before, own_before = busy_seconds()
        start = time.monotonic()
        result = measure()
        wall = time.monotonic() - start
        all_after, own_after = busy_seconds()
        others = max(0.0, (all_after - all_before) - (own_after - own_before)) / wall
        if others <= DISTURBED:
            break
        say(f"    others used {others:.2f} processors" + (": again" if attempt < retries else ""))
        if attempt < retries:
            time.sleep(10)
    return result, others


class Spinner:
    """A neighbour that wants a whole processor."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def take_turns(sides, model, rounds, prompt, generate, retries=0):
    """{side: {"prefill": [...], "decode": [...], "others": [...]}}; a prompt of 0 tokens leaves prefill out."""
    out = {side.name: {} for side in sides}
    for r in range(rounds):
        for side in sides:
            result, others = undisturbed(lambda side=side: side.measure(model, prompt, generate), retries)
            numbers = {k: result[k] for k in (("prefill", "decode") if prompt else ("decode",))}
            say(f"  round {r + 1} {side.name:20s} " + "  ".join(f"{k} {v:.1f}" for k, v in sorted(numbers.items())))
            for k, v in numbers.items():
                out[side.name].setdefault(k, []).append(v)
            out[side.name].setdefault("others", []).append(others)
    return out


def best_of(results, prefix, what):
    """The list of the peer's flash setting with the better median."""
    lists = [v[what] for name, v in results.items() if name.split(" ")[0] == prefix and what in v]
    return max(lists, key=statistics.median)


def cell(values):
    digits = 0 if statistics.median(values) >= 100 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratio(a, b):
    return f"{statistics.median(a) / statistics.median(b):.2f}x"


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


# ---- the report ------------------------------------------------------------------------------------------------------


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def machine():
    cpu, count = {}, 0
    with open("/proc/cpuinfo") as f:
        for line in f:
            key, _, value = line.partition(":")
            count += key.strip() == "processor"
            cpu.setdefault(key.strip(), value.strip())
    with open("/proc/meminfo") as f:
        ram = int(f.readline().split()[1]) / 1e6
    flags = [x for x in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if x in cpu.get("flags", "").split()]
    return (f"{cpu.get('model name', platform.processor())} (family {cpu.get('cpu family', '?')}, model {cpu.get('model', '?')}; "
            f"{' '.join(flags)}), {count} processors ({len(os.sched_getaffinity(0))} allowed), {ram:.0f} GB RAM, "
            f"{platform.system()} {platform.release()}")


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
