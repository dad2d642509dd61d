"""What the two sides of a connector share in one process: the pool, by its configuration, and the engine's part.

vLLM makes the worker's side first, then the scheduler's, as two objects; where both are in one process they meet
here. Nothing is opened at import. Thread: any.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import kvpool
from kvpool._native import Namespace, PageMover
from kvpool.vllm.layout import Layout
from kvpool.vllm.work import Store

_lock = threading.Lock()
_pools: dict[str, "_Counted"] = {}
_engines: dict[str, "Engine"] = {}


@dataclass
class _Counted:
    pool: kvpool.Pool
    users: int = 0


def _identity(config: str | Mapping[str, Any]) -> str:
    return os.path.realpath(config) if isinstance(config, str) else json.dumps(config, sort_keys=True, default=str)


class PoolUser:
    """One use of the pool of a configuration: opened with the first, closed with the last. Raises KVPoolError."""

    def __init__(self, config: str | Mapping[str, Any]):
        self._key = _identity(config)
        with _lock:
            counted = _pools.get(self._key)
            if counted is None:
                counted = _pools[self._key] = _Counted(kvpool.Pool(config))
            counted.users += 1
            self.pool = counted.pool

    def close(self) -> None:
        with _lock:
            counted = _pools.get(self._key)
            if self.pool is None or counted is None:
                return
            self.pool = None
            counted.users -= 1
            if counted.users > 0:
                return
            del _pools[self._key]
        counted.pool.close()


@dataclass
class Engine:
    """What the worker's side tells the scheduler's. The two take turns; no lock is needed."""

    layout: Layout
    namespace: Namespace
    mover: PageMover
    layers: tuple[str, ...] = ()  # as loads have them
    # On a GPU: makes an event (torch.cuda.Event) that lies behind all that the engine has given it to do.
    mark: Callable[[], Any] | None = None
    # The GPU was told to wait for copies, so what its step takes says nothing of computing.
    gpu_waits: bool = False
    # Whether other connectors may load into the same pages.
    among_others: bool = False
    # Whether vLLM recomputes a request whose load failed, when it is named.
    requests_may_fail: bool = False
    # Requests whose load failed, and how many blocks of it came.
    failed: dict[str, int] = field(default_factory=dict)
    # Of several groups: those that vLLM has to be told of.
    failed_requests: set[str] = field(default_factory=set)
    # Loads whose end has not been taken from the mover; for vLLM they may have ended.
    loading: set[int] = field(default_factory=set)
    # Stores with events: under way, and ended, with how many blocks are there.
    storing: dict[int, Store] = field(default_factory=dict)
    stored: list[tuple[Store, int]] = field(default_factory=list)


def publish(engine_id: str, engine: Engine) -> None:
    with _lock:
        _engines[engine_id] = engine


def find(engine_id: str) -> Engine | None:
    with _lock:
        return _engines.get(engine_id)


def forget(engine_id: str) -> None:
    with _lock:
        _engines.pop(engine_id, None)
