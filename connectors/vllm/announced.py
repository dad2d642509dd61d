"""What others have been told that the pool holds (KV events), and what they have still to be told.

The pool does not say what it evicts, only how many blocks, and how many it has. It evicts leaves, by their last use;
so the blocks are kept in that order here, and when there are more of them than the pool has, the first ones are taken
back, as many as were evicted and not taken back yet. What is lost otherwise, by a wrong checksum say, is taken back by
the load that fails or by the next match that misses it; where neither comes for a while, it counts as evicted too.
What was taken back too early is announced again by the next match that finds it.

Knows no vLLM: an event is whatever `make` returns. Thread: the engine's.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The pool's counters are a few milliseconds old.
_LOOK_S = 0.1
# More blocks than the pool has may have been told for so long, if they were not evicted.
_PATIENCE_S = 10.0


@dataclass(slots=True)
class Block:
    """The events that tell of one block."""

    stored: list[Any]
    removed: list[Any]


@dataclass(slots=True)
class _Told:
    parent: bytes | None
    since_s: float
    removed: list[Any]


class Announced:
    def __init__(self, make: Any, counters: Callable[[], Mapping[str, int]]):
        """make: block(request, index) -> Block, cleared() -> an event. counters: the pool's."""
        self._make = make
        self._counters = counters
        self._told: dict[bytes, _Told] = {}  # coldest first
        self._events: list[Any] = []
        self._told_before = 0  # at the last look
        self._evicted = counters()["evicted_blocks"]  # at the last look
        self._owed = 0  # of those, that may still be among what was told
        self._even_s = time.monotonic()  # when no more was told than the pool had
        self._look_s = 0.0

    def planned(self, request: Any, first: int, end: int) -> list[Block]:
        """Of blocks that are going to be stored: the request may be gone by then."""
        return [self._make.block(request, index) for index in range(first, end)]

    def stored(self, keys: Sequence[bytes], parent: bytes | None, blocks: Sequence[Block]) -> None:
        """Of the keys, which follow `parent`, as many as there are blocks."""
        for key, block in zip(keys, blocks):
            self._tell(key, parent, block)
            parent = key
        self._use(parent)

    def found(self, request: Any, keys: Sequence[bytes], blocks: int, asked_s: float) -> None:
        """Of the request's first blocks, which have these keys, the pool had so many at that time."""
        for index in range(blocks):
            if keys[index] not in self._told:
                self._tell(keys[index], keys[index - 1] if index > 0 else None, self._make.block(request, index))
        if blocks > 0:
            self._use(keys[blocks - 1])
        self.missing(keys[blocks:], asked_s)

    def missing(self, keys: Sequence[bytes], asked_s: float = float("inf")) -> None:
        """The pool did not have them at that time."""
        for key in keys:
            told = self._told.get(key)
            if told is not None and told.since_s < asked_s:
                del self._told[key]
                self._events.extend(told.removed)

    def cleared(self) -> None:
        self._told.clear()
        self._events = [self._make.cleared()]

    def take(self) -> list[Any]:
        self._take_back_evicted()
        events, self._events = self._events, []
        return events

    def _tell(self, key: bytes, parent: bytes | None, block: Block) -> None:
        if key not in self._told:
            self._events.extend(block.stored)
        self._told[key] = _Told(parent, time.monotonic(), block.removed)

    def _use(self, key: bytes | None) -> None:
        """Now: a block, and those that it follows, which are colder than none of their children."""
        while key is not None and (told := self._told.pop(key, None)) is not None:
            self._told[key] = told
            key = told.parent

    def _take_back_evicted(self) -> None:
        now = time.monotonic()
        if now < self._look_s:
            return
        self._look_s = now + _LOOK_S
        # Of what has been told since the last look, the pool's number may not know yet.
        counters = self._counters()
        self._owed += counters["evicted_blocks"] - self._evicted
        self._evicted = counters["evicted_blocks"]
        excess = max(0, min(self._told_before, len(self._told)) - counters["ready_blocks"])
        count = min(excess, self._owed) if now - self._even_s < _PATIENCE_S else excess
        self._owed = max(0, self._owed - count)
        if count == excess:
            self._even_s = now
        self.missing(list(itertools.islice(self._told, count)))
        self._told_before = len(self._told)
