"""The worker's side: moves pages as the scheduler's side says, and tells when they are there. Thread: the engine's."""

import logging
from typing import Any

import kvpool
from kvpool._native import PageMover
from kvpool.vllm.layer_waits import LayerWaits
from kvpool.vllm.layout import Layout, Unsupported, layer_pages, namespace_name
from kvpool.vllm.registry import Engine
from kvpool.vllm.settings import Settings
from kvpool.vllm.work import Load, Step

log = logging.getLogger("vllm.kvpool")

# A load on a GPU comes in parts of some layers each: one for each so many of its blocks, and so many at most.
_PART_BLOCKS_MIN = 4
_PARTS_MAX = 16


def open_engine(vllm_config: Any, layout: Layout, caches: dict[str, Any], num_pages: int, settings: Settings,
                pool: kvpool.Pool) -> Engine:
    """Opens the namespace and the mover of these caches. Raises Unsupported, or KVPoolError."""
    layers, gpu = layer_pages(layout, caches, num_pages)
    windows = [layout.groups[layer.group].window for layer in layers]
    name = namespace_name(vllm_config, layout, layers, settings.namespace, _flavour(vllm_config, layers))
    segment_bytes = [layout.groups[layer.group].pages * layer.page_bytes for layer in layers]
    try:
        namespace = pool.namespace(
            kvpool.Geometry(name, layout.block_tokens, segment_bytes, windows if any(windows) else ())
        )
    except kvpool.KVPoolError as error:
        raise Unsupported(f"the pool cannot hold such blocks: {error}") from error
    try:
        mover = PageMover.open(pool._native, namespace, [layer.native() for layer in layers],
                               [group.pages for group in layout.groups], settings.staging_bytes, gpu=gpu)
    except (kvpool.Unsupported, kvpool.OperatingSystemError) as error:  # the latter: no GPU memory, none that can be pinned
        raise Unsupported(str(error)) from error
    return Engine(layout, namespace, mover, tuple(layer.name for layer in layers), None if gpu is None else _mark)


def _mark() -> Any:
    import torch

    event = torch.cuda.Event()
    event.record()
    return event


def _flavour(vllm_config: Any, layers: list[Any]) -> str:
    """How attention on this CPU packs a page, where vLLM says so."""
    try:
        from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
    except ImportError:
        return ""
    spec = vllm_config.model_config
    return str(_get_attn_isa(spec.dtype, vllm_config.cache_config.block_size, spec.get_head_size()))


