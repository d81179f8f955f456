#!/usr/bin/env python3
"""The experiments of docs/ELASTIC-EXPERIMENTS.md; each prints a table.

    python tools/elastic/experiments.py lam|variants|residual|mix [--data ../shared/data] [--model prose-6m] [--chunks 12]
    python tools/elastic/experiments.py peers FILE.gguf ... [--chunks 40]

lam       lambda sweep and the controls, matrices of the layers only (the embedding stays at the source's precision)
variants  one thing changed at a time
residual  ways to spend p8
mix       greedy list of plane increments against uniform levels, whole model
peers     KL of GGUF files of any type made from the same source
"""

import argparse
import copy
import time

import numpy as np

import models
import nested
from nested import Options

BODY = dict(lam=0.95, damp=0.1, rot=64)
EMBED = dict(lam=0.95, damp=3.0)
PLAIN = dict(lam=0.95, damp=0.01, rot=0)      # base of the tables lam and variants
BLOCK = 512      # rows of the embedding in one unit of the increment list


def options(name, **changes):
    """name: "embed", "plain", "residual" (base of those tables), anything else is a matrix of the layers."""
    base = {"embed": EMBED, "plain": PLAIN, "residual": dict(PLAIN, damp=0.3)}.get(name, BODY)
    return Options(**{**base, **changes})


def encode_body(b, h, o):
    return {k: nested.encode(w, h[k], o) for k, w in b.w.items() if k != "embed"}


def row(b, label, enc, key, levels=(2, 4, 8, 16)):
    size = sum(b.w[k].size for k in enc)
    out = []
    for level in levels:
        kl, _, _ = b.measure({k: e.w[level] for k, e in enc.items()}, key)
        out.append(f"{kl:.3g}")
    snr = [f"{np.mean([e.q['snr'][l] for e in enc.values()]):.1f}" for l in levels]
    bits = [f"{sum(e.bits[l] * b.w[k].size for k, e in enc.items()) / size:.2f}" for l in levels]
    print(f"| {label} | " + " | ".join(out) + " | " + " / ".join(snr) + " | " + " / ".join(bits) + " |", flush=True)


def lam(b, h):
    for v in (0.95, 1.0, 0.0, 0.9, 0.8, 0.98, 0.5, 0.3):
        row(b, f"lambda {v}", encode_body(b, h, options("plain", lam=v)), "test")
    row(b, "nested round-to-nearest", encode_body(b, h, options("plain", feedback=False)), "test")
    row(b, "uniform slicing, nearest", encode_body(b, h, options("plain", feedback=False, uniform=True)), "test")
    row(b, "uniform slicing, feedback", encode_body(b, h, options("plain", uniform=True)), "test")


def variants(b, h):
    for label, change in (("as it is", {}), ("rotation 32", dict(rot=32)), ("rotation 128", dict(rot=128)), ("grids 32", dict(grid2=32, grid4=32)),
                          ("grids 16", dict(grid2=16, grid4=16)), ("grids real", dict(grid2=0, grid4=0)), ("no polish", dict(polish=0)),
                          ("no refit", dict(refit=False)), ("group 64", dict(group=64)), ("group 16", dict(group=16)), ("activation order", dict(order="act")),
                          ("scale search unweighted", dict(weighted=False)), ("polish 4", dict(polish=4)), ("scales real", dict(u8=False)),
                          ("rotation 64", dict(rot=64)), ("damp 0.1", dict(damp=0.1)), ("damp 1", dict(damp=1.0))):
        row(b, label, encode_body(b, h, options("plain", **change)), "test", (2, 4, 8))


def residual(b, h):
    base = encode_body(b, h, options("residual"))
    for p8, grid, feedback in (("cell", 8, True), ("cell", 8, False), ("cell", 4, True), ("cell", 0, True), ("group", 8, True), ("free", 8, True)):
        enc = copy.deepcopy(base)
        for k, e in enc.items():
            o = options("residual", p8=p8, grid8=grid, p8_feedback=feedback)
            hk = h[k] / np.diag(h[k]).mean() + o.damp * np.eye(len(h[k]), dtype=np.float32)
            nested.residual(b.w[k], hk, nested.inverse_factor(hk), e, o)
            e.q["snr"] = {l: float(10 * np.log10((b.w[k] ** 2).sum() / ((e.w[l] - b.w[k]) ** 2).sum())) for l in e.w}
            if p8 == "free":
                e.bits[8], e.bits[16] = e.bits[8] - 8 / o.group, e.bits[16] - 8 / o.group
        row(b, f"{p8}, steps up to {grid or 'real'}, {'feedback' if feedback else 'nearest'}", enc, "test", (4, 8, 16))


