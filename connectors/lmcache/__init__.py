"""A kvpool as second level of LMCache: its `native_plugin` adapter. docs/lmcache.md says how it is set up."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from kvpool._native import LMCacheAdapter, use_huge_pages
from kvpool.errors import InvalidArgument
from kvpool.pool import Pool

LENGTHS_MAX = 64


class Adapter(LMCacheAdapter):
    """What LMCache loads by `"module_path": "kvpool.lmcache", "class_name": "Adapter"`; `adapter_params` are
    the arguments.

    config       the path of a kvpool.toml, or the same as a dict
    lengths_max  values may have that many different lengths; those of further ones are not stored
    huge_pages   whether LMCache's buffers are turned into huge pages where the kernel can: drives are faster so
    memory       buffers in which all values will lie, for devices to know them before (Pool)

    Opens the pool, which it alone uses and which goes with it. Any thread may submit, and one may drain.
    Raises a KVPoolError for a configuration that cannot be.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any],
        lengths_max: int = LENGTHS_MAX,
        huge_pages: bool = True,
        memory: Sequence[Any] = (),
    ):
        if not isinstance(huge_pages, bool):
            raise InvalidArgument(f"huge_pages is {huge_pages!r}; true or false is wanted")
        if memory and huge_pages:
            use_huge_pages(list(memory))  # now: pages that are pinned stay as they are
        self.pool = Pool(config, memory)
        super().__init__(self.pool._native, lengths_max, huge_pages and not memory)
