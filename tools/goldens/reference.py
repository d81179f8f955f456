"""Models for the independent reference: transformers on torch, fp32, eager attention, one thread."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralForCausalLM

torch.set_num_threads(1)


def _filled(model, tensors, tied):
    state = {name: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for name, a in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not (tied and name == "lm_head.weight")]
    if missing or unexpected:
        raise SystemExit(f"missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model.eval()


def from_tensors(config, tensors):
    config._attn_implementation = "eager"
    make = MistralForCausalLM if config.model_type == "mistral" else LlamaForCausalLM
    return _filled(make(config).to(torch.float32), tensors, config.tie_word_embeddings)


def from_folder(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def pairs_to_halves(rows, head_dim):
    """Undo llama.cpp's reordering of q and k rows: within a head, row 2i + j goes back to j * head_dim / 2 + i."""
    shape = rows.shape
    return rows.reshape(-1, head_dim // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


GGUF_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def from_gguf(path):
    """A plain llama-architecture GGUF file of any weight type, dequantized to fp32 by the gguf package."""
    import gguf
    reader = gguf.GGUFReader(path)
    field = {name: f.contents() for name, f in reader.fields.items() if name.startswith(("llama.", "general.arch"))}
    assert field["general.architecture"] == "llama"
    assert not any(name.startswith("llama.rope.scaling") for name in field)
    n_heads = field["llama.attention.head_count"]
    head_dim = field["llama.embedding_length"] // n_heads
    tensors = {}
    for t in reader.tensors:
        a = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(tuple(int(d) for d in t.shape[::-1]))
        stem, kind = t.name.rsplit(".", 1)
        if stem == "token_embd":
            name = "model.embed_tokens"
        elif stem == "output_norm":
            name = "model.norm"
        elif stem == "output":
            name = "lm_head"
        else:
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{GGUF_NAMES[part]}"
            if part in ("attn_q", "attn_k"):
                a = pairs_to_halves(a, head_dim)
        tensors[f"{name}.{kind}"] = a
    config = LlamaConfig(
        hidden_size=field["llama.embedding_length"], num_hidden_layers=field["llama.block_count"],
        num_attention_heads=n_heads, num_key_value_heads=field.get("llama.attention.head_count_kv", n_heads),
        intermediate_size=field["llama.feed_forward_length"], vocab_size=tensors["model.embed_tokens.weight"].shape[0],
        max_position_embeddings=field["llama.context_length"],
        rms_norm_eps=field["llama.attention.layer_norm_rms_epsilon"], tie_word_embeddings="lm_head.weight" not in tensors,
        rope_parameters={"rope_type": "default", "rope_theta": field["llama.rope.freq_base"]},
    )
    return from_tensors(config, tensors)


@torch.inference_mode()
def logits(model, tokens):
    """[len(tokens), n_vocab] as numpy."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()


def versions():
    import transformers
    return f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, fp32, eager attention"
