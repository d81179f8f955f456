#!/usr/bin/env python3
"""Perplexity of the default model on real text, against the independent reference of test/goldens/logits/.

    exact mode       within 0.1% of the reference
    default path     within 0.5% of the reference, mean KL from exact mode below 5e-3

The recipe (16384 tokens, windows of 512, no BOS) is that of tools/goldens/smollm2.py. Takes some minutes.
PRECIS is the program, PRECIS_TEST_MODEL the model file, PRECIS_TEST_DATA the folder with text/wikitext2-valid.txt.
"""

import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GOLDEN = os.path.join(ROOT, "test", "goldens", "logits", "smollm2-perplexity.txt")
PRECIS = os.environ.get("PRECIS", os.path.join(ROOT, "build", "release", "precis"))
MODEL = os.environ.get("PRECIS_TEST_MODEL", "")
TEXT = os.path.join(os.environ.get("PRECIS_TEST_DATA", os.path.join(ROOT, "..", "shared", "data")), "text",
                    "wikitext2-valid.txt")


def golden():
    with open(GOLDEN) as f:
        return dict(line.split()[:2] for line in f if line.split()[0] in ("tokens", "window", "ids_fnv1a", "perplexity"))


def precis(*args):
    done = subprocess.run([PRECIS, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"not ok precis {args[0]}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def fnv_ids(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        for byte in i.to_bytes(4, "little"):
            h = ((h ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return f"{h:016x}"


def check(name, good, detail):
    print(f"{'ok' if good else 'not ok'} {name}: {detail}", flush=True)
    return good


def main():
    for what, path in (("default model (set PRECIS_TEST_MODEL)", MODEL), ("text (set PRECIS_TEST_DATA)", TEXT)):
        if not path or not os.path.exists(path):
            print(f"SKIPPED no {what}")
            return 0
    g = golden()
    want = float(g["perplexity"])
    args = ("--text", TEXT, "--tokens", g["tokens"], "--window", g["window"], "--json")

    ids = precis("tokenize", MODEL, "--file", TEXT, "--no-special", "--json")["ids"][:int(g["tokens"])]
    good = check("tokens of the text", fnv_ids(ids) == g["ids_fnv1a"], f"{len(ids)} ids, hash {fnv_ids(ids)}")

    got = precis("eval", MODEL, "--exact", *args)["perplexity"]
    good &= check("exact perplexity", abs(got / want - 1) < 1e-3, f"{got:.5f}, reference {want:.5f} ({got / want - 1:+.4%})")

    fast = precis("eval", MODEL, "--reference", MODEL, "--reference-exact", *args)
    got, kl = fast["perplexity"], fast["kl_mean"]
    good &= check("default perplexity", abs(got / want - 1) < 5e-3, f"{got:.5f}, reference {want:.5f} ({got / want - 1:+.4%})")
    good &= check("default KL", kl < 5e-3, f"{kl:.2e} nats, same best token {fast['top1_agreement']:.2%}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
