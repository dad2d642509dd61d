"""Pool: the devices of one configuration, and whatever is stored on them."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from kvpool._checks import count, plain_text, refuse
from kvpool._native import Consumer, Namespace, NativePool
from kvpool.geometry import Geometry

_CLOSE_TIMEOUT_S = 60.0


def key(content: bytes) -> bytes:
    """A key of 16 bytes for whatever identifies a block. The same bytes give the same key everywhere."""
    return hashlib.blake2b(content, digest_size=16).digest()


class Pool:
    """A pool that is open in this process.

    `config` is the path of a kvpool.toml, or the same as a dict: {"pool": {...}, "device": [{...}]}.
    Blocks while memory is prepared and, where no profile is stored, while each device is measured for up to
    a second. What the devices held of an earlier pool is discarded. Any thread may use it.

    `memory` lists buffers of the program's own, at most 16, from which it will store and into which it will
    retrieve: devices that are faster, or spare a copy, where they know memory before are told of it. It is
    pinned, and held until the pool is closed.

    Raises a KVPoolError: InvalidArgument for a configuration that cannot be, InUse, NotOurs, ...
    """

    def __init__(self, config: str | os.PathLike[str] | Mapping[str, Any], memory: Sequence[Any] = ()):
        if isinstance(config, Mapping):
            self._native = NativePool(toml=tomli_w.dumps(_toml(config, "")), memory=list(memory))
        elif isinstance(config, (str, os.PathLike)):
            path = plain_text(os.fsdecode(config), "the configuration's path")
            self._native = NativePool(path=path, memory=list(memory))
        else:
            raise refuse("config", config, "the path of a kvpool.toml or a dict")

    @classmethod
    def from_toml(cls, text: str) -> "Pool":
        """Of a configuration's text."""
        pool = cls.__new__(cls)
        pool._native = NativePool(toml=plain_text(text, "the configuration's text"))
        return pool

    def namespace(self, geometry: Geometry) -> Namespace:
        """Finds the namespace of that name, or makes it. InvalidArgument if it exists with another shape."""
        if not isinstance(geometry, Geometry):
            raise refuse("the geometry", geometry, "a kvpool.Geometry, also for a namespace of the configuration,")
        return self._native.open_namespace(
            geometry.name, geometry.block_tokens, list(geometry.segment_bytes), list(geometry.window), geometry.flat
        )

    def consumer(self, name: str = "python", region_bytes: int = 0) -> Consumer:
        """One party that stores and retrieves.

        `region_bytes` of the pool's own memory (`buffers` of the configuration) are its `region`: of huge
        pages where the system has them, aligned, and known to the devices. Use one consumer a thread: threads
        that wait on the same one wake each other late.
        """
        count(region_bytes, "region_bytes", least=0, most=2**64 - 1)
        return Consumer.open(self._native, plain_text(name, "the consumer's name"), region_bytes)

    def stats(self) -> dict[str, int | float]:
        """Counters since the pool was opened; kvpool_stats in kvpool's include/kvpool/kvpool.h says what
        each counts."""
        return self._native.stats()

    def device_stats(self) -> list[dict[str, Any]]:
        """The same for each device, in the order of the configuration."""
        return self._native.device_stats()

    @property
    def closed(self) -> bool:
        return self._native.closed

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Ends what is under way and gives everything back; its consumers are closed too.

        TimedOut: a device still holds buffers; call again.
        """
        self._native.close(timeout_s)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _toml(value: object, key: str) -> Any:
    """The same of what TOML has alone; of a path its text."""
    if isinstance(value, Mapping):
        table = {}
        for name, item in value.items():
            its_key = f"{key}.{name}" if key else str(name)
            if not isinstance(name, str):
                raise refuse(f"key {its_key!r}: the name", name, "a str")
            table[name] = _toml(item, its_key)
        return table
    if isinstance(value, (list, tuple)):
        return [_toml(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fsdecode(value)
    if isinstance(value, str):
        return plain_text(value, f"key {key!r}")
    if isinstance(value, (bool, int, float)):
        return value
    raise refuse(f"key {key!r}", value, "what TOML has (text, a number, true or false, a list, a table)")