class Units:
    """What may stand at a level of its own: each matrix, and blocks of rows of the embedding."""

    def __init__(self, b, enc):
        self.b, self.enc = b, enc
        self.units = [(k, 0, len(w)) for k, w in b.w.items() if k != "embed"]
        self.units += [("embed", r, r + BLOCK) for r in range(0, len(b.w["embed"]), BLOCK)]

    def size(self, u):
        return (u[2] - u[1]) * self.b.w[u[0]].shape[1]

    def bits(self, levels):
        return sum(self.enc[u[0]].bits[l] * self.size(u) for u, l in zip(self.units, levels)) / self.b.count

    def weights(self, levels):
        """levels: one per unit, 0 for the source's own numbers."""
        out = {k: w.copy() for k, w in self.b.w.items()}
        for (k, r, e), l in zip(self.units, levels):
            if l:
                out[k][r:e] = self.enc[k].w[l][r:e]
        return out

    def error(self, u, h, level):
        d = self.enc[u[0]].w[level][u[1]:u[2]] - self.b.w[u[0]][u[1]:u[2]]
        hk = h[u[0]] / np.diag(h[u[0]]).mean()
        damp = EMBED["damp"] if u[0] == "embed" else 0.01
        return float(((d @ hk) * d).sum() + damp * (d * d).sum())

    def damage(self, h, key):
        """KL of each unit at each level, alone: measured at 2 and 4; at 8 and 16 the KL at 4 times the ratio of errors under H."""
        table = []
        for i, u in enumerate(self.units):
            kl = {}
            for l in (2, 4):
                kl[l] = max(self.b.measure(self.weights([l if j == i else 0 for j in range(len(self.units))]), key)[0], 1e-9)
            e4 = self.error(u, h, 4)
            kl.update({l: kl[4] * self.error(u, h, l) / e4 for l in (8, 16)})
            table.append(kl)
            print("unit", u, {l: f"{v:.3g}" for l, v in kl.items()}, flush=True)
        return table

    def greedy(self, table):
        """All increments, best KL per bit first; a unit's own increments in their order (joined when the later one is the better)."""
        order, levels = [], [2] * len(self.units)
        while True:
            best = None
            for i, u in enumerate(self.units):
                for l in (4, 8, 16):
                    if l > levels[i]:
                        cost = (self.enc[u[0]].bits[l] - self.enc[u[0]].bits[levels[i]]) * self.size(u)
                        gain = (table[i][levels[i]] - table[i][l]) / cost
                        if best is None or gain > best[0]:
                            best = (gain, i, l)
            if best is None:
                return order
            order.append(best[1:])
            levels[best[1]] = best[2]

    def at(self, order, budget):
        levels = [2] * len(self.units)
        for i, l in order:
            trial = levels[:i] + [l] + levels[i + 1:]
            if self.bits(trial) > budget:
                break
            levels = trial
        return levels


def mix(b, h, budgets):
    b.add_slice("order", models.CALIBRATION[b.name], 100, 3)
    u = Units(b, {k: nested.encode(w, h[k], options(k)) for k, w in b.w.items()})
    for l in (2, 4, 8, 16):
        lv = [l] * len(u.units)
        kl, ppl, top = b.measure(u.weights(lv), "test")
        print(f"| uniform {l} | {u.bits(lv):.3f} | {kl:.3g} | {ppl:.2f} | {top:.2f} |", flush=True)
    order = u.greedy(u.damage(h, "order"))
    plain = [(i, l) for l in (4, 8, 16) for i in range(len(u.units))]
    for budget in budgets:
        for label, o in (("increments", order), ("layers in order, embedding last", plain)):
            lv = u.at(o, budget)
            kl, ppl, top = b.measure(u.weights(lv), "test")
            print(f"| {label} {budget} | {u.bits(lv):.3f} | {kl:.3g} | {ppl:.2f} | {top:.2f} |", flush=True)


def peers(b, files):
    for path in files:
        other = models.reference.from_gguf(path).float().eval()
        own = dict(other.named_modules())
        w = {k: own["lm_head" if k == "embed" else k].weight.detach().numpy() for k in b.w}
        kl, ppl, top = b.measure(w, "test")
        print(f"| {path.split('/')[-1]} | {kl:.3g} | {ppl:.2f} | {top:.2f} |", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["lam", "variants", "residual", "mix", "peers"])
    ap.add_argument("files", nargs="*")
    ap.add_argument("--data", default="../shared/data")
    ap.add_argument("--model", default="prose-6m", choices=list(models.MODELS))
    ap.add_argument("--text", default="tinystories-valid.txt", help="the text that is measured")
    ap.add_argument("--chunks", type=int, default=12)
    ap.add_argument("--budgets", default="2.35,2.7,3.5,3.58,4.35,4.5,4.87,6,6.55,8.5")
    args = ap.parse_args()
    start = time.time()
    b = models.Bench(args.data, args.model)
    b.add_slice("test", args.text, 0 if args.model == "prose-6m" else 600, args.chunks)
    if args.what == "peers":
        peers(b, args.files)
    else:
        h = b.grams(models.CALIBRATION[args.model], 0, 64)
        if args.what == "mix":
            mix(b, h, [float(x) for x in args.budgets.split(",")])
        else:
            {"lam": lam, "variants": variants, "residual": residual}[args.what](b, h)
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
