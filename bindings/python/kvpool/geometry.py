"""Geometry: the shape of a namespace's blocks, given or taken from a model's config.json."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvpool._checks import count, plain_text, refuse
from kvpool.errors import InvalidArgument

BLOCK_TOKENS = 256

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1}
# Layers that see chunks keep all tokens of a block: more than they need at most.
_LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention")
# Models whose layers all have the window. Of others that do not say which have it none is taken to: that is too
# much at most.
_ALL_SLIDE = ("mistral", "mixtral", "phi3", "phi4_multimodal", "phimoe", "starcoder2")
# Of models some of whose layers keep a state and no keys and values.
_NOT_ATTENTION = ("attn_layer_period", "hybrid_override_pattern", "mamba_d_state", "ssm_cfg", "state_size")


@dataclass(frozen=True)
class Geometry:
    """What makes two caches interchangeable, and the shape of their blocks.

    name           1 to 512 bytes: model, revision, dtype, layout, rank, salt: all that must not be mixed
    segment_bytes  bytes of each segment of a block, in the order in which the model needs them; a layer is one
                   as a rule
    window         for each segment whether it is needed in a run's last block alone; empty: none is
    flat           blocks stand alone: no block is another's parent

    Raises InvalidArgument for what is no number of 1 or more; what a pool refuses besides, Pool.namespace() says.
    """

    name: str
    block_tokens: int
    segment_bytes: Sequence[int]
    window: Sequence[bool] = ()
    flat: bool = False

    def __post_init__(self) -> None:
        plain_text(self.name, "name")
        count(self.block_tokens, "block_tokens")
        if not hasattr(self.segment_bytes, "__len__") or len(self.segment_bytes) == 0:
            raise refuse("segment_bytes", self.segment_bytes, "a list with the bytes of one segment or more")
        for i, size in enumerate(self.segment_bytes):
            count(size, f"segment_bytes[{i}]")
        if not hasattr(self.window, "__len__") or not all(isinstance(one, bool) for one in self.window):
            raise refuse("window", self.window, "True or False for each segment")

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
        `dtype` is the cache's, by default the model's, and bfloat16 where the config has none. With `tensor_parallel` ranks, one rank's share.

        Which layers have the window is read as Hugging Face does: by `layer_types`; else every
        `sliding_window_pattern`-th layer is full; else those from `max_window_layers` on have it, or all of a
        model such as Mistral's. Without a word on it, or with `use_sliding_window` false, none has.

        Raises InvalidArgument, a ValueError: the line names the field, its value and what is wanted, and the
        file. OSError where that cannot be read.
        """
        count(block_tokens, "block_tokens")
        count(tensor_parallel, "tensor_parallel")
        outer = _read(config)
        fields = outer.text_config()
        for field in _NOT_ATTENTION:
            if fields.has(field):
                raise fields.refuse(field, "a model whose layers all are attention")
        dtype_bytes, dtype = _dtype(dtype, fields, outer)
        layers = fields.count("num_hidden_layers", "n_layer")
        per_token = _numbers_per_token(fields, tensor_parallel) * dtype_bytes
        slides = _slides(fields, layers)
        kept = min(block_tokens, fields.count("sliding_window")) if any(slides) else block_tokens
        window = [kept < block_tokens and sliding for sliding in slides]
        return cls(
            name=name or f"{fields.get('model_type') or 'model'}-{dtype}-{block_tokens}",
            block_tokens=block_tokens,
            segment_bytes=[per_token * (kept if is_window else block_tokens) for is_window in window],
            window=window if any(window) else (),
        )


