"""Blocks of the pool as vLLM's KV events: what OffloadingConnector publishes for a chunk of several pages.

An event has the engine's own hashes, one a page, so that who knows the engine's pages knows the pool's blocks.
"""

from typing import Any

from vllm.distributed import kv_events
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys, maybe_convert_block_hash
from vllm.v1.kv_cache_interface import get_kv_cache_spec_kind, get_kv_cache_spec_sliding_window

from kvpool.vllm.announced import Block
from kvpool.vllm.layout import Group, Layout

MEDIUM_MEMORY = kv_events.MEDIUM_CPU
MEDIUM_DISK = getattr(kv_events, "MEDIUM_STORAGE", None) or kv_events.MEDIUM_FS  # the latter in vLLM 0.26
# Absent from vLLM 0.26, whose extra keys are as consumers want them.
_published = getattr(kv_cache_utils, "to_event_extra_keys", list)


class KVEvents:
    def __init__(self, layout: Layout, groups: list[Any], medium: str):
        """groups: vLLM's kv_cache_groups, of which the layout was made."""
        self._layout = layout
        self._medium = medium
        self._kinds = [
            (get_kv_cache_spec_kind(group.kv_cache_spec).value, get_kv_cache_spec_sliding_window(group.kv_cache_spec))
            for group in groups
        ]

    def block(self, request: Any, index: int) -> Block:
        stored = [self._stored(request, index, group) for group in range(len(self._kinds))]
        removed = [
            BlockRemoved(block_hashes=event.block_hashes, medium=self._medium, group_idx=event.group_idx, locality="LOCAL")
            for event in stored
        ]
        return Block(stored, removed)

    def cleared(self) -> AllBlocksCleared:
        return AllBlocksCleared()

    def _stored(self, request: Any, index: int, number: int) -> BlockStored:
        group = self._layout.groups[number]
        first = self._layout.first_page(group, index)
        end = first + group.pages
        tokens = group.page_tokens
        kind, window = self._kinds[number]
        return BlockStored(
            block_hashes=[self._hash(request, group, page) for page in range(first, end)],
            parent_block_hash=self._hash(request, group, first - 1) if first > 0 else None,
            token_ids=request.all_token_ids[first * tokens : end * tokens],
            block_size=tokens,
            lora_id=None,  # of requests with an adapter nothing is stored
            lora_name=None,
            medium=self._medium,
            extra_keys=_published([
                generate_block_hash_extra_keys(request, page * tokens, (page + 1) * tokens, 0)[0]
                for page in range(first, end)
            ]),  # fmt: skip
            group_idx=number,
            kv_cache_spec_kind=kind,
            kv_cache_spec_sliding_window=window,
            locality="LOCAL",
        )

    def _hash(self, request: Any, group: Group, page: int) -> Any:
        """The engine's hash at a page's end."""
        return maybe_convert_block_hash(request.block_hashes[(page + 1) * group.page_tokens // self._layout.hash_tokens - 1])
