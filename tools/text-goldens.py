#!/usr/bin/env python3
"""Writes test/goldens/text/{pretok,vocab}.txt: what other tokenizers make of odd texts.

The oracles are the Python packages tokenizers (Onigmo patterns, BPE) and sentencepiece (BPE with scores).
The patterns below are those of the published tokenizer.json files, in their own dialect; src/text has its
own table. Run it from the root of the repository; the output depends on the seed only.

usage: text-goldens.py [--texts N] [--seed S] [--out DIR]
"""
import argparse
import io
import json
import os
import random
import tempfile

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CL100K = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
TAIL = r"\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = (r"[^\r\n\p{L}\p{N}]?[" + UPPER + r"%s]*[" + LOWER + r"%s]+%s|"
         r"[^\r\n\p{L}\p{N}]?[" + UPPER + r"%s]+[" + LOWER + r"%s]*%s|")
O200K = CASED % ("", "", CONTRACTION + "?", "", "", CONTRACTION + "?") + TAIL % "{1,3}"
HAN = r"&&[^\p{Han}]"
MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
CASED_LETTERS = (
    r"A-Za-z\xB5\xC0-\xD6\xD8-\xF6\xF8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-\u0373\u0376\u0377"
    r"\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556"
    r"\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A"
    r"\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4"
    r"\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC"
    r"\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F"
    r"\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B"
    r"\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A"
    r"\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2"
    r"\U000118A0-\U000118DF\U0001E900-\U0001E943").encode().decode("unicode_escape")
CJK = "[一-龥\u0800-一가-\ud7ff]+"
KANA = "[一-龥\u3040-\u309f\u30a0-\u30ff]+"
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
DIGITS = pre_tokenizers.Digits(individual_digits=True)

