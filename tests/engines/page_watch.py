"""Holds every page that an engine computes on against the first one that was seen for the same tokens.

Tokens say little about bytes: a model may answer the same with a page that is slightly wrong, and in bfloat16 it answers
otherwise with right ones, since the sums of another batch are rounded otherwise.
"""

import collections

import torch

# Of two computations of one page, in batches of other shapes: of the largest number in the page's layer.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.06}
_KNOWN_BYTES_MAX = 3 << 30  # those that were not seen for longest are forgotten


class PageWatch:
    def __init__(self, scheduler, layers):
        """layers: name -> vLLM's layer, which has its cache."""
        config = scheduler.kv_cache_config
        self._groups = [(group.kv_cache_spec.block_size, [self._pages(layers[name]) for name in group.layer_names])
                        for group in config.kv_cache_groups]  # fmt: skip
        self._hash_tokens = scheduler.hash_block_size if hasattr(scheduler, "hash_block_size") else self._groups[0][0]
        self._manager = scheduler.kv_cache_manager
        self._known: collections.OrderedDict = collections.OrderedDict()  # (group, hash) -> what was seen there, each different
        self._known_bytes = 0
        self._same: dict[str, int] = {}
        self.wrong: list[str] = []
        for name in ("free", "pop_blocks_for_free"):  # the latter while a step is under way
            if hasattr(self._manager, name):
                self._look_before(name)

    def _look_before(self, name: str) -> None:
        free = getattr(self._manager, name)

        def watched(request):
            self._look(request)
            return free(request)

        setattr(self._manager, name, watched)

    @staticmethod
    def _pages(layer):
        cache = layer.kv_cache
        return cache[0] if isinstance(cache, (list, tuple)) else cache

    def same_tokens(self, request_id: str) -> int:
        """So many leading tokens of a request that ended were in pages that are, to the last bit, what was there before."""
        names = (name for name in reversed(self._same) if name == request_id or name.startswith(f"{request_id}-"))
        return self._same.get(next(names, ""), 0)

    def _look(self, request) -> None:
        if request.status.name in ("FINISHED_ABORTED", "WAITING_FOR_REMOTE_KVS"):
            return  # its pages may never have been filled
        same = []
        for number, ((page_tokens, layers), ids) in enumerate(zip(self._groups, self._manager.get_block_ids(request.request_id))):
            ids = list(ids)[: min(request.num_computed_tokens, request.num_tokens - 1) // page_tokens]
            there = [index for index, page in enumerate(ids) if page != 0]
            if not there:
                continue
            some = torch.tensor([ids[index] for index in there], device=layers[0].device)
            contents = torch.stack([layer[some].flatten(1).cpu() for layer in layers], dim=1)
            seen = {index: self._is_known(request, number, index, page_tokens, content) for index, content in zip(there, contents)}
            same.append(next((index for index in there if not seen[index]), there[-1] + 1) * page_tokens)
        self._same[request.request_id] = min(same, default=0)

    def _is_known(self, request, group: int, index: int, page_tokens: int, content) -> bool:
        """content: [layers, numbers of a page]."""
        hashes = request.block_hashes
        at = (index + 1) * page_tokens // self._hash_tokens - 1
        if at >= len(hashes):
            return False
        key = (group, hashes[at])
        versions = self._known.setdefault(key, [])
        self._known.move_to_end(key)
        if any(torch.equal(content, version) for version in versions):
            return True
        if versions:
            first = versions[0].float()
            off = ((content.float() - first).abs().amax(dim=1) / first.abs().amax(dim=1)).max().item()
            if not off <= _ROUNDING[content.dtype]:
                self.wrong.append(f"{request.request_id}: page {index} of group {group} is off by {off:.3g}")
                return False
        versions.append(content)
        self._known_bytes += content.nbytes
        while self._known_bytes > _KNOWN_BYTES_MAX:
            _, forgotten = self._known.popitem(last=False)
            self._known_bytes -= sum(version.nbytes for version in forgotten)
        return False