@dataclass(frozen=True)
class _Fields:
    """A config's fields, each checked as it is asked for. One that is null is as good as missing."""

    of: Mapping[str, Any]
    source: str

    def get(self, name: str) -> Any:
        return self.of.get(name)

    def has(self, *names: str) -> bool:
        return any(self.get(name) is not None for name in names)

    def count(self, *names: str, least: int = 1) -> int:
        """Of the first of the names that is there."""
        name = next((name for name in names if self.has(name)), names[0])
        return count(self.get(name), f"{self.source}: {name}", least)

    def refuse(self, name: str, wanted: str) -> InvalidArgument:
        return refuse(f"{self.source}: {name}", self.get(name), wanted)

    def text_config(self) -> "_Fields":
        """Of models that see and hear too, the part that has a KV cache."""
        inner = self.get("text_config")
        if inner is None:
            return self
        if not isinstance(inner, Mapping):
            raise self.refuse("text_config", "an object")
        return _Fields(inner, f"{self.source}: text_config")


def _read(config: str | os.PathLike[str] | Mapping[str, Any]) -> _Fields:
    if isinstance(config, Mapping):
        return _Fields(config, "the model's config")
    try:
        path = os.fsdecode(config)
    except TypeError:
        raise refuse("config", config, "the path of a config.json, its folder or a dict") from None
    try:
        if os.path.isdir(path):
            path = os.path.join(path, "config.json")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: it is no JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise refuse(f"{path}: its content", content, "a JSON object")
    return _Fields(content, path)


def _dtype(asked: str | None, fields: _Fields, outer: _Fields) -> tuple[int, str]:
    found = ((part, name) for part in (fields, outer) for name in ("dtype", "torch_dtype") if part.has(name))
    part, field = next(found, (fields, "dtype"))
    dtype = str(asked or part.get(field) or "bfloat16").removeprefix("torch.")
    if dtype not in _DTYPE_BYTES:
        what = "dtype" if asked else f"{part.source}: {field}"
        raise refuse(what, dtype, f"one of {', '.join(_DTYPE_BYTES)}")
    return _DTYPE_BYTES[dtype], dtype


def _numbers_per_token(fields: _Fields, tensor_parallel: int) -> int:
    if fields.has("kv_lora_rank"):  # one latent vector for all heads, the same on every rank
        return fields.count("kv_lora_rank") + fields.count("qk_rope_head_dim")
    heads = fields.count("num_attention_heads", "n_head")
    kv_heads = fields.count("num_key_value_heads") if fields.has("num_key_value_heads") else heads
    if fields.get("multi_query") is True and not fields.get("new_decoder_architecture"):
        kv_heads = 1
    if fields.has("head_dim"):
        head_dim = fields.count("head_dim")
    else:
        head_dim, left = divmod(fields.count("hidden_size", "n_embd"), heads)
        if left != 0 or head_dim == 0:
            name = "hidden_size" if fields.has("hidden_size") else "n_embd"
            raise fields.refuse(name, f"a multiple of the {heads} heads, or a head_dim,")
    if kv_heads % tensor_parallel != 0 and tensor_parallel % kv_heads != 0:
        raise InvalidArgument(f"{fields.source}: {kv_heads} KV heads cannot be shared out to {tensor_parallel} ranks")
    return 2 * max(1, kv_heads // tensor_parallel) * head_dim


def _slides(fields: _Fields, layers: int) -> list[bool]:
    kinds = fields.get("layer_types")
    if kinds is not None:
        known = isinstance(kinds, Sequence) and all(kind in _LAYER_TYPES for kind in kinds)
        if not known or len(kinds) != layers:
            raise fields.refuse("layer_types", f"for each of {layers} layers one of {', '.join(_LAYER_TYPES)}")
    # The models that have `max_window_layers` are those that use none unless they say so.
    uses = fields.get("use_sliding_window") if fields.has("use_sliding_window") else not fields.has("max_window_layers")
    if not fields.has("sliding_window") or not uses:
        return [False] * layers
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    if fields.has("sliding_window_pattern"):
        every = fields.count("sliding_window_pattern")
        return [(i + 1) % every != 0 for i in range(layers)]
    if fields.has("max_window_layers"):
        first = fields.count("max_window_layers", least=0)
        return [i >= first for i in range(layers)]
    return [fields.get("model_type") in _ALL_SLIDE] * layers
