"""Geometry: the shape of a namespace's blocks, given or taken from a model's config.json."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BLOCK_TOKENS = 256

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1}


@dataclass(frozen=True)
class Geometry:
    """What makes two caches interchangeable, and the shape of their blocks.

    name           1 to 512 bytes: model, revision, dtype, layout, rank, salt: all that must not be mixed
    segment_bytes  bytes of each segment of a block, in the order in which the model needs them; a layer is one
                   as a rule
    window         for each segment whether it is needed in a run's last block alone; empty: none is
    flat           blocks stand alone: no block is another's parent
    """

    name: str
    block_tokens: int
    segment_bytes: Sequence[int]
    window: Sequence[bool] = ()
    flat: bool = False

    @property
    def block_bytes(self) -> int:
        return sum(self.segment_bytes)

    @classmethod
    def from_hf(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any],
        *,
        name: str | None = None,
        block_tokens: int = BLOCK_TOKENS,
        dtype: str | None = None,
        tensor_parallel: int = 1,
    ) -> "Geometry":
        """Of a Hugging Face config.json: its path, the folder that it lies in, or its content as a dict.

        One segment a layer, of keys and values: 2 x block_tokens x kv_heads x head_dim x bytes of dtype. A
        layer with a sliding window keeps the last `sliding_window` tokens of a block. Layers that compress
        keys and values (multi-head latent attention) keep kv_lora_rank + qk_rope_head_dim numbers a token.
        `dtype` is the cache's, by default the model's. With `tensor_parallel` ranks, one rank's share.

        Raises ValueError where the config does not say enough; the message names what is missing.
        """
        fields = _text_config(_read(config))
        layers = _number(fields, "num_hidden_layers")
        dtype = dtype or fields.get("dtype") or fields.get("torch_dtype") or "bfloat16"
        if dtype not in _DTYPE_BYTES:
            raise ValueError(f"dtype {dtype!r} is unknown; one of {', '.join(_DTYPE_BYTES)}")
        per_token = _numbers_per_token(fields, tensor_parallel) * _DTYPE_BYTES[dtype]
        window = _windows(fields, layers, block_tokens)
        kept = min(block_tokens, fields.get("sliding_window") or block_tokens)
        return cls(
            name=name or f"{fields.get('model_type', 'model')}-{dtype}-{block_tokens}",
            block_tokens=block_tokens,
            segment_bytes=[per_token * (kept if is_window else block_tokens) for is_window in window],
            window=window if any(window) else (),
        )


def _read(config: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    path = os.fspath(config)
    if os.path.isdir(path):
        path = os.path.join(path, "config.json")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _text_config(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of models that see and hear too, the part that has a KV cache."""
    return fields.get("text_config") or fields


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"the model's config has no usable {name!r} (it is {value!r})")
    return value


def _numbers_per_token(fields: Mapping[str, Any], tensor_parallel: int) -> int:
    if fields.get("kv_lora_rank"):  # one latent vector for all heads, the same on every rank
        return _number(fields, "kv_lora_rank") + _number(fields, "qk_rope_head_dim")
    heads = _number(fields, "num_attention_heads")
    kv_heads = fields.get("num_key_value_heads") or heads
    head_dim = fields.get("head_dim") or _number(fields, "hidden_size") // heads
    if kv_heads % tensor_parallel != 0 and tensor_parallel % kv_heads != 0:
        raise ValueError(f"{kv_heads} KV heads cannot be shared out to {tensor_parallel} ranks")
    return 2 * max(1, kv_heads // tensor_parallel) * head_dim


def _windows(fields: Mapping[str, Any], layers: int, block_tokens: int) -> list[bool]:
    kinds = fields.get("layer_types")
    sliding = fields.get("sliding_window")
    if not sliding or fields.get("use_sliding_window") is False:
        return [False] * layers
    if kinds is None:
        raise ValueError("the model's config has a 'sliding_window', but no 'layer_types' that say which layers have it")
    known = {"full_attention": False, "sliding_attention": sliding < block_tokens}
    if len(kinds) != layers or not set(kinds) <= set(known):
        raise ValueError(f"the model's 'layer_types' are not {layers} of {', '.join(known)}")
    return [known[kind] for kind in kinds]
