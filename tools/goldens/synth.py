"""The tiny models of test/support/synth_model.c, made again in numpy.

The two programs share nothing but the rule for a weight (synth_model.h states it) and the table of variants, which is
written out twice on purpose: a difference between the tables shows as a failing golden.
"""

import numpy as np

DEFAULTS = dict(
    mistral=False, dim=64, n_layers=2, n_heads=4, n_kv_heads=0, head_dim=0, n_ff=160, n_vocab=288, window=0, eps=1e-5,
    theta=1e4, tied=False, attn_bias=False, mlp_bias=False, embed_shift=6, rope=None,
)

VARIANTS = [
    dict(name="llama2"),
    dict(name="gqa", n_kv_heads=2),
    dict(name="mqa", n_heads=8, n_kv_heads=1),
    dict(name="tied", n_kv_heads=2, tied=True),
    dict(name="head-dim", n_kv_heads=2, head_dim=24),
    dict(name="bias", n_kv_heads=2, attn_bias=True, mlp_bias=True),
    dict(name="odd-sizes", dim=72, n_layers=3, n_heads=6, n_kv_heads=3, n_ff=172, n_vocab=293),
    dict(name="rms-eps", n_kv_heads=2, eps=1e-6, embed_shift=16),
    dict(name="rope-theta", n_kv_heads=2, theta=5e5),
    dict(name="rope-linear", n_kv_heads=2, rope=dict(rope_type="linear", factor=4.0)),
    dict(name="rope-llama3", n_kv_heads=2,
         rope=dict(rope_type="llama3", factor=8.0, original_max_position_embeddings=32, low_freq_factor=1.0,
                   high_freq_factor=4.0)),
    dict(name="rope-yarn", n_kv_heads=2, rope=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
    dict(name="rope-yarn-tuned", n_kv_heads=2,
         rope=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=256, beta_slow=2.0, beta_fast=8.0,
                   attention_factor=0.8)),
    dict(name="rope-parameters", n_kv_heads=2, theta=5e5, tied=True,
         rope=dict(rope_type="llama3", factor=32.0, original_max_position_embeddings=64, low_freq_factor=1.0,
                   high_freq_factor=4.0)),
    dict(name="mistral", mistral=True, n_kv_heads=2, theta=1e6),
    dict(name="mistral-window", mistral=True, n_kv_heads=2, window=16),
]


def full_spec(variant):
    s = {**DEFAULTS, **variant}
    s["n_kv_heads"] = s["n_kv_heads"] or s["n_heads"]
    s["head_dim"] = s["head_dim"] or s["dim"] // s["n_heads"]
    return s


def ints(name, n):
    """n integers in -127..127, a function of the tensor's name."""
    mask = (1 << 64) - 1
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & mask
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(32)) % np.uint64(255)).astype(np.int64) - 127


def scaled(name, shape, shift):
    k = ints(name, int(np.prod(shape))).reshape(shape)
    return np.ldexp(k.astype(np.float32), -shift)


def norm(name, n):
    return ((96 + (ints(name, n) + 128) // 4) / 128.0).astype(np.float32)


def weights(s):
    """Every tensor by its transformers name."""
    n_q, n_kv = s["n_heads"] * s["head_dim"], s["n_kv_heads"] * s["head_dim"]
    linears = [("self_attn.q_proj", n_q, s["dim"], s["attn_bias"]), ("self_attn.k_proj", n_kv, s["dim"], s["attn_bias"]),
               ("self_attn.v_proj", n_kv, s["dim"], s["attn_bias"]), ("self_attn.o_proj", s["dim"], n_q, s["attn_bias"]),
               ("mlp.gate_proj", s["n_ff"], s["dim"], s["mlp_bias"]), ("mlp.up_proj", s["n_ff"], s["dim"], s["mlp_bias"]),
               ("mlp.down_proj", s["dim"], s["n_ff"], s["mlp_bias"])]
    out = {}
    name = "model.embed_tokens.weight"
    out[name] = scaled(name, (s["n_vocab"], s["dim"]), s["embed_shift"])
    for i in range(s["n_layers"]):
        for part in ("input_layernorm", "post_attention_layernorm"):
            name = f"model.layers.{i}.{part}.weight"
            out[name] = norm(name, s["dim"])
        for part, rows, cols, bias in linears:
            name = f"model.layers.{i}.{part}.weight"
            out[name] = scaled(name, (rows, cols), 9)
            if bias:
                name = f"model.layers.{i}.{part}.bias"
                out[name] = scaled(name, (rows,), 8)
    out["model.norm.weight"] = norm("model.norm.weight", s["dim"])
    if not s["tied"]:
        out["lm_head.weight"] = scaled("lm_head.weight", (s["n_vocab"], s["dim"]), 8)
    return out


def config(s):
    """The transformers configuration of a variant."""
    from transformers import LlamaConfig, MistralConfig
    common = dict(
        hidden_size=s["dim"], num_hidden_layers=s["n_layers"], num_attention_heads=s["n_heads"],
        num_key_value_heads=s["n_kv_heads"], head_dim=s["head_dim"], intermediate_size=s["n_ff"], vocab_size=s["n_vocab"],
        max_position_embeddings=256, rms_norm_eps=s["eps"], tie_word_embeddings=s["tied"],
        rope_parameters={"rope_type": "default", "rope_theta": s["theta"], **(s["rope"] or {})},
    )
    if s["mistral"]:
        return MistralConfig(**common, sliding_window=s["window"] or None)
    return LlamaConfig(**common, attention_bias=s["attn_bias"], mlp_bias=s["mlp_bias"])
