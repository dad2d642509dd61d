"""Layout: how vLLM's groups, layers and pages make up the blocks of a pool, and the name of their namespace.

A page is taken as it is, bytes that vLLM alone understands; so what decides over their meaning is in the name.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvpool._native import PageNumbers, pack_keys

BLOCK_TOKENS = 256
KEY_BYTES = 16
# Kinds of layers whose pages stand for their tokens and nothing else.
_KNOWN_SPECS = {"FullAttentionSpec": False, "SlidingWindowSpec": True}
_NAME_BYTES_MAX = 512


def each_key(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


class Unsupported(Exception):
    """Why the engine has to run without the pool: one line."""


@dataclass(frozen=True)
class Group:
    """Layers that share their page numbers."""

    page_tokens: int
    pages: int  # of a block, those that are kept: its last ones
    window: bool  # needed in a run's last block alone
    sliding_tokens: int  # of the window, whose pages vLLM frees behind it; 0: none
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    block_tokens: int
    hash_tokens: int  # tokens of one of the engine's hashes
    groups: tuple[Group, ...]

    @property
    def pages_of_block(self) -> int:
        return sum(group.pages for group in self.groups)

    @property
    def fails_by_page(self) -> bool:
        """Whether vLLM can compute on from the first page that did not come. Behind a window it cannot: the
        pages before were never allocated."""
        return self._is_simple

    @property
    def _is_simple(self) -> bool:
        return len(self.groups) == 1 and self.groups[0].sliding_tokens == 0

    def first_page(self, group: Group, block: int) -> int:
        """The index, in the group's list of pages, of a block's first page that is kept."""
        return (block + 1) * (self.block_tokens // group.page_tokens) - group.pages

    def may_be_gone(self, block: int, computed: int) -> bool:
        """Whether vLLM may have freed a page of that block that is kept, where so many tokens were computed before a step."""
        return any(
            group.sliding_tokens > 0
            and (computed - group.sliding_tokens + 1) // group.page_tokens > self.first_page(group, block)
            for group in self.groups
        )

    def keys(self, hashes: list[bytes], first: int, end: int) -> bytes:
        """Of the pool's blocks, one after the other: the engine's hash at the end of each, which covers all before it."""
        step = self.block_tokens // self.hash_tokens
        if hashes and len(hashes[0]) < KEY_BYTES:
            own = hashes[(first + 1) * step - 1 : end * step : step]
            return b"".join(hashlib.blake2b(one, digest_size=KEY_BYTES).digest() for one in own)
        return pack_keys(hashes, (first + 1) * step - 1, max(0, end - first), step)

    def blocks_hashed(self, hashes: list[bytes]) -> int:
        return len(hashes) * self.hash_tokens // self.block_tokens

    # ids: the pages that a request has, of each group. Blocks [first, end) of the pool.

    def pages_to_load(self, ids: list[PageNumbers], first: int, end: int, computed: int) -> PageNumbers:
        """Below 0 where a page is not wanted, as those are that hold the `computed` tokens: they may be others' too."""
        if self._is_simple:
            pages = self._pages_of(ids, first, end)
            pages.unwant(computed // self.groups[0].page_tokens - first * self.groups[0].pages)
            return pages
        pages = PageNumbers()
        groups = [
            (group, own, -(-computed // group.page_tokens), PageNumbers([-1] * group.pages)) for group, own in zip(self.groups, ids)
        ]
        for block in range(first, end):
            for group, own, wanted, none in groups:
                if group.window and block + 1 < end:
                    pages.extend(none)
                    continue
                start = self.first_page(group, block)
                pages.extend_wanted(own, start, start + group.pages, wanted)
        return pages

    def pages_to_store(self, ids: list[PageNumbers], first: int, end: int) -> PageNumbers | None:
        """None where one of them is gone."""
        pages = self._pages_of(ids, first, end)
        return None if 0 in pages or len(pages) != (end - first) * self.pages_of_block else pages

    def _pages_of(self, ids: list[PageNumbers], first: int, end: int) -> PageNumbers:
        if self._is_simple:
            return ids[0].part(first * self.groups[0].pages, end * self.groups[0].pages)
        pages = PageNumbers()
        for block in range(first, end):
            for group, own in zip(self.groups, ids):
                start = self.first_page(group, block)
                pages.extend(own.part(start, start + group.pages))
        return pages


def plan(groups: list[Any], hash_tokens: int, block_tokens: int = 0) -> Layout:
    """Of vLLM's kv_cache_groups. Raises Unsupported for layers that are not known, ValueError for block_tokens."""
    pages = [group.kv_cache_spec.block_size for group in groups]
    unit = math.lcm(*pages, hash_tokens)
    if block_tokens == 0:
        block_tokens = math.ceil(BLOCK_TOKENS / unit) * unit
    if block_tokens % unit != 0:
        raise ValueError(
            f"kv_connector_extra_config: 'block_tokens' is {block_tokens}; it must be a multiple of {unit}, the engine's pages"
        )
    return Layout(block_tokens, hash_tokens, tuple(_group(group, block_tokens) for group in groups))


def _group(group: Any, block_tokens: int) -> Group:
    spec = group.kv_cache_spec
    kind = type(spec).__name__
    if kind not in _KNOWN_SPECS:
        raise Unsupported(f"layers of the kind {kind} are not known (layer {group.layer_names[0]})")
    if getattr(spec, "non_causal", False):
        raise Unsupported(f"pages that depend on later tokens cannot be used again (layer {group.layer_names[0]})")
    pages = block_tokens // spec.block_size
    sliding_tokens = spec.sliding_window if _KNOWN_SPECS[kind] else 0
    kept = math.ceil((sliding_tokens - 1) / spec.block_size) if sliding_tokens else pages
    # A window that reaches beyond a block wants more than the last block's: then all blocks keep all pages.
    window = sliding_tokens > 0 and kept <= pages
    return Group(spec.block_size, max(1, min(kept, pages)), window, sliding_tokens, tuple(group.layer_names))


@dataclass(frozen=True)
class LayerPages:
    """Where a layer's pages lie, as PageMover wants it."""

    name: str
    group: int
    base: int
    page_stride_bytes: int
    pages: int
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    element_bytes: int

    @property
    def page_bytes(self) -> int:
        return math.prod(self.shape) * self.element_bytes

    def native(self) -> tuple:
        return (self.base, self.page_stride_bytes, self.pages, list(self.shape), list(self.strides_bytes),
                self.element_bytes, self.group)


def layer_pages(layout: Layout, caches: Mapping[str, Any], num_pages: int) -> tuple[list[LayerPages], int | None]:
    """Of the registered tensors, in the order in which the model needs the layers; and the GPU that has them, None: the
    CPU's memory. Raises Unsupported."""
    found = []
    places = set()
    for index, group in enumerate(layout.groups):
        for name in group.layers:
            tensor = caches.get(name)
            if tensor is None or not hasattr(tensor, "data_ptr"):
                raise Unsupported(f"layer {name} has no cache of its own")
            if tensor.device.type not in ("cpu", "cuda"):
                raise Unsupported(f"layer {name} lies on {tensor.device.type}; pages are moved of the CPU's memory and of NVIDIA GPUs")
            places.add(tensor.device.index if tensor.device.type == "cuda" else None)
            if tensor.shape[0] != num_pages:
                raise Unsupported(f"layer {name} has the shape {tuple(tensor.shape)}; the pages are not its first dimension")
            size = tensor.element_size()
            found.append(LayerPages(name, index, tensor.data_ptr(), tensor.stride(0) * size, num_pages,
                                    tuple(tensor.shape[1:]), tuple(s * size for s in tensor.stride()[1:]), size))
    if len(places) > 1:
        raise Unsupported("the layers' pages lie in more than one place")
    return sorted(found, key=lambda layer: (_number(layer.name), layer.name)), places.pop() if places else None


def _number(name: str) -> int:
    """The layer's place in the model: the first number in its name."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def namespace_name(vllm_config: Any, layout: Layout, layers: list[LayerPages], salt: str, flavour: str) -> str:
    """What must not be mixed: model, revision, its config, the cache's type and layout, hashes, rank, salt."""
    model = vllm_config.model_config
    cache = vllm_config.cache_config
    config = {key: value for key, value in model.hf_config.to_dict().items() if not key.startswith("_")}
    config.pop("transformers_version", None)
    identity = {
        "model": model.model,
        "revision": model.revision,
        "config": config,
        "dtype": str(model.dtype),
        "quantization": str(model.quantization),
        "cache_dtype": str(cache.cache_dtype),
        "block_tokens": layout.block_tokens,
        "hash": [str(cache.prefix_caching_hash_algo), layout.hash_tokens, _hash_seed()],
        "groups": [[group.page_tokens, group.pages, group.window] for group in layout.groups],
        "layers": [[layer.name, layer.group, layer.shape, layer.strides_bytes, layer.element_bytes] for layer in layers],
        "rank": [0, 1],
        "flavour": flavour,
        "salt": salt,
    }
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
    name = f"vllm {model.model}".encode()[: _NAME_BYTES_MAX - len(digest) - 1].decode(errors="ignore")
    return f"{name} {digest}"


def _hash_seed() -> str:
    return os.environ.get("PYTHONHASHSEED", "")
