"""Models with random weights, small enough for vLLM on a CPU, whose tokens depend on all that they have seen."""

import json
import pathlib

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
    "attention_bias": False, "mlp_bias": False,
}  # fmt: skip

# Sliding windows of 256 tokens in all layers: one group, whose pages begin behind what the window has left.
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 256}

# Sliding windows of 256 tokens in every other layer: two groups of layers.
GEMMA = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
    "max_position_embeddings": 16384, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_local_base_freq": 10000.0,
    "query_pre_attn_scalar": 64, "sliding_window": 256, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": False, "torch_dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attention_bias": False,
    "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip


def named(name: str | None) -> dict:
    """Full attention in all layers; "windows" in some of them, or "sliding": in all."""
    return {"windows": GEMMA, "sliding": MISTRAL}.get(name, LLAMA)


def write(config: dict, folder: pathlib.Path, seed: int = 0) -> str:
    """Writes config.json and weights; returns the folder."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    random = torch.Generator().manual_seed(seed)

    def normal(deviation, *shape):
        return torch.randn(*shape, generator=random) * deviation

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    of_query = config["num_attention_heads"] * config["head_dim"]
    of_key = config["num_key_value_heads"] * config["head_dim"]
    gemma = config["model_type"] == "gemma3_text"
    norm = torch.zeros if gemma else torch.ones  # Gemma adds one
    tensors = {
        "model.embed_tokens.weight": normal(hidden**-0.5 if gemma else 1.0, config["vocab_size"], hidden),
        "model.norm.weight": norm(hidden),
        "lm_head.weight": normal(0.2, config["vocab_size"], hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        of_layer = {
            "self_attn.q_proj": normal(0.12, of_query, hidden),
            "self_attn.k_proj": normal(0.12, of_key, hidden),
            "self_attn.v_proj": normal(0.12, of_key, hidden),
            "self_attn.o_proj": normal(0.12, hidden, of_query),
            "mlp.gate_proj": normal(0.06, inner, hidden),
            "mlp.up_proj": normal(0.06, inner, hidden),
            "mlp.down_proj": normal(0.06, hidden, inner),
            "input_layernorm": norm(hidden),
            "post_attention_layernorm": norm(hidden),
        }
        if gemma:
            of_layer |= {"pre_feedforward_layernorm": norm(hidden), "post_feedforward_layernorm": norm(hidden),
                         "self_attn.q_norm": norm(config["head_dim"]), "self_attn.k_norm": norm(config["head_dim"])}  # fmt: skip
        tensors |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in of_layer.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def write_tokenizer(folder: pathlib.Path, words: int = 1000) -> None:
    """Beside a model: a word for each token, "w17" is token 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "eos_token": "w2", "bos_token": "w1"})
    )
