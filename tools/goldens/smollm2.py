#!/usr/bin/env python3
"""Write the goldens of the default model, SmolLM2-135M-Instruct Q4_1, as `transformers` computes it in fp32.

    python tools/goldens/smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf [--text ../shared/data/text/wikitext2-valid.txt]

The weights are those of the GGUF file, dequantized to fp32, so that only the arithmetic is compared. Three files appear in
test/goldens/logits/:

smollm2-greedy.txt      ten chats: the user's text, the prompt's ids (chat template of the file, rendered by Jinja), 64
                        greedy tokens (going on past the end token), and at each step the gap between the two best logits:
                        where it is tiny another order of summation may rightly choose otherwise.
smollm2.txt             logits at a few positions of the start of the text (format: logits.py).
smollm2-perplexity.txt  perplexity of the first 16384 tokens of the text: windows of 512 tokens, each from an empty
                        context, every token of a window scored but its first; no BOS (the model adds none);
                        exp(mean negative log-likelihood) over 32 * 511 tokens. With it each window's mean and a hash
                        of the ids (FNV-1a 64 over little-endian 32-bit ids), to tell a tokenizer fault from an
                        arithmetic one.
"""

import argparse
import os
import sys

import numpy as np
import torch

import logits as golden
import reference

N_GREEDY = 64
N_TOKENS = 16384
WINDOW = 512

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three uses of a paper clip.",
    "What is 17 times 23?",
    "Translate 'good morning' into Spanish, German and Japanese.",
    "Write a C function that adds two integers.",
    "Who wrote \u201cPride and Prejudice\u201d, and when?",
    "Tell me a story about a clockmaker who lost 3 hours.",
    "caf\u00e9, na\u00efve, \u4f60\u597d \U0001f642: what do these have in common?",
]


def gguf_tokenizer(fields):
    """The file's byte-level BPE, built with the tokenizers package: digits apart, then GPT-2's pattern."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    assert fields["tokenizer.ggml.pre"] == "smollm"
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == 3]
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    assert tok.get_vocab_size() == len(tokens)
    return tok


def render_chat(template, user):
    import jinja2
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return env.from_string(template).render(messages=[{"role": "user", "content": user}], add_generation_prompt=True)


@torch.inference_mode()
def greedy(model, prompt):
    """The greedy tokens after prompt, and each one's lead over the runner-up."""
    ids, gaps, cache = [], [], None
    feed = torch.tensor([prompt])
    for _ in range(N_GREEDY):
        out = model(feed, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = torch.topk(out.logits[0, -1].float(), 2)
        ids.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        feed = best.indices[None, :1]
    return ids, gaps


@torch.inference_mode()
def window_nll(model, ids):
    """Mean negative log-likelihood of ids[1:] given what stands before each."""
    result = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double()
    logp = torch.log_softmax(result, -1)
    return float(-logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean())


def fnv_ids(ids):
    h = 0xCBF29CE484222325
    for byte in np.asarray(ids, dtype="<i4").tobytes():
        h = ((h ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return h


def header(f):
    f.write(f"# SmolLM2-135M-Instruct.Q4_1.gguf dequantized to fp32\n# by tools/goldens/smollm2.py: {reference.versions()}\n")


def write_greedy(model, tok, template):
    with open(os.path.join(golden.OUT, "smollm2-greedy.txt"), "w") as f:
        header(f)
        for user in PROMPTS:
            prompt = tok.encode(render_chat(template, user), add_special_tokens=False).ids
            ids, gaps = greedy(model, prompt)
            f.write(f"user {user}\ntokens {len(prompt)}\n" + golden.wrapped(prompt, "%d"))
            f.write(f"greedy {len(ids)}\n" + golden.wrapped(ids, "%d"))
            f.write(f"gaps {len(gaps)}\n" + golden.wrapped(gaps, "%.5g"))
            print(f"{user}\n  -> {tok.decode(ids)!r}, smallest gap {min(gaps):.2g}", file=sys.stderr)


def write_perplexity(model, ids):
    means = [window_nll(model, ids[i:i + WINDOW]) for i in range(0, N_TOKENS, WINDOW)]
    value = float(np.exp(np.mean(means)))
    with open(os.path.join(golden.OUT, "smollm2-perplexity.txt"), "w") as f:
        header(f)
        f.write(f"tokens {N_TOKENS}\nwindow {WINDOW}\nids_fnv1a {fnv_ids(ids):016x}\nperplexity {value:.9g}\n")
        f.write(f"window_nll {len(means)}\n" + golden.wrapped(means, "%.9g"))
    print(f"perplexity {value:.6f}", file=sys.stderr)


def main():
    import gguf
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    ap.add_argument("--text", default="../shared/data/text/wikitext2-valid.txt")
    args = ap.parse_args()
    fields = {name: f.contents() for name, f in gguf.GGUFReader(args.model).fields.items() if name.startswith("tokenizer.")}
    tok = gguf_tokenizer(fields)
    model = reference.from_gguf(args.model)
    write_greedy(model, tok, fields["tokenizer.chat_template"])
    with open(args.text, encoding="utf-8", newline="") as f:
        ids = tok.encode(f.read(), add_special_tokens=False).ids[:N_TOKENS]
    golden.write_golden("smollm2", "SmolLM2-135M-Instruct Q4_1, the first 80 tokens of wikitext2-valid.txt", ids[:80],
                        reference.logits(model, ids[:80]), [0, 31, 32, 79], 499)
    write_perplexity(model, ids)


if __name__ == "__main__":
    main()
