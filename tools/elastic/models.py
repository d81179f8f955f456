"""Models, Gram matrices and the measurement of the experiments. Imported by experiments.py; usage: see there."""

import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "goldens"))
import reference  # noqa: E402

MODELS = {"prose-6m": "models/prose-6m/prose-6m-f16.gguf", "tinystories-656k": "models/tinystories-656k/tinystories-656k-f32.gguf"}
CALIBRATION = {"prose-6m": "shakespeare.txt", "tinystories-656k": "tinystories-valid.txt"}
CHUNK = 256
torch.set_num_threads(1)


class Bench:
    """A model, its matrices by name, reference logits over slices of text, and Gram matrices of the inputs of each matrix."""

    def __init__(self, data, name="prose-6m"):
        from transformers import AutoTokenizer
        path = os.path.join(data, MODELS[name])
        self.name, self.data, self.path = name, data, path
        self.model = reference.from_gguf(path).float().eval()
        self.tok = AutoTokenizer.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path))
        self.linear = {n: m for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
        self.linear["embed"] = self.model.lm_head   # tied: the same parameter is looked up and multiplied
        self.w = {n: m.weight.detach().numpy().copy() for n, m in self.linear.items()}
        self.count = sum(w.size for w in self.w.values())
        self.slices, self.ref = {}, {}

    def tokens(self, text, first, n):
        with open(os.path.join(self.data, "text", text), encoding="utf-8") as f:
            ids = self.tok(f.read()[:1200 * (first + n) + 20000], add_special_tokens=False)["input_ids"]
        assert len(ids) >= (first + n) * CHUNK, len(ids)
        return torch.tensor(ids[first * CHUNK:(first + n) * CHUNK]).view(n, CHUNK)

    def add_slice(self, key, text, first, n):
        self.slices[key] = self.tokens(text, first, n)
        with torch.inference_mode():
            self.ref[key] = [torch.log_softmax(self.model(x).logits, -1) for x in self.slices[key].split(4)]

    def grams(self, text, first, n):
        h = {k: 0 for k in self.linear}
        hooks = []
        for k, m in self.linear.items():
            def tap(mod, args, k=k):
                x = args[0].reshape(-1, args[0].shape[-1])
                h[k] = h[k] + (x.T @ x)
            hooks.append(m.register_forward_pre_hook(tap))
        with torch.inference_mode():
            for x in self.tokens(text, first, n).split(4):
                self.model(x)
        for k in hooks:
            k.remove()
        return {k: v.numpy().astype(np.float32) for k, v in h.items()}

    def set(self, weights):
        """weights: {name: array}; the others go back to the source's."""
        with torch.no_grad():
            for n, m in self.linear.items():
                m.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights.get(n, self.w[n]), dtype=np.float32)))

    def measure(self, weights, key):
        """(mean KL, perplexity, top-1 agreement in %)."""
        self.set(weights)
        kl = nll = top = n = 0
        with torch.inference_mode():
            for x, p in zip(self.slices[key].split(4), self.ref[key]):
                q = torch.log_softmax(self.model(x).logits, -1)
                kl += (p.exp() * (p - q)).sum(-1).double().sum().item()
                top += (p.argmax(-1) == q.argmax(-1)).sum().item()
                nll -= q[:, :-1].gather(-1, x[:, 1:, None]).double().sum().item()
                n += x.numel()
        return kl / n, float(np.exp(nll / (n - n // CHUNK))), 100 * top / n
