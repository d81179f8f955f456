#!/usr/bin/env python3
"""Golden tokenizations of tokenizer.json pipelines: test/goldens/tokenizers/NAME.json.

The `tokenizers` package (PyPI) is the oracle. For each pipeline a tiny
vocabulary is trained, and a few hard texts are encoded with it. A file holds
{"tokenizer": the tokenizer.json, "texts": [...], "ids": [[...], ...]}.

    python3 tools/goldens/pipelines.py TRAINING_TEXT
"""
import json
import os
import sys

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers as pre, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "test", "goldens", "tokenizers")
MARK = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEXTS = ["Once upon a time, there was a little girl.", "", "don't I'LL we've 12345 6.789 1,234,567",
         "Caf\u00e9 na\u00efve \u5317\u4eac\u5927\u5b66 \u3053\u3093\u306b\u3061\u306f \U0001f680", "a  b   c \t tabs\u00a0nbsp\n\n  two\r\n",
         "x=foo(bar[1],\"q\"); C++ ** !!! ...   end   ", "e\u0301 \u0939\u093f\u0928\u094d\u0926\u0940 \ufb01 \u200bzero"]


def byte_level(regex=True):
    return pre.ByteLevel(add_prefix_space=False, use_regex=regex)


def split(pattern, behavior, invert=False):
    return pre.Split(Regex(pattern), behavior, invert)


PIPELINES = {
    "gpt2": (None, byte_level()),
    "llama3": (None, pre.Sequence([split(LLAMA3, "isolated"), byte_level(False)])),
    "removed": (None, pre.Sequence([split(LLAMA3, "removed", True), byte_level(False)])),
    "deepseek": (None, pre.Sequence([split(r"[\r\n]", "isolated"), split(r"\s?\p{L}+", "isolated"), split(r"\s?\p{P}+", "isolated"),
                                     split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "isolated"), pre.Digits(True), byte_level(False)])),
    "falcon": (None, pre.Sequence([pre.Punctuation("contiguous"), byte_level(), pre.Digits(False), split("[0-9][0-9][0-9]", "isolated")])),
    "strings": (None, pre.Sequence([pre.Split("s", "contiguous"), pre.Split(".", "isolated"), byte_level()])),
    "whole": (None, byte_level(False)),
    "prepend": (normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]), None),
    "gemma": (normalizers.Replace(" ", MARK), pre.Split(" ", "merged_with_previous")),
    "metaspace": (None, pre.Metaspace(MARK, "first")),
}


def train(normalizer, pre_tokenizer, text):
    spm = "Metaspace" in str(pre_tokenizer) or MARK in str(normalizer)
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True) if spm else models.BPE())
    if normalizer:
        t.normalizer = normalizer
    if pre_tokenizer:
        t.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=220 if spm else 400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
                                  initial_alphabet=[] if spm else pre.ByteLevel.alphabet(), **({"limit_alphabet": 60} if spm else {}))
    t.train_from_iterator(text.split("\n"), trainer)
    j = json.loads(t.to_str())
    if spm:
        for i in range(256):
            j["model"]["vocab"]["<0x%02X>" % i] = len(j["model"]["vocab"])
        j["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return j


def main():
    text = open(sys.argv[1], encoding="utf-8").read()[:100000]
    os.makedirs(OUT, exist_ok=True)
    for name, (normalizer, pre_tokenizer) in PIPELINES.items():
        j = train(normalizer, pre_tokenizer, text)
        t = Tokenizer.from_str(json.dumps(j))
        golden = {"tokenizer": j, "texts": TEXTS, "ids": [t.encode(x).ids for x in TEXTS]}
        with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as out:
            json.dump(golden, out, ensure_ascii=False, separators=(",", ":"))
            out.write("\n")


main()