class WorkerSide:
    def __init__(self, engine: Engine, zeroes_pages: bool = False):
        """zeroes_pages: as a step begins, whoever had them before."""
        self._engine = engine
        self._mover = engine.mover
        self._waits = LayerWaits(engine.layers)
        layout = engine.layout
        # Layers of several groups lie on each other; pages that hashes divide are copied as a step begins.
        divided = any(layout.hash_tokens < group.page_tokens for group in layout.groups)
        self._whole_loads = zeroes_pages or divided or len(layout.groups) > 1
        self._loads: dict[int, Load] = {}
        self._marks: dict[int, Any] = {}  # of jobs under way, which wait for them
        self._parts: dict[int, list[tuple[int, Any]]] = {}  # of loads under way: layers' end, what lies behind them
        self._ordered: dict[int, int] = {}  # loads that have ended for vLLM, and whose copies have not: blocks
        self._cancelled: set[int] = set()
        self._step_is_wrong = False  # it computes on pages that a synchronous load should have filled
        self._failed_pages: set[int] = set()
        self._finished: set[str] = set()

    def begin_step(self, step: Step, context: Any) -> None:
        """Whoever had the pages of its loads before has been given to the GPU, and nothing of this step. context: vLLM's
        ForwardContext, or None."""
        if step.computes:
            self._waits.begin_step(context)
        for job in step.cancels:
            self._mover.cancel(job)
            self._ordered.pop(job, None)
            if job in self._loads:
                self._cancelled.add(job)
        if self._engine.mark is None:
            return
        for load in step.loads:
            self._marks[load.id] = self._engine.mark()
            # Others may write into the pages of a load that has ended for vLLM, and not every one of them waits for a stream.
            if self._engine.among_others:
                continue
            layers = len(self._engine.layers)
            count = 1 if self._whole_loads else max(1, min(_PARTS_MAX, load.blocks // _PART_BLOCKS_MIN))
            ends = sorted({-(-layers * part // count) for part in range(1, count + 1)})
            self._parts[load.id] = [(end, self._engine.mark()) for end in ends]

    def start_loads(self, step: Step) -> None:
        """vLLM 0.32 asks for that when the step has been given to the GPU, unless it waits for some of them."""
        loads, step.loads = step.loads, []
        self._step_is_wrong = False
        waited = [load for load in loads if not load.is_async]
        for load in waited:  # before the others, behind which they would wait
            self._start(load)
        for load in waited:
            self._mover.wait_ended(load.id)
        if waited:
            self.take_events()
        for load in loads:
            if load.is_async:
                self._start(load)

    def _start(self, load: Load) -> None:
        self._loads[load.id] = load
        self._engine.loading.add(load.id)
        parts = [(end, event.cuda_event) for end, event in self._parts.get(load.id, ())]
        try:
            self._mover.load(load.id, load.pin, load.block_first, load.blocks, load.pages, load.timeout_s,
                             self._event_of(load.id), parts)
        except kvpool.KVPoolError as error:
            log.warning("kvpool: a load of %d blocks was refused: %s", load.blocks, error)
            self._copied(load.id)
            self._ended(load.id, 0)

    def before_layer(self, layer: str) -> None:
        self._waits.before(layer)

    def start_stores(self, step: Step) -> None:
        if step.computes:
            self._waits.wait_for_all()
        stores, step.stores = step.stores, []
        if self._step_is_wrong or not stores:
            return
        mark = self._engine.mark() if self._engine.mark is not None else None  # behind what fills their pages
        for store in stores:
            if mark is not None:
                self._marks[store.id] = mark
            try:
                self._mover.store(store.id, store.chain, store.keys, store.parent, store.pages, self._event_of(store.id))
            except kvpool.KVPoolError:  # a cache may forget
                self._marks.pop(store.id, None)
                continue
            if store.events:
                self._engine.storing[store.id] = store

    def _event_of(self, job: int) -> int:
        mark = self._marks.get(job)
        return mark.cuda_event if mark is not None else 0

    def _copied(self, load: int) -> None:
        self._marks.pop(load, None)
        self._parts.pop(load, None)
        self._engine.loading.discard(load)

    def take_events(self) -> None:
        for job, kind, blocks in self._mover.events():
            if kind == PageMover.ORDERED:
                self._waits.add(self._parts[job], at_once=self._whole_loads)
                self._engine.gpu_waits = True
                if job not in self._cancelled:
                    self._ordered[job] = blocks
                self._ended(job, blocks)
            elif kind == PageMover.LOADED:
                self._copied(job)
                if job in self._loads:
                    self._ended(job, blocks)
                elif blocks < self._ordered.pop(job, 0):
                    raise RuntimeError("kvpool: the GPU did not copy what it was given; its pages are wrong")
            elif kind == PageMover.STORED:
                self._marks.pop(job, None)
                if (store := self._engine.storing.pop(job, None)) is not None:
                    self._engine.stored.append((store, blocks))

    def _ended(self, job: int, blocks: int) -> None:
        load = self._loads.pop(job)
        if job in self._cancelled:
            self._cancelled.discard(job)
        elif blocks < load.blocks:
            self._note_failure(load, blocks)
        if load.is_async:
            self._finished.add(load.request_id)

    def _note_failure(self, load: Load, blocks: int) -> None:
        self._engine.failed[load.request_id] = load.block_first + blocks
        self._step_is_wrong = self._step_is_wrong or not load.is_async
        if self._engine.layout.fails_by_page:
            self._failed_pages.update(load.page_ids.part(max(blocks * load.pages_of_block, load.pages_computed)).tolist())
        elif load.is_async and self._engine.requests_may_fail:
            self._engine.failed[load.request_id] = load.block_first
            self._engine.failed_requests.add(load.request_id)
        else:
            raise RuntimeError("kvpool: a load from verified memory failed; its tokens would be wrong")

    def take_finished(self) -> set[str] | None:
        self.take_events()
        finished, self._finished = self._finished, set()
        return finished or None

    def take_failed_requests(self) -> set[str]:
        failed = set(self._engine.failed_requests)
        self._engine.failed_requests.clear()
        return failed

    def take_failed_pages(self) -> set[int]:
        pages, self._failed_pages = self._failed_pages, set()
        return pages

    def close(self) -> None:
        self._mover.close(60)

    def counters(self) -> dict[str, int]:
        return self._mover.stats()
