"""The scheduler's side: what the pool has of a request, what of it is worth loading, what a step has to store.

Knows no vLLM types beyond the attributes that it reads, so that it is tested without an engine. Thread: the
engine's.
"""

import itertools
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import kvpool
from kvpool._native import PageNumbers
from kvpool.vllm import prefill
from kvpool.vllm.announced import Announced
from kvpool.vllm.layout import KEY_BYTES, each_key
from kvpool.vllm.registry import Engine
from kvpool.vllm.settings import Settings
from kvpool.vllm.work import Load, Step, Store

log = logging.getLogger("vllm.kvpool")

# Of copies from memory to memory.
_VERIFIED_TIMEOUT_S = 60.0
_RESET_TIMEOUT_S = 60.0
# Copies out of pages take milliseconds; one that takes this long has failed, and its pages cannot be reused.
_FENCE_S = 60.0
# The pool's queues change; an estimate is asked for again when it is so old.
_ESTIMATE_S = 0.2
# Of a pool that is as busy for so many looks nothing is expected.
_BUSY_MAX = 100
# Reasons, each in one line of the log.
_SAID_MAX = 20


@dataclass
class Tracked:
    """One request, from when vLLM knows it to its end."""

    request: Any
    number: int
    computed: int = 0  # tokens, in vLLM's own cache
    block_ids: list[PageNumbers] = field(default_factory=list)  # pages, of each group
    stored: int | None = None  # leading blocks that are in the pool, or on their way; None: not known yet
    match: Any = None  # under way
    asked: tuple[bytes, float] = (b"", 0.0)  # of the match, for those who are told: its keys, and when
    staging: Any = None  # under way
    pin: Any = None
    matched: int = 0
    estimate_s: float = 0.0
    estimated: float = 0.0  # when
    estimating: Any = None  # under way
    staged_first: int = 0
    staged_blocks: int | None = None  # from staged_first up to here, verified in memory, and there while pinned
    busy: int = 0  # answers that the pool had no room to give
    offered: tuple[int, int, bool] | None = None  # computed tokens, blocks, is_async: of the last answer
    loading: int = 0  # the job of an asynchronous load
    may_load: bool = True
    may_store: bool = True

    def drop_pin(self) -> None:
        if self.pin is not None:
            self.pin.release()
        self.pin = self.match = self.staging = self.estimating = self.offered = None
        self.matched = 0
        self.staged_blocks = None


