#!/usr/bin/env python3
"""Time llama.cpp on one GGUF file through its low-level Python binding.

One process is one measurement: the model is opened (mmap, the peer's default), every page is touched by a warm-up,
then two things are timed and printed as one JSON object:

    prefill   PROMPT tokens into an empty context, one llama_decode() call
    decode    N tokens one at a time after a prompt of DEPTH tokens

Token ids are an arbitrary sequence: what a token is does not change the work, and no sampling is timed (neither program's
sampler is the subject). Works with llama-cpp-python, and with ik-llama-cpp-python, whose binding kept the same functions
with fewer fields: a field that a version lacks is left alone.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import time


def open_library(module):
    """The binding's functions, its log silenced. llama_cpp has them in a module of that name, ik_llama_cpp in _ctypes_api."""
    for folder in importlib.util.find_spec(module).submodule_search_locations:
        beside = os.path.join(folder, "lib", "libggml.so")
        if os.path.exists(beside):  # ik_llama_cpp's libllama.so needs it and is not told where it is
            ctypes.CDLL(beside, ctypes.RTLD_GLOBAL)
    package = importlib.import_module(module)
    lib = getattr(package, "llama_cpp", None) or importlib.import_module(module + "._ctypes_api")
    lib.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, arg: None)
    function(lib, "llama_log_set", None, ctypes.c_void_p, ctypes.c_void_p)(ctypes.cast(lib.quiet, ctypes.c_void_p), None)
    lib.llama_backend_init()
    return lib


def function(lib, name, result, *arguments):
    """A function of the shared library itself: not every binding has them all."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, lib._lib))


def system_info(lib):
    return function(lib, "llama_print_system_info", ctypes.c_char_p)().decode().strip()


def package_version(module):
    try:
        from importlib import metadata
        return metadata.version(module.replace("_", "-") + ("-python" if module.endswith("cpp") else ""))
    except Exception:  # a build from source without metadata: the version is a courtesy
        return getattr(importlib.import_module(module), "__version__", "?")


def set_if_there(params, **fields):
    names = {f[0] for f in params._fields_}
    for name, value in fields.items():
        if name in names:
            setattr(params, name, value)


class Peer:
    def __init__(self, lib, path, threads, context, flash, **context_params):
        self.lib = lib
        mp = lib.llama_model_default_params()
        set_if_there(mp, n_gpu_layers=0)
        load = getattr(lib, "llama_model_load_from_file", None) or lib.llama_load_model_from_file
        self.model = load(path.encode(), mp)
        if not self.model:
            raise SystemExit(f"{path}: the peer cannot load it")
        cp = lib.llama_context_default_params()
        # flash_attn_type: 0 off, 1 on; flash_attn: older versions and forks
        set_if_there(cp, n_ctx=context, n_batch=context, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
                     flash_attn_type=1 if flash else 0, flash_attn=bool(flash), no_perf=True, **context_params)
        make = getattr(lib, "llama_init_from_model", None) or lib.llama_new_context_with_model
        self.ctx = make(self.model, cp)
        if not self.ctx:
            raise SystemExit(f"{path}: the peer cannot make a context of {context} tokens")
        vocab_of = getattr(lib, "llama_model_get_vocab", None)
        count = getattr(lib, "llama_vocab_n_tokens", None)
        self.n_vocab = count(vocab_of(self.model)) if vocab_of and count else lib.llama_n_vocab(self.model)
        self.batch = lib.llama_batch_init(context, 0, 1)

    def clear(self):
        if hasattr(self.lib, "llama_memory_clear"):
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)
        else:
            self.lib.llama_kv_cache_clear(self.ctx)

    def step(self, position, tokens, all_logits=False):
        """Feed tokens from `position` on and wait for the last one's logits, or everyone's."""
        b = self.batch
        b.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            b.token[i] = token
            b.pos[i] = position + i
            b.n_seq_id[i] = 1
            b.seq_id[i][0] = 0
            b.logits[i] = all_logits or i == len(tokens) - 1
        if self.lib.llama_decode(self.ctx, b) != 0:
            raise SystemExit("llama_decode failed")
        self.lib.llama_get_logits_ith(self.ctx, len(tokens) - 1)[0]

    def token(self, i):
        return 5 + (i * 7919) % min(self.n_vocab - 10, 20000)

    def prefill(self, n):
        self.clear()
        tokens = [self.token(i) for i in range(n)]
        start = time.perf_counter()
        self.step(0, tokens)
        return n / (time.perf_counter() - start)

    def decode(self, depth, n):
        self.clear()
        self.step(0, [self.token(i) for i in range(depth)])
        start = time.perf_counter()
        for i in range(n):
            self.step(depth + i, [self.token(depth + i)])
        return n / (time.perf_counter() - start)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model", nargs="?", help="GGUF file; without it only the peer's version and system info are printed")
    ap.add_argument("--module", default="llama_cpp", help="binding to import: llama_cpp or ik_llama_cpp")
    ap.add_argument("-t", "--threads", type=int, default=2)
    ap.add_argument("-p", "--prompt", type=int, default=512, help="prefill tokens; 0: skip")
    ap.add_argument("-d", "--depth", type=int, default=1, help="tokens in the context before the decode")
    ap.add_argument("-n", "--generate", type=int, default=128, help="decode tokens; 0: skip")
    ap.add_argument("--flash", action="store_true", help="flash attention on")
    args = ap.parse_args()
    lib = open_library(args.module)
    out = {"version": package_version(args.module), "system_info": system_info(lib)}
    if args.model:
        context = max(args.prompt, args.depth + args.generate, 32)
        peer = Peer(lib, args.model, args.threads, (context + 255) // 256 * 256, args.flash)
        peer.decode(4, 2)  # warm-up: the whole file is read once
        if args.prompt:
            peer.prefill(min(args.prompt, 64))
            out["prefill"] = peer.prefill(args.prompt)
        if args.generate:
            out["decode"] = peer.decode(args.depth, args.generate)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
