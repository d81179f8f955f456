"""The nested encoder: one matrix W[rows, cols] and the Gram matrix H of its inputs become planes p2, p4, p8, p16.

    level 2    w2  = s2[r,g] * c2[code >> 2]                 2 bits + u8 scale of a group + f16 scale of a row
    level 4    w4  = s4[r,g] * c4[code]                      + 2 bits + u8 scale
    level 8    w8  = w4 + s8[r,g] * d8[code] * q8            + 4 bits + u8 scale, q8 in -8..7
    level 16   w16 = w8 + s8[r,g] * d8[code] * k16 * q16     + 8 bits, q16 in -127..127

code is 0..15, its upper two bits the 2-bit cell. s* = row scale (f16, one a row, shared by the levels) * u8 * constant of
the tensor and level. Only numpy; docs/ELASTIC-EXPERIMENTS.md has the formulas and what was learned.
Usage: python tools/elastic/nested.py    (a check on random weights: errors in dB of each level)
"""

from dataclasses import dataclass, field

import numpy as np

C2 = np.array([-1.557, -0.475, 0.475, 1.557])
HALF4 = np.array([0.12, 0.37, 0.63, 0.89, 1.2, 1.57, 2.03, 2.7])
C4 = np.concatenate([-HALF4[::-1], HALF4])


@dataclass
class Options:
    lam: float = 0.8          # weight of the 4-bit error in the choice of a code; 0: dedicated 2-bit, 1: dedicated 4-bit
    group: int = 32
    feedback: bool = True     # error feedback; otherwise round to nearest
    polish: int = 2           # rounds of (refit scales and codebooks, coordinate descent over the codes)
    refit: bool = True        # refit scales and codebooks by least squares under H
    grid2: int = 64           # largest magnitude of the integer codebook; 0: real numbers
    grid4: int = 64
    grid8: int = 8
    damp: float = 0.01
    order: str = "plain"      # or "act": columns of large H[j,j] first
    weighted: bool = True     # first scale search weighted by diag(H)
    uniform: bool = False     # control: equal steps and plain bit slicing (no free codebook)
    rot: int = 0              # block Hadamard rotation along the columns
    p8: str = "cell"          # step of the residual: "cell" (s8 * d8[code]), "group" (s8), "free" (d8[code] * s4, no s8)
    p8_feedback: bool = True
    u8: bool = True


@dataclass
class Encoded:
    code: np.ndarray
    s2: np.ndarray
    s4: np.ndarray
    c2: np.ndarray
    c4: np.ndarray
    opt: Options
    w: dict = field(default_factory=dict)      # level -> decoded weights
    bits: dict = field(default_factory=dict)   # level -> bits a weight, everything counted
    q: dict = field(default_factory=dict)


def hadamard(n):
    h = np.ones((1, 1))
    while h.shape[0] < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n)


def rotate(x, n):
    """x Q for Q = diag(Hadamard_n, ...) along the last axis; Q is symmetric and its own inverse."""
    return (x.reshape(*x.shape[:-1], -1, n) @ hadamard(n).astype(x.dtype)).reshape(x.shape)


def spread(s, opt, cols):
    return np.repeat(s, opt.group, axis=1)[:, :cols]


def to_u8(scales):
    """Round scales of all levels {name: [rows, groups]} to f16 row scale * u8 * constant of (tensor, level)."""
    norm = {k: np.quantile(v, 0.5) for k, v in scales.items()}
    top = np.max([(v / norm[k]).max(axis=1) for k, v in scales.items()], axis=0)
    row = np.float16(np.maximum(top, 1e-6) / 255).astype(np.float32)[:, None]
    return {k: (np.clip(np.round(v / norm[k] / row), 1, 255) * row * norm[k]).astype(np.float32) for k, v in scales.items()}


def search_scale(w, book, weight, opt, factors):
    """Scale of each group that minimises the weighted error of rounding to the nearest entry of the codebook."""
    rows, cols = w.shape
    wg, dg = w.reshape(rows, -1, opt.group), weight.reshape(1, -1, opt.group)
    sigma = np.sqrt((wg ** 2).mean(-1)) + 1e-12
    edges = (book[1:] + book[:-1]) / 2
    best, scale = np.full(sigma.shape, np.inf), sigma.copy()
    for f in factors:
        x = wg / (sigma * f)[..., None]
        err = (((x - book[np.searchsorted(edges, x)]) * (sigma * f)[..., None]) ** 2 * dg).sum(-1)
        better = err < best
        best, scale = np.where(better, err, best), np.where(better, sigma * f, scale)
    return scale.astype(np.float32)