class SchedulerSide:
    def __init__(self, engine: Engine, settings: Settings, pool: kvpool.Pool, must_verify_first: bool,
                 announced: Announced | None = None, loads: bool = True, stores: bool = True,
                 hashes_stay: bool = False):  # fmt: skip
        """hashes_stay: of tokens that vLLM drops from a session, in its own cache too. must_verify_first: vLLM cannot recompute a load that fails, so only what cannot fail is promised.
        announced: where somebody wants KV events."""
        self._engine = engine
        self._layout = engine.layout
        self._settings = settings
        self._consumer = pool.consumer("vllm")
        self._must_verify_first = must_verify_first
        self._announced = announced
        self._may_load, self._may_store = loads, stores
        self._hashes_stay = hashes_stay
        self._tracked: dict[str, Tracked] = {}
        self._numbers = itertools.count(1)
        self._step = Step()
        self._roots: set[bytes] = set()  # all of them: which the pool has evicted it does not say
        self._model = prefill.PrefillModel()
        self._steps: deque[tuple[int, float, int, float]] = deque(maxlen=4)  # number, began, tokens, pairs; not yet ended
        self._last_end = 0.0
        self._wait_until = 0.0  # in this step; 0: nothing has waited yet
        self._said: set[str] = set()
        self.matched_tokens = 0
        self.declined_tokens = 0

    # ---- requests ----

    def on_new_request(self, request: Any) -> None:
        tracked = Tracked(request, next(self._numbers), may_load=self._may_load, may_store=self._may_store)
        if getattr(request, "lora_request", None) is not None:
            self._say_once("vLLM's hashes name its LoRA adapter, but not the adapter's weights")
            tracked.may_load = tracked.may_store = False
        if getattr(request, "resumable", False):
            self._say_once("a session of streaming input may keep hashes of tokens that vLLM has dropped")
            tracked.may_load = tracked.may_store = False
            if self._hashes_stay and self._may_store:
                log.warning("kvpool: nothing is stored any more: this vLLM's own cache keeps such hashes")
                self._may_store = False
                for other in self._tracked.values():
                    other.may_store = False
        if getattr(request, "skip_reading_prefix_cache", False):
            tracked.may_load = False
        self._tracked[request.request_id] = tracked
        self._begin_match(tracked)

    def get_num_new_matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            self.on_new_request(request)
            tracked = self._tracked[request.request_id]
        self._note_failure(tracked)
        tracked.computed = computed
        if not tracked.may_load or tracked.loading:
            return 0, False
        if not self._know_match(tracked):
            return None, False
        tokens = self._layout.block_tokens
        blocks = min(tracked.matched, (request.num_tokens - 1) // tokens)
        if tracked.pin is None or blocks * tokens <= computed:
            return 0, False
        self._renew_estimate(tracked)
        blocks = self._worth(tracked, computed, blocks)
        if blocks * tokens <= computed:
            self.declined_tokens += tracked.matched * tokens - computed
            tracked.drop_pin()
            return 0, False
        load_ms = self._load_s(tracked, computed, blocks) * 1e3
        # A step waits for such a load, so nothing may be before it; and if it fails, only by pages can that be said. On a GPU
        # what runs there is before it.
        budget_ms = self._settings.sync_load_budget_ms
        synchronous = (
            0 < budget_ms >= load_ms and self._layout.fails_by_page and self._engine.mark is None and not self._engine.mover.busy()
        )
        if synchronous or self._must_verify_first:
            if not self._know_staged(tracked, computed // tokens, blocks):
                return None, False
            if tracked.staged_blocks < blocks:  # memory has no room for all of it
                synchronous = False
                blocks = tracked.staged_blocks if self._must_verify_first else blocks
                if blocks * tokens <= computed:
                    return 0, False
        tracked.offered = (computed, blocks, not synchronous)
        return blocks * tokens - computed, not synchronous

    def wants_pages(self, external: int) -> bool:
        return external > 0 or self._engine.among_others

    def update_state_after_alloc(self, request: Any, block_ids: tuple[list[int], ...], external: int) -> None:
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            return
        tracked.loading = 0
        if external == 0:  # the step names its pages, unless they are for another connector's load
            if self._engine.among_others:
                for group, ids in zip(self._layout.groups, block_ids):
                    self._step.pages.extend(PageNumbers(ids), tracked.computed // group.page_tokens)
            tracked.drop_pin()
            return
        tracked.block_ids = [PageNumbers(ids) for ids in block_ids]
        computed, blocks, is_async = tracked.offered
        first = computed // self._layout.block_tokens
        load = Load(
            id=next(self._numbers),
            request_id=request.request_id,
            pin=tracked.pin,
            block_first=first,
            blocks=blocks - first,
            pages=self._layout.pages_to_load(tracked.block_ids, first, blocks, computed),
            page_ids=tracked.block_ids[0].part(first * self._layout.groups[0].pages, blocks * self._layout.groups[0].pages),
            pages_of_block=self._layout.groups[0].pages,
            pages_computed=computed // self._layout.groups[0].page_tokens - first * self._layout.groups[0].pages,
            is_async=is_async,
            timeout_s=_VERIFIED_TIMEOUT_S if blocks <= (tracked.staged_blocks or 0) else self._settings.load_timeout_s or -1,
        )
        tracked.pin = None  # the load's
        tracked.drop_pin()
        tracked.loading = load.id if is_async else 0
        self.matched_tokens += external
        self._step.loads.append(load)

    def request_finished(self, request_id: str) -> None:
        tracked = self._tracked.pop(request_id, None)
        if tracked is None:
            return
        if tracked.loading:
            self._step.cancels.append(tracked.loading)
        tracked.drop_pin()
        self._note_failure(tracked)

    # ---- steps ----

    def build_step(self, output: Any) -> Step:
        for request_id in output.preempted_req_ids or ():
            self._preempted(request_id)
        self._wait_until = 0.0
        step, self._step = self._step, Step()
        for load in step.loads:
            step.pages.extend(load.pages)
        self._take_block_ids(output, step.pages)
        if len(step.pages) > 0 and not self._engine.mover.wait_unread(step.pages, _FENCE_S):
            raise RuntimeError(f"kvpool: pages are still being read after {_FENCE_S:.0f} s")
        step.computes = any(output.num_scheduled_tokens.values())
        self._plan_stores(output, step)
        step.number = next(self._numbers)
        self._begin_step(output, step)
        return step

    def step_ended(self, number: int) -> None:
        """It has been computed, and so were those before it."""
        while self._steps and self._steps[0][0] < number:
            self._steps.popleft()
        if not self._steps or self._steps[0][0] > number:
            return
        _, began, tokens, pairs = self._steps.popleft()
        now = time.monotonic()
        if not self._engine.gpu_waits:
            self._model.observe(tokens, pairs, now - max(began, self._last_end))
        self._last_end = now

    def reset(self) -> None:
        """Removes whatever this engine has stored or found; requests that are there store no more."""
        for tracked in self._tracked.values():
            tracked.drop_pin()
            tracked.stored = 0
            tracked.may_load = tracked.may_store = False
        self._step.stores.clear()
        if not self._engine.mover.cancel_stores(_RESET_TIMEOUT_S):
            raise RuntimeError("kvpool: stores that were cancelled do not end")
        if self._announced is not None:
            self._engine.storing.clear()
            self._engine.stored.clear()
            self._announced.cleared()
        roots = list(self._roots)
        for at in range(0, len(roots), 64):
            some = roots[at : at + 64]
            removed = self._consumer.delete(self._engine.namespace, some).result(_RESET_TIMEOUT_S)
            if removed.status not in (kvpool.Status.OK, kvpool.Status.MISS):
                raise RuntimeError(f"kvpool: blocks were not removed: {removed.status.name}")
            self._roots.difference_update(some)  # the others are still known when this is tried again

    def take_events(self) -> list[Any]:
        if self._announced is None:
            return []
        stored, self._engine.stored = self._engine.stored, []
        for store, blocks in stored:
            self._announced.stored(each_key(store.keys), store.parent, store.events[:blocks])
        return self._announced.take()

    def has_work(self) -> bool:
        """Whether something is to come of a step without requests: events; the end of a load, which keeps pages and a pin."""
        return bool(self._engine.storing or self._engine.stored or self._engine.loading)

    def counters(self) -> dict[str, int]:
        return {"matched_tokens": self.matched_tokens, "declined_tokens": self.declined_tokens}

    def close(self) -> None:
        for tracked in self._tracked.values():
            tracked.drop_pin()
        self._tracked.clear()
        self._consumer.close(60)

    # ---- what the pool has ----

    def _begin_match(self, tracked: Tracked) -> None:
        hashes = tracked.request.block_hashes
        blocks = min(self._layout.blocks_hashed(hashes), tracked.request.num_tokens // self._layout.block_tokens)
        if blocks == 0 or not (tracked.may_load or tracked.may_store):
            tracked.stored = 0
            return
        try:
            keys = self._layout.keys(hashes, 0, blocks)
            tracked.match = self._consumer.match(self._engine.namespace, keys, pin=tracked.may_load)
            if self._announced is not None:
                tracked.asked = keys, time.monotonic()
        except kvpool.Busy:
            tracked.match = None  # the next look tries again

    def _know_match(self, tracked: Tracked) -> bool:
        """Whether it is known what the pool has; waits a moment for it."""
        if tracked.pin is not None or tracked.stored is not None and tracked.match is None:
            return True
        if tracked.match is None:
            self._begin_match(tracked)
        if tracked.match is None:
            return tracked.stored is not None
        try:
            result = tracked.match.result(self._wait_s())
        except kvpool.TimedOut:
            return False
        except kvpool.KVPoolError as error:  # too many blocks for the pool's limits
            self._say_once(error)
            tracked.drop_pin()
            tracked.stored = 0
            tracked.may_load = tracked.may_store = False
            return True
        tracked.match = None
        tracked.busy = tracked.busy + 1 if result.status == kvpool.Status.BUSY else 0
        if 0 < tracked.busy < _BUSY_MAX:  # too many pins: the next look tries again
            return False
        if self._announced is not None and tracked.busy == 0:
            self._announced.found(tracked.request, each_key(tracked.asked[0]), result.blocks, tracked.asked[1])
            tracked.asked = b"", 0.0
        tracked.matched = result.blocks if result.pin is not None else 0
        if result.blocks > 0:
            self._roots.add(self._layout.keys(tracked.request.block_hashes, 0, 1))
        tracked.estimate_s, tracked.estimated = result.estimate_s, time.monotonic()
        tracked.pin = result.pin
        tracked.stored = max(tracked.stored or 0, result.blocks)
        return True

    def _renew_estimate(self, tracked: Tracked) -> None:
        """Of a request that has waited; the old one serves until the pool has answered."""
        try:
            if tracked.estimating is None and time.monotonic() - tracked.estimated > _ESTIMATE_S:
                tracked.estimating = self._consumer.estimate(tracked.pin)
            if tracked.estimating is None:
                return
            result = tracked.estimating.result(0)
            tracked.estimated = time.monotonic()
            if result.status == kvpool.Status.OK:
                tracked.estimate_s = result.estimate_s
        except kvpool.TimedOut:
            return
        except kvpool.KVPoolError:  # the old one has to serve
            tracked.estimated = time.monotonic()
        tracked.estimating = None

    def _know_staged(self, tracked: Tracked, first: int, blocks: int) -> bool:
        """Whether what is in the pool has been verified in memory, as far as that has room for it."""
        if tracked.staged_blocks is not None and tracked.staged_first <= first:
            return True
        try:
            if tracked.staging is None:
                tracked.staged_first, tracked.staged_blocks = first, None
                tracked.staging = self._consumer.stage(tracked.pin, first, blocks - first)
            result = tracked.staging.result(self._wait_s())
            staged = None if result.status == kvpool.Status.BUSY else result.blocks
        except kvpool.TimedOut:
            return False
        except kvpool.Busy:
            staged = None
        except kvpool.KVPoolError as error:
            self._say_once(error)
            tracked.staging = None
            tracked.staged_blocks = first
            return True
        tracked.staging = None
        tracked.busy = tracked.busy + 1 if staged is None else 0
        if 0 < tracked.busy < _BUSY_MAX:
            return False
        tracked.staged_blocks = tracked.staged_first + (staged or 0)
        return tracked.staged_first <= first

    def _wait_s(self) -> float:
        """What is left of the time that one step may wait for the pool."""
        now = time.monotonic()
        if self._wait_until == 0.0:
            self._wait_until = now + self._settings.match_wait_ms / 1e3
        return max(0.0, self._wait_until - now)

    def _say_once(self, why: Exception | str) -> None:
        if str(why) not in self._said and len(self._said) < _SAID_MAX:
            log.warning("kvpool: requests are computed without the pool: %s", why)
            self._said.add(str(why))

    def _load_s(self, tracked: Tracked, computed: int, blocks: int) -> float:
        first = computed // self._layout.block_tokens
        return tracked.estimate_s * (blocks - first) / max(1, tracked.matched)

    def _worth(self, tracked: Tracked, computed: int, blocks: int) -> int:
        if not self._settings.recompute:
            return blocks
        tokens = self._layout.block_tokens
        first = computed // tokens
        worth = prefill.worth_loading(
            self._model, self._load_s(tracked, computed, blocks), computed, blocks - first, tokens,
            (first + 1) * tokens - computed,
        )
        return first + worth if worth else 0

    def _note_failure(self, tracked: Tracked) -> None:
        good = self._engine.failed.pop(tracked.request.request_id, None)
        if good is None:
            return
        if self._announced is not None:
            hashes = tracked.request.block_hashes
            self._announced.missing(each_key(self._layout.keys(hashes, good, self._layout.blocks_hashed(hashes))))
        tracked.may_load = False  # vLLM asks again at once, and would for ever
        tracked.loading = 0
        tracked.drop_pin()
        tracked.stored = good

    # ---- pages ----

    def _take_block_ids(self, output: Any, written: PageNumbers) -> None:
        """Brings the requests' pages up to date, and adds those of their new ones that may be written to `written`."""
        for new in output.scheduled_new_reqs:
            tracked = self._tracked.get(new.req_id)
            pages = [PageNumbers(ids) for ids in new.block_ids]
            if tracked is not None:
                tracked.block_ids = pages
            for group, ids in zip(self._layout.groups, pages):
                written.extend(ids, new.num_computed_tokens // group.page_tokens)  # the others were found in vLLM's own cache
        cached = output.scheduled_cached_reqs
        for request_id, ids_of_groups in zip(cached.req_ids, cached.new_block_ids):
            if ids_of_groups is None:
                continue
            tracked = self._tracked.get(request_id)
            resumed = request_id in cached.resumed_req_ids
            pages = [PageNumbers(ids) for ids in ids_of_groups]
            for ids in pages:
                written.extend(ids)
            if tracked is not None and (resumed or not tracked.block_ids):
                tracked.block_ids = pages
            elif tracked is not None:
                for known, ids in zip(tracked.block_ids, pages):
                    known.extend(ids)

    def _plan_stores(self, output: Any, step: Step) -> None:
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens))
        for request_id, scheduled in output.num_scheduled_tokens.items():
            tracked = self._tracked.get(request_id)
            if tracked is None or not tracked.may_store or request_id not in computed:
                continue
            self._note_failure(tracked)
            store = self._store_of(tracked, computed[request_id], scheduled)
            if store is not None:
                step.stores.append(store)

    def _store_of(self, tracked: Tracked, computed: int, scheduled: int) -> Store | None:
        hashes = tracked.request.block_hashes
        end = min((computed + scheduled) // self._layout.block_tokens, self._layout.blocks_hashed(hashes))
        if end <= (tracked.stored or 0) or not self._know_match(tracked):
            return None
        first = tracked.stored or 0
        if end <= first:
            return None
        # Of what an earlier step has filled, pages that a window has left may be others' by now, untold.
        gone = self._layout.may_be_gone(first, computed)
        pages = None if gone else self._layout.pages_to_store(tracked.block_ids, first, end)
        if pages is None:
            tracked.may_store = False  # nor can what follows be stored: its parent is missing
            return None
        keys = self._layout.keys(hashes, max(0, first - 1), end)
        if first == 0:
            self._roots.add(keys[:KEY_BYTES])
        tracked.stored = end
        return Store(
            id=next(self._numbers),
            chain=tracked.number,
            keys=keys if first == 0 else keys[KEY_BYTES:],
            parent=None if first == 0 else keys[:KEY_BYTES],
            pages=pages,
            events=self._announced.planned(tracked.request, first, end) if self._announced is not None else [],
        )

    def _preempted(self, request_id: str) -> None:
        tracked = self._tracked.get(request_id)
        if tracked is None:
            return
        tracked.block_ids = []
        tracked.drop_pin()
        self._begin_match(tracked)  # it has more tokens than when it came

    # ---- the engine's speed ----

    def _begin_step(self, output: Any, step: Step) -> None:
        contexts = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        contexts.update(zip(cached.req_ids, cached.num_computed_tokens))
        tokens, pairs = 0, 0.0
        for request_id, scheduled in output.num_scheduled_tokens.items():
            tokens += scheduled
            pairs += prefill.pairs_of(contexts.get(request_id, 0), scheduled)
        if tokens > 0:
            # 0 tokens are not observed.
            self._steps.append((step.number, time.monotonic(), 0 if self._engine.gpu_waits else tokens, pairs))
            self._engine.gpu_waits = False
