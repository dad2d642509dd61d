"""kvpool: one pool of host memory and SSDs for the KV caches of large language models.

    import kvpool

    with kvpool.Pool("kvpool.toml") as pool:
        ns = pool.namespace(kvpool.Geometry("demo", block_tokens=256, segment_bytes=[1 << 20] * 32))
        consumer = pool.consumer()
        consumer.store(ns, keys, data).result()
        found = consumer.match(ns, keys).result()
        consumer.retrieve(ns, found.pin, destination).result()

Keys are 16 bytes each, one for a block; key() makes one of any bytes. Buffers are whatever has the buffer
protocol or DLPack (NumPy, PyTorch, memoryview), in host memory; they are read and written where they lie.
"""

from kvpool._native import Consumer, Namespace, Pin, Request, Result
from kvpool._native import version as __version__
from kvpool.errors import (
    Busy,
    Closed,
    DeviceError,
    InUse,
    InvalidArgument,
    KVPoolError,
    NotOurs,
    OperatingSystemError,
    Status,
    TimedOut,
    TooLarge,
    Unsupported,
)
from kvpool.geometry import Geometry
from kvpool.pool import Pool, key

__all__ = [
    "Busy",
    "Closed",
    "Consumer",
    "DeviceError",
    "Geometry",
    "InUse",
    "InvalidArgument",
    "KVPoolError",
    "Namespace",
    "NotOurs",
    "OperatingSystemError",
    "Pin",
    "Pool",
    "Request",
    "Result",
    "Status",
    "TimedOut",
    "TooLarge",
    "Unsupported",
    "__version__",
    "key",
]