def choose(t2, t4, s2, s4, c2, c4, lam):
    """The code of one column for all rows: minimises (1-lam)(t2 - s2 c2[i/4])^2 + lam (t4 - s4 c4[i])^2."""
    cost = np.zeros((len(t2), 4, 4), np.float32)
    if lam > 0:
        cost += lam * (t4[:, None, None] - s4[:, None, None] * c4.reshape(1, 4, 4)) ** 2
    if lam < 1:
        cost += ((1 - lam) * (t2[:, None] - s2[:, None] * c2) ** 2)[:, :, None]
        if lam == 0:
            cost += 1e-6 * (t4[:, None, None] - s4[:, None, None] * c4.reshape(1, 4, 4)) ** 2
    return cost.reshape(len(t2), 16).argmin(1).astype(np.uint8)


def inverse_factor(h):
    """Upper U with H^-1 = U^T U."""
    return np.linalg.cholesky(np.linalg.inv(h.astype(np.float64))).T.astype(np.float32)


def feedback_pass(w, u, s2, s4, c2, c4, lam, block=32):
    """GPTQ order with two error states: each column's error of either level moves that level's targets of later columns."""
    rows, cols = w.shape
    t2, t4, code = w.copy(), w.copy(), np.zeros(w.shape, np.uint8)
    for b in range(0, cols, block):
        e = min(b + block, cols)
        e2, e4 = np.zeros((rows, e - b), np.float32), np.zeros((rows, e - b), np.float32)
        for j in range(b, e):
            i = choose(t2[:, j], t4[:, j], s2[:, j], s4[:, j], c2, c4, lam)
            code[:, j] = i
            e2[:, j - b] = (t2[:, j] - s2[:, j] * c2[i >> 2]) / u[j, j]
            e4[:, j - b] = (t4[:, j] - s4[:, j] * c4[i]) / u[j, j]
            t2[:, j + 1:e] -= e2[:, j - b, None] * u[j, j + 1:e]
            t4[:, j + 1:e] -= e4[:, j - b, None] * u[j, j + 1:e]
        t2[:, e:] -= e2 @ u[b:e, e:]
        t4[:, e:] -= e4 @ u[b:e, e:]
    return code


def descent_pass(w, h, code, s2, s4, c2, c4, lam, block=32):
    """Coordinate descent: each column's codes chosen again, all other columns (earlier AND later) as they are."""
    d2, d4 = s2 * c2[code >> 2] - w, s4 * c4[code] - w
    for b in range(0, w.shape[1], block):
        e = min(b + block, w.shape[1])
        g2, g4 = d2 @ h[:, b:e], d4 @ h[:, b:e]
        for j in range(b, e):
            t2 = w[:, j] + d2[:, j] - g2[:, j - b] / h[j, j]
            t4 = w[:, j] + d4[:, j] - g4[:, j - b] / h[j, j]
            i = choose(t2, t4, s2[:, j], s4[:, j], c2, c4, lam)
            n2, n4 = s2[:, j] * c2[i >> 2] - w[:, j], s4[:, j] * c4[i] - w[:, j]
            g2 += (n2 - d2[:, j])[:, None] * h[j, b:e]
            g4 += (n4 - d4[:, j])[:, None] * h[j, b:e]
            d2[:, j], d4[:, j], code[:, j] = n2, n4, i
    return code


def refit_scales(w, h, v, old, opt):
    """Scales s of a row's groups, all together, that minimise (w - V s)^T H (w - V s); v: codebook values of the codes."""
    rows, cols = w.shape
    n = cols // opt.group
    wh = w @ h
    b = (wh * v).reshape(rows, n, opt.group).sum(-1)
    g = np.empty((rows, n, n), np.float32)
    for k in range(n):
        c = slice(k * opt.group, (k + 1) * opt.group)
        g[:, k] = ((v[:, c] @ h[c]) * v).reshape(rows, n, opt.group).sum(-1)
    ridge = 1e-4 * np.einsum("rkk->r", g)[:, None] / n + 1e-12
    g += ridge[:, :, None] * np.eye(n, dtype=np.float32)
    s = np.linalg.solve(g.astype(np.float64), (b + ridge * old)[..., None])[..., 0]
    return np.where((s > old * 0.3) & (s < old * 3), s, old).astype(np.float32)


