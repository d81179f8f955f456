#!/usr/bin/env python3
"""How far from its source: levels and budgets of a packed model against llama.cpp's files of the same source, by bytes.

    bench/quality.py SOURCE.gguf [--packed MODEL] [--budgets 3.5m,4m] [--text FILE ...] [--tokens 16384] > table.md

SOURCE is a GGUF file of floats; of one that is quantized already (SmolLM2 Q4_1) the peer requantizes, and both sides are
measured against what the source's numbers say. The peer makes its files in --work (llama_model_quantize), once without
and, for the types that use one, once with an importance matrix, which is computed here from --calibration (named "+i" in
the table). Types whose blocks do not fit the model's rows fall back to others in parts, or are left out; bytes are the file's.

What is measured, for each file, by the engine it was made for, on the same tokens:
    KL           mean of KL(source || file) over the scored positions, in nats; and its 99th percentile
    top-1        how often the most likely token is the source's
    perplexity   and in the head of the table that of the source
Tokens and chunks are those of `precis eval`: the first N tokens of the text, windows of min(512, what the model was made
for), the start token in every chunk, every position but the first scored. That both sides scored as many is checked.

The reference is one for both sides: logits of `precis --exact` on the source, which is the source's numbers computed with
32-bit activations and keys. That it does not favour its own side is shown in the table: the row F32 is the peer's own 32-bit run
of the source against that reference. The row "source" is the peer's ordinary run of the source: what its arithmetic costs alone.

--weights also runs the peer's files in `precis --exact`: what the file costs alone, without the 8-bit activations of
either engine.

Results are kept as JSON in --work, and what is there is not measured again; --again does. Markdown goes to stdout.
"""

import argparse
import array
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer"))

from common import PEERS, ROOT, peer_python, run_json, say, table  # noqa: E402

MEASURE = os.path.join(ROOT, "bench", "peer", "llama_quality.py")
TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M", "Q2_K"]
PLAIN_ONLY = {"F32", "F16", "Q8_0"}  # the peer ignores an importance matrix here
WINDOW = 512
PEER = "llama.cpp"
QUIET = dict(os.environ, OMP_WAIT_POLICY="passive")  # nothing is timed, so the peer's threads need not spin


# ---- precis ----------------------------------------------------------------------------------------------------------


def overhead(args):
    """Bytes of a file that are no weights: metadata, vocabulary, padding. Added to what precis reports, which is weights."""
    tensors = run_json([args.precis, "show", "--tensors", "--json", args.source])["tensors"]
    return os.path.getsize(args.source) - sum(t["bytes"] for t in tensors)


def precis_rows(args, text):
    """What `precis eval --levels` says of the packed file: the one place that knows its flags and fields."""
    command = [args.precis, "eval", args.packed, "--levels", "--reference", args.source, "--reference-exact", "--text", text,
               "--tokens", str(args.tokens), "-t", str(args.threads), "--json"]
    got = run_json(command + (["--budgets", args.budgets] if args.budgets else []))
    return [{"name": "precis " + one.get("name", f"{one['bits_per_weight']:.2f} bits"), "bytes": one["weight_bytes"] + overhead(args),
             "kl_mean": one["kl_mean"], "kl_99": one["kl_99"], "top1_agreement": one["top1_agreement"],
             "perplexity": one["perplexity"], "scored": got["scored"]} for one in got["rows"]]


def precis_weights(args, text, path):
    """KL of a peer's file with precis' 32-bit activations."""
    got = run_json([args.precis, "eval", path, "--exact", "--reference", args.source, "--reference-exact", "--text", text,
                    "--tokens", str(args.tokens), "-t", str(args.threads), "--json"])
    return {"weights_kl": got["kl_mean"], "weights_scored": got["scored"]}


def tokens_of(args, *rest):
    return run_json([args.precis, "tokenize", args.source, *rest, "--no-special", "--json"])["ids"]


