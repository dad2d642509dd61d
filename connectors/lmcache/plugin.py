"""The same as LMCache's `plugin` adapter, which is told where LMCache's memory lies: devices learn of it before, so that
drives that want registered memory read and write it without a copy. docs/lmcache.md says how it is set up."""

import ctypes
from typing import Any

from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import NativeConnectorL2Adapter

from kvpool.lmcache import Adapter


class L2Adapter(NativeConnectorL2Adapter):
    """What LMCache loads by `"module_path": "kvpool.lmcache.plugin", "class_name": "L2Adapter"`.

    params          kvpool.lmcache.Adapter's arguments, and max_capacity_gb (GiB) for LMCache's own eviction
    l1_memory_desc  LMCache's memory. Only what LMCache calls stable is named to devices: what is not may be shared,
                    or not be there yet, and must not be pinned
    """

    def __init__(self, params: dict[str, Any], l1_memory_desc: Any = None):
        params = dict(params)
        max_capacity_gb = params.pop("max_capacity_gb", 0)
        memory = []
        if l1_memory_desc is not None and l1_memory_desc.stable_registration_size:
            length_bytes = l1_memory_desc.stable_registration_size
            memory = [(ctypes.c_uint8 * length_bytes).from_address(l1_memory_desc.ptr)]
        super().__init__(Adapter(**params, memory=memory), max_capacity_gb=max_capacity_gb, type_name="kvpool")