def refit_book(w, h, code, s, book):
    """Codebook of the tensor that minimises the error under H with codes and scales as they are."""
    step = max(1, len(w) // 1024)
    w, code, s = w[::step], code[::step], s[::step]
    n = len(book)
    u = np.stack([(s * (code == k)).ravel() for k in range(n)])
    uh = np.stack([(x.reshape(w.shape) @ h).ravel() for x in u])
    a, b = (uh @ u.T).astype(np.float64), (uh @ w.ravel()).astype(np.float64)
    ridge = 1e-3 * np.diag(np.diag(a)) + 1e-9 * np.trace(a) * np.eye(n)
    return np.linalg.solve(a + ridge, b + ridge @ book).astype(np.float32)


def snap(book, grid):
    """The codebook as integers up to grid, and the factor taken out."""
    if not grid:
        return book.astype(np.float32), 1.0
    f = grid / np.abs(book).max()
    return np.round(book * f).astype(np.float32), 1 / f


def residual(w, h, u, enc, opt):
    """p8 and p16 over the codes: fills enc.w[8], enc.w[16]."""
    rows, cols = w.shape
    w4 = enc.w[4]
    s4 = spread(enc.s4, opt, cols)
    r = (w - w4) / s4
    if opt.p8 == "group":
        d8 = np.ones(16, np.float32)
    else:
        d8 = np.array([np.sqrt((r[enc.code == k] ** 2).mean()) if (enc.code == k).any() else 0 for k in range(16)])
        d8 = np.maximum(d8, d8.max() / 16)
        d8, _ = snap(d8, opt.grid8)
        d8 = np.maximum(d8, 1) if opt.grid8 else d8
    d = d8[enc.code].astype(np.float32)
    rms = np.sqrt((r ** 2).mean() / (d ** 2).mean())
    dg = np.diag(h).reshape(1, -1, opt.group)

    def error(s):
        step = spread(s, opt, cols) * d
        x = (w - w4) - step * np.clip(np.round((w - w4) / step), -8, 7)
        return (x.reshape(rows, -1, opt.group) ** 2 * dg).sum(-1)

    base = enc.s4 * rms / 4.0
    if opt.p8 == "free":
        errs = [error(base * f).sum() for f in np.linspace(0.6, 2.0, 15)]
        s8 = base * np.linspace(0.6, 2.0, 15)[int(np.argmin(errs))]
    else:
        factors = np.linspace(0.4, 2.4, 21)
        best = np.argmin([error(base * f) for f in factors], axis=0)
        s8 = to_u8({"s2": enc.s2, "s4": enc.s4, "s8": base * factors[best]})["s8"] if opt.u8 else base * factors[best]
    step = spread(s8, opt, cols) * d
    if opt.p8_feedback:
        q, t = np.zeros(w.shape, np.float32), w.copy()
        for j in range(cols):
            q[:, j] = np.clip(np.round((t[:, j] - w4[:, j]) / step[:, j]), -8, 7)
            err = (t[:, j] - w4[:, j] - q[:, j] * step[:, j]) / u[j, j]
            t[:, j + 1:] -= err[:, None] * u[j, j + 1:]
    else:
        q = np.clip(np.round((w - w4) / step), -8, 7)
    enc.w[8] = w4 + q * step
    rest = (w - enc.w[8]) / step
    k16 = np.abs(rest).max() / 127
    enc.w[16] = enc.w[8] + np.round(rest / k16) * k16 * step
    enc.q.update(s8=s8, d8=d8, q8=q, k16=k16, clipped=float((np.abs(rest) > 1.0).mean()), reach=float(np.abs(rest).max()))


def encode(w, h, opt=None):
    """w: [rows, cols] float32, h: [cols, cols]; cols a multiple of the group."""
    opt = opt or Options()
    w, h = w.astype(np.float32), h.astype(np.float32)
    rows, cols = w.shape
    if opt.rot:
        w = rotate(w, opt.rot)
        h = rotate(rotate(h, opt.rot).T, opt.rot)
    h = h / np.diag(h).mean() + opt.damp * np.eye(cols, dtype=np.float32)
    perm = np.arange(cols)
    if opt.order == "act":
        perm = np.argsort(-np.diag(h), kind="stable")
    c2, c4 = C2.astype(np.float32), C4.astype(np.float32)
    if opt.uniform:
        c4 = (np.arange(16) - 7.5).astype(np.float32) * 0.34
        c2 = c4.reshape(4, 4).mean(1)
    weight = np.diag(h) if opt.weighted else np.ones(cols, np.float32)
    s4 = search_scale(w, c4, weight, opt, np.linspace(0.65, 1.35, 15))
    s2 = s4.copy() if opt.uniform else search_scale(w, c2, weight, opt, np.linspace(0.65, 1.35, 15))
    lam, S = opt.lam, lambda s: spread(s, opt, cols)
    u = inverse_factor(h)
    if not opt.feedback:
        i4 = np.searchsorted((c4[1:] + c4[:-1]) / 2, w / S(s4)).astype(np.uint8)
        i2 = np.searchsorted((c2[1:] + c2[:-1]) / 2, w / S(s2)).astype(np.uint8)
        code = i4 if lam > 0 else i2 * 4
    elif opt.order == "act":
        code = np.empty(w.shape, np.uint8)
        code[:, perm] = feedback_pass(w[:, perm], inverse_factor(h[np.ix_(perm, perm)]), S(s2)[:, perm], S(s4)[:, perm], c2, c4, lam)
    else:
        code = feedback_pass(w, u, S(s2), S(s4), c2, c4, lam)
    for _ in range(opt.polish if opt.feedback else 0):
        if opt.refit:
            s2 = refit_scales(w, h, c2[code >> 2], s2, opt)
            s4 = refit_scales(w, h, c4[code], s4, opt)
            if not opt.uniform:
                c2 = refit_book(w, h, code >> 2, S(s2), c2)
                c4 = refit_book(w, h, code, S(s4), c4)
        code = descent_pass(w, h, code, S(s2), S(s4), c2, c4, lam)
    if not opt.uniform:
        c2, f2 = snap(c2, opt.grid2)
        c4, f4 = snap(c4, opt.grid4)
        s2, s4 = s2 * f2, s4 * f4
    for last in (False, True):
        if opt.refit:
            s2 = refit_scales(w, h, c2[code >> 2], s2, opt)
            s4 = refit_scales(w, h, c4[code], s4, opt)
        if opt.u8:
            s = to_u8({"s2": s2, "s4": s4})
            s2, s4 = s["s2"], s["s4"]
        if not last and opt.feedback and opt.polish:
            code = descent_pass(w, h, code, S(s2), S(s4), c2, c4, lam)
    enc = Encoded(code, s2, s4, c2, c4, opt)
    enc.w[2], enc.w[4] = S(s2) * c2[code >> 2], S(s4) * c4[code]
    residual(w, h, u, enc, opt)
    enc.q["err"] = {l: float((((enc.w[l] - w) @ h) * (enc.w[l] - w)).sum()) for l in enc.w}
    enc.q["snr"] = {l: float(10 * np.log10((w ** 2).sum() / max(((enc.w[l] - w) ** 2).sum(), 1e-30))) for l in enc.w}
    if opt.rot:
        enc.w = {l: rotate(x, opt.rot) for l, x in enc.w.items()}
    scale = 8 / opt.group
    table = 8 * 64 / (rows * cols)   # codebooks, constants: 64 bytes a tensor
    s8 = 0 if opt.p8 == "free" else scale
    b2 = 2 + scale + 16 / cols + table
    enc.bits = {2: b2, 4: b2 + 2 + scale, 8: b2 + 6 + scale + s8, 16: b2 + 14 + scale + s8}
    return enc


if __name__ == "__main__":
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4096, 256)) @ rng.normal(size=(256, 256)) * 0.1 + rng.normal(size=(4096, 256))
    weights = rng.normal(size=(512, 256)) * np.exp(0.3 * rng.normal(size=(512, 8))).repeat(32, axis=1)
    for name, o in (("nested", Options()), ("2 alone", Options(lam=0)), ("4 alone", Options(lam=1)), ("nearest", Options(feedback=False))):
        e = encode(weights, (x.T @ x), o)
        print(name, {l: round(v, 2) for l, v in e.q["snr"].items()}, {l: "%.4g" % v for l, v in e.q["err"].items()}, "reach %.2f" % e.q["reach"])