# Name of tokenizer.ggml.pre -> steps: a pattern, or a pre-tokenizer of its own kind.
PRES = {
    "gpt-2": [GPT2],
    "starcoder": [DIGITS, GPT2],
    "falcon": [pre_tokenizers.Punctuation("contiguous"), GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "llama-bpe": [CL100K % "{1,3}"],
    "qwen2": [CL100K % ""],
    "qwen35": [CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
               r"\s+(?!\S)|\s+"],
    "tekken": [CASED % ("", "", "", "", "", "") + TAIL % ""],
    "gpt-4o": [O200K],
    "kimi-k2": [r"[\p{Han}]+|" + CASED % (HAN, HAN, CONTRACTION + "?", HAN, HAN, CONTRACTION + "?") +
                r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", O200K],
    "deepseek-llm": ["[\r\n]", r"\s?[" + CASED_LETTERS + "]+", "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", CJK,
                     DIGITS],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGITS],
    "deepseek-v3": [r"\p{N}{1,3}", KANA, MARKS + r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "spark2_5": [r"\p{N}{1,3}", KANA, MARKS + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|"
                   r"\s+(?!\S)|\s+"],
    "seed-coder": [CONTRACTION + "|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|"
                   "\\s+(?!\\S)|\\s+"],
    "exaone-moe": [CONTRACTION + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|"
                   r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
    "jais-2": [CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" +
               "|".join(r"\s{%d}(?!\S)" % n for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"],
    "minicpm5": [r"\p{N}{1,3}", CL100K % "+"],
    "laguna": [r"[^\n]+|[\n]+", CL100K % ""],
    "chameleon": ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", DIGITS,
                  r"[\p{P}!-/:-@\[-`{-~]", GPT2],
}

BITS = """Hello| world|HELLO|hELLo|we'Ve|'S|'ſ|'LL| 're|'d|3|33| 333|3333|12345678| |  |   |\n|\n\n| \n|\r\n|\t| \t |!|!!| ?|
.,|...|=|===| (|{}|_|__init__|/|//|/\n|~|`|$|+|^|<|é|É|Ünï|ßa|我想|在|々|〇|カナ|ひら|한국|ㄱㄴ|สวัส|ดี|नमस्ते|ক্ষ|العربية|،|؟|עברית|нещо|
НЕЩО|Ελλά|ΣΑΣ|½|²³|٣٤|३४|Ⅷ|①|３３|，|。|、|…|—|’s|“a”|！|～|\xa0|\u2003|\u3000|\u200b|\u200d|\x85|\u180e|\u2028|\u1680|😀|
😶\u200d🌫️|🦙|Cửa|e\u0301|a\u0300b|Dž|ǅ|ʰ|ªº|µ|\u212a|\u212b|ﬁ|𐐀𐐨|𝐀𝟏|a1b2|x|Z|don't|I'M|it's|    |        x|the|of| and|
 ing|IMGIMGABZ|<sentinel:12>|\x00|\x7f|123456|1234a|1234.|12 345|999999999""".replace("|\n", "|").split("|")


def texts(rng, n):
    """Random concatenations, some of them scrambled character by character."""
    out = []
    while len(out) < n:
        text = "".join(rng.choice(BITS) for _ in range(rng.randint(1, 14)))
        if rng.random() < 0.3:
            text = "".join(rng.sample(text, len(text)))
        if text:
            out.append(text)
    return out


def hexed(text):
    return text.encode().hex() or "-"


def step(s):
    return pre_tokenizers.Split(Regex(s), "isolated") if isinstance(s, str) else s


def write_pretok(path, cases):
    """text HEX ...; then for each pre a line of piece lengths in bytes for every text."""
    with open(path, "w") as f:
        f.write("# made by tools/text-goldens.py\n")
        for text in cases:
            f.write("text %s\n" % hexed(text))
        for name, steps in PRES.items():
            f.write("pre %s\n" % name)
            pre = pre_tokenizers.Sequence([step(s) for s in steps])
            for text in cases:
                pieces = pre.pre_tokenize_str(text)
                f.write(" ".join(str(len(piece.encode())) for piece, _ in pieces) + "\n")


def write_vocab(f, kind, flags, tokens, merges, cases):
    f.write("vocab %s %s\n" % (kind, " ".join(flags)))
    for text, score, attr in tokens:
        f.write("token %s %s %s\n" % (hexed(text), repr(score), attr))
    for left, right in merges:
        f.write("merge %s %s\n" % (hexed(left), hexed(right)))
    for text, ids in cases:
        f.write("case %s %s\n" % (hexed(text), " ".join(map(str, ids))))


def byte_level(f, corpus, cases, ignore_merges):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CL100K % "{1,3}"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    tok.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tok.to_str())["model"]
    if ignore_merges:  # a word that its merges do not make
        extra = " zebra!".split("!")[0]
        model["vocab"]["Ġzebra"] = len(model["vocab"])
        config = json.loads(tok.to_str())
        config["model"] = model
        tok = Tokenizer.from_str(json.dumps(config))
        cases = cases[:8] + [extra, "a zebra", "zebra", " zebras"]
    vocab = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    write_vocab(f, "bpe", ["pre=smaug-bpe"] + (["ignore_merges"] if ignore_merges else []),
                [(t, 0.0, 0) for t in vocab], merges, [(t, tok.encode(t).ids) for t in cases])


def byte_fallback(f, corpus, cases):
    """The Llama-2 shape of tokenizer.json: pieces over the whole text, ranked by merges."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    train = Tokenizer(models.BPE())
    train.normalizer = tok.normalizer
    train.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]+|▁+"), "isolated")
    train.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=620, special_tokens=specials, limit_alphabet=60, show_progress=False))
    config = json.loads(tok.to_str())
    trained = json.loads(train.to_str())
    config["model"].update(vocab=trained["model"]["vocab"], merges=trained["model"]["merges"])
    config["added_tokens"] = [t for t in trained["added_tokens"] if t["id"] < 3]
    tok = Tokenizer.from_str(json.dumps(config))
    vocab = sorted(config["model"]["vocab"], key=config["model"]["vocab"].get)
    merges = [m if isinstance(m, list) else m.split(" ") for m in config["model"]["merges"]]
    cases = cases + ["<s>a b</s> c", "</s>", " <s> x"]
    attrs = {"<unk>": 8, "<s>": 1, "</s>": 1}
    write_vocab(f, "spm_merges", ["space_prefix", "escape", "special", "unk=0"],
                [(t, 0.0, attrs.get(t, 0)) for t in vocab], merges, [(t, tok.encode(t).ids) for t in cases])


def scored(f, corpus, cases, fallback, prefix, squeeze):
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "corpus.txt")
        with open(text, "w") as out:
            out.write("\n".join(line.replace("\n", " ").replace("\0", " ") for line in corpus))
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            input=text, model_writer=model, model_type="bpe", vocab_size=600 if fallback else 300,
            character_coverage=0.98, byte_fallback=fallback, add_dummy_prefix=prefix,
            remove_extra_whitespaces=squeeze, normalization_rule_name="identity", hard_vocab_limit=False,
            num_threads=1, minloglevel=2, user_defined_symbols=["<sep>", "<sepia>"], split_digits=True)
        sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens = []
    for i in range(sp.get_piece_size()):
        attr = 8 if sp.is_unknown(i) else 1 if sp.is_control(i) else 4 if sp.is_byte(i) else 0
        if sp.id_to_piece(i).startswith("<sep"):
            attr = 2
        tokens.append((sp.id_to_piece(i), sp.get_score(i), attr))
    flags = ["escape", "unk=0"] + ["space_prefix"] * prefix + ["squeeze"] * squeeze
    # U+2581 in a text would be taken for a space on the way back, NUL ends a text there, and a user-defined symbol
    # is followed by a space prefix in GGUF readers only: none of them in the cases.
    cases = [t for t in cases if "\0" not in t and "▁" not in t] + ["", " ", "  a  b ", "a<s>b", "<unk>"]
    if not prefix:
        cases += ["a<sep>b", "<sepia><sep>", "<sepi", "x <sep> y"]
    write_vocab(f, "spm", flags, tokens, [], [(t, sp.encode(t)) for t in cases])


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--texts", type=int, default=48)
    args.add_argument("--seed", type=int, default=2024)
    args.add_argument("--out", default="test/goldens/text")
    args = args.parse_args()
    rng = random.Random(args.seed)
    write_pretok(os.path.join(args.out, "pretok.txt"), texts(rng, args.texts))
    corpus = texts(rng, 3000)
    cases = texts(rng, args.texts // 2)
    with open(os.path.join(args.out, "vocab.txt"), "w") as f:
        f.write("# made by tools/text-goldens.py\n")
        byte_level(f, corpus, cases, False)
        byte_level(f, corpus, cases, True)
        byte_fallback(f, corpus, cases)
        scored(f, corpus, cases, True, True, False)
        scored(f, corpus, cases, False, False, False)
        scored(f, corpus, cases, False, True, True)


if __name__ == "__main__":
    main()