def write_chunks(args, text, n_tokens, path):
    """The chunks of `precis eval`, as the peer's side reads them; how many positions they score."""
    window = min(WINDOW, run_json([args.precis, "show", args.source, "--json"])["context_train"])
    start, ids = tokens_of(args, "", "--bos"), tokens_of(args, "--file", text)[:n_tokens]
    step, out, scored = window - len(start), array.array("i"), 0
    for at in range(0, len(ids), step):
        chunk = start + ids[at:at + step]
        if len(chunk) > 1:
            out.extend([len(chunk), *chunk])
            scored += len(chunk) - 1
    with open(path, "wb") as f:
        f.write(out.tobytes())
    return scored


# ---- the peer --------------------------------------------------------------------------------------------------------


def peer_command(args, *rest):
    return [args.python, MEASURE, "--module", PEERS[PEER][1], "-t", str(args.threads), *rest]


def peer_files(args):
    """The peer's files of the source, made where they are missing: [(name, path)]."""
    out = [("source", args.source)]
    matrix = os.path.join(args.folder, "imatrix.npz")
    if args.calibration and not PLAIN_ONLY.issuperset(args.types) and not os.path.exists(matrix):
        say(f"importance matrix of {args.calibration_tokens} tokens of {args.calibration}")
        chunks = os.path.join(args.folder, "calibration.chunks")
        write_chunks(args, args.calibration, args.calibration_tokens, chunks)
        subprocess.run(peer_command(args, "imatrix", args.source, chunks, matrix), check=True, env=QUIET)
    for kind in ["F32"] + args.types:
        for suffix, more in (("", []), ("+i", ["--imatrix", matrix])):
            if suffix and (not args.calibration or kind in PLAIN_ONLY):
                continue
            path = os.path.join(args.folder, f"{kind}{suffix}.gguf")
            if not os.path.exists(path):
                say(f"making {kind}{suffix}")
                done = subprocess.run(peer_command(args, "make", args.source, kind, path + ".part", *more),
                                      env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                if done.returncode != 0:
                    say(f"  left out: {done.stderr.strip()[-300:]}")
                    continue
                os.rename(path + ".part", path)
            out.append((kind + suffix, path))
    return out


def peer_rows(args, text, scored):
    """(perplexity of the reference, rows), from the file of an earlier run where there is one."""
    label = os.path.splitext(os.path.basename(text))[0]
    path = os.path.join(args.folder, f"peer-{label}-{args.tokens}.json")
    if args.again or not os.path.exists(path):
        files = peer_files(args)
        chunks = os.path.join(args.folder, f"{label}-{args.tokens}.chunks")
        write_chunks(args, text, args.tokens, chunks)
        say(f"{label}: {len(files)} files of the peer")
        done = subprocess.run(peer_command(args, "measure", args.source, chunks, "--logits", args.logits,
                                           *(p for _, p in files)), env=QUIET, stdout=subprocess.PIPE, text=True, check=True)
        got = json.loads(done.stdout)
        for (name, _), one in zip(files, got["files"]):
            one["name"] = name
        save(path, got)
    with open(path) as f:
        got = json.load(f)
    for one in got["files"]:
        if args.weights and "weights_kl" not in one and one["name"] not in ("source", "F32"):
            say(f"{label}: {one['name']} with 32-bit activations")
            one.update(precis_weights(args, text, one["path"]))
            save(path, got)
    for one in got["files"]:
        if one["scored"] != scored or one.get("weights_scored", scored) != scored:
            raise SystemExit(f"{path}: {one['name']} was scored on other tokens")
    return got["reference_perplexity"], got["files"]


def save(path, what):
    with open(path + ".part", "w") as f:
        json.dump(what, f, indent=1)
    os.rename(path + ".part", path)


# ---- the report ------------------------------------------------------------------------------------------------------


def number(x):
    return f"{x:.3g}" if x >= 1e-4 else f"{x:.2e}"


def row(one):
    mine = one["name"].startswith("precis")
    cells = [f"{one['bytes']:,}", f"**{one['name']}**" if mine else one["name"], number(one["kl_mean"]), number(one["kl_99"]),
             f"{100 * one['top1_agreement']:.1f}%", f"{one['perplexity']:.3f}"]
    return cells, number(one["weights_kl"]) if "weights_kl" in one else ""


def merged(rows):
    """Files that are the same weights under several names (types fell back to others) as one row."""
    out = {}
    for one in rows:
        same = out.setdefault((one["bytes"], one["kl_mean"], one["kl_99"]), dict(one, name=""))
        same["name"] += (", " if same["name"] else "") + one["name"]
    return out.values()


def report(args, text):
    chunks = os.path.join(args.folder, "check.chunks")
    scored = write_chunks(args, text, args.tokens, chunks)
    os.unlink(chunks)
    perplexity, rows = peer_rows(args, text, scored)
    if args.packed:
        mine = precis_rows(args, text)
        if any(one["scored"] != scored for one in mine):
            raise SystemExit("precis scored other tokens than the peer")
        rows = rows + mine
    print(f"{os.path.basename(args.source)}, {args.tokens} tokens of {os.path.basename(text)}, {scored} scored; "
          f"source: perplexity {perplexity:.3f}\n")
    head = ["bytes", "what", "KL, nats", "99%", "top-1", "perplexity"] + (["KL, 32-bit activations"] if args.weights else [])
    lines = [cells + ([weights] if args.weights else []) for cells, weights in
             (row(one) for one in sorted(merged(rows), key=lambda one: (one["bytes"], one["name"])))]
    print(table(head, lines) + "\n", flush=True)


def options():
    data = os.path.join(os.path.dirname(ROOT), "shared", "data", "text")
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("source", help="the model all are made from, a GGUF file")
    ap.add_argument("--packed", help="the same model after `precis pack`; without it only the peer is measured")
    ap.add_argument("--budgets", help="bytes of weights between the levels, as `precis eval --budgets` takes them")
    ap.add_argument("--text", action="append", help="a text, may be repeated (wikitext2-valid and tinystories-valid)")
    ap.add_argument("--tokens", type=int, default=16384, help="of each text, from its start (16384)")
    ap.add_argument("--types", default=",".join(TYPES), help="of the peer: " + ",".join(TYPES))
    ap.add_argument("--calibration", default=os.path.join(data, "shakespeare.txt"), help="text of the importance matrix; "
                    "\"\": none. Give the one that the model was packed with")
    ap.add_argument("--calibration-tokens", type=int, default=32768, help="(32768)")
    ap.add_argument("--weights", action="store_true", help="also the peer's files with 32-bit activations")
    ap.add_argument("--again", action="store_true", help="measure what was measured before")
    ap.add_argument("--precis", default=os.path.join(ROOT, "build", "release", "precis"), help="the program")
    ap.add_argument("--logits", default=os.path.join(ROOT, "build", "release", "bench", "logits"), help="of `make bench`")
    ap.add_argument("--work", default=os.path.join(ROOT, "build", "bench"), help="folder for environments, files, results")
    ap.add_argument("--peer-python", help="a Python that has the peer's binding and numpy, instead of building one")
    ap.add_argument("-t", "--threads", type=int, default=2)
    args = ap.parse_args()
    args.text = args.text or [os.path.join(data, name) for name in ("wikitext2-valid.txt", "tinystories-valid.txt")]
    args.types = args.types.split(",") if args.types else []
    for program, made in ((args.precis, "make"), (args.logits, "make bench")):
        if not (os.path.exists(program) or shutil.which(program)):
            ap.error(f"{program}: not there; run {made} first")
    args.folder = os.path.join(args.work, "quality", os.path.splitext(os.path.basename(args.source))[0])
    os.makedirs(args.folder, exist_ok=True)
    return args


def main():
    args = options()
    args.python = peer_python(args, PEER)
    for text in args.text:
        report(args, text)


if __name__ == "__main__":
    main()
