"""An engine of our own for the two sides of the connector: pages in NumPy arrays, requests by hand."""

import hashlib
from types import SimpleNamespace

import kvpool
import pytest
from kvpool._native import PageMover
from kvpool.vllm.announced import Announced, Block
from kvpool.vllm.layout import Group, Layout
from kvpool.vllm.registry import Engine
from kvpool.vllm.scheduler import SchedulerSide
from kvpool.vllm.settings import Settings
from kvpool.vllm.worker import WorkerSide

numpy = pytest.importorskip("numpy")

PAGE_TOKENS, PAGES, LAYERS, DIM = 64, 64, 2, 32
BLOCK_TOKENS = 256


class Request:
    def __init__(self, name, tokens, **more):
        self.request_id, self.num_tokens = name, tokens
        self.block_hashes, parent = [], b"%d" % more.pop("salt", 0)
        for i in range(tokens // PAGE_TOKENS):
            parent = hashlib.sha256(parent + b"%d" % i).digest()
            self.block_hashes.append(parent)
        vars(self).update(more)


class Words:
    """Events, as they are told."""

    @staticmethod
    def block(request, index):
        return Block([("stored", request.request_id, index)], [("removed", request.request_id, index)])

    @staticmethod
    def cleared():
        return ("cleared",)


def output(new=(), cached=(), preempted=()):
    """vLLM's SchedulerOutput. new, cached: (request, pages of each group, computed, scheduled)."""
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=r.request_id, block_ids=tuple(p), num_computed_tokens=c) for r, p, c, _ in new
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[r.request_id for r, *_ in cached], new_block_ids=[p for _, p, *_ in cached],
            num_computed_tokens=[c for _, _, c, _ in cached], resumed_req_ids=set()),
        num_scheduled_tokens={r.request_id: n for r, _, _, n in (*new, *cached)},
        preempted_req_ids=set(preempted))  # fmt: skip


class World:
    def __init__(self, tmp_path, sliding=False, verify_first=False, devices=None, events=False, loads=True, stores=True,
                 hashes_stay=False, **settings):  # fmt: skip
        tmp_path.mkdir(exist_ok=True)
        file = {"kind": "file", "path": str(tmp_path / "pool"), "size": "32MiB"}
        self.pool = kvpool.Pool({
            "pool": {"buffers": "8MiB", "staging": "4MiB"},
            "device": [file | devices] if devices else [{"kind": "memory", "size": "8MiB"}, file],
        })  # fmt: skip
        groups = [Group(PAGE_TOKENS, 4, False, 0, ("l0",))]
        if sliding:
            groups.append(Group(PAGE_TOKENS, 2, True, 2 * PAGE_TOKENS + 1, ("l1",)))
        else:
            groups[0] = Group(PAGE_TOKENS, 4, False, 0, ("l0", "l1"))
        layout = Layout(BLOCK_TOKENS, PAGE_TOKENS, tuple(groups))
        self.caches = [numpy.zeros((PAGES, PAGE_TOKENS, DIM), numpy.float32) for _ in range(LAYERS)]
        page_bytes = PAGE_TOKENS * DIM * 4
        of_layer = [0, 1 if sliding else 0]
        ns = self.pool.namespace(kvpool.Geometry(
            "world", BLOCK_TOKENS, [groups[g].pages * page_bytes for g in of_layer],
            [groups[g].window for g in of_layer] if sliding else ()))  # fmt: skip
        layers = [(c.ctypes.data, c.strides[0], PAGES, list(c.shape[1:]), list(c.strides[1:]), 4, g)
                  for c, g in zip(self.caches, of_layer)]  # fmt: skip
        mover = PageMover.open(self.pool._native, ns, layers, [g.pages for g in groups], 0)
        self.engine = Engine(layout, ns, mover, tuple(f"l{i}" for i in range(LAYERS)))
        settings = Settings.read({"config": "x", "match_wait_ms": 1000, "sync_load_budget_ms": 0, **settings})
        announced = Announced(Words, self.pool.stats) if events else None
        self.scheduler = SchedulerSide(self.engine, settings, self.pool, verify_first, announced, loads=loads, stores=stores,
                                       hashes_stay=hashes_stay)
        self.worker = WorkerSide(self.engine)
        self.engine.requests_may_fail = not verify_first

    def close(self):
        self.scheduler.close()
        self.worker.close()
        self.pool.close()

    def step(self, new=(), cached=(), preempted=(), tokens=True, loads_late=False):
        """new, cached: as of output(). loads_late: as vLLM 0.32 does. Returns (step, finished requests)."""
        step = self.scheduler.build_step(output(new, cached, preempted))
        self.worker.begin_step(step, None)
        if not loads_late:
            self.worker.start_loads(step)
        for request, pages, computed, scheduled in new:
            self.compute(request, pages, computed, scheduled)
        if loads_late:
            self.worker.start_loads(step)
        if tokens:
            self.worker.start_stores(step)
        self.scheduler.step_ended(step.number)
        return step, self.worker.take_finished() or set()

    def value(self, position, layer):
        return position * 10.0 + layer

    def compute(self, request, pages, computed, scheduled):
        for position in range(computed, computed + scheduled):
            for layer, cache in enumerate(self.caches):
                ids = pages[min(layer, len(pages) - 1)]
                if page := ids[position // PAGE_TOKENS]:
                    cache[page, position % PAGE_TOKENS] = self.value(position, layer)

    def holds(self, pages, first, end):
        return all(
            (self.caches[layer][page, position % PAGE_TOKENS] == self.value(position, layer)).all()
            for layer in range(LAYERS)
            for position in range(first, end)
            if (page := pages[min(layer, len(pages) - 1)][position // PAGE_TOKENS])
        )

    def settle(self):
        while self.engine.mover.stats()["jobs_under_way"]:
            pass
        self.worker.take_events()

    def store(self, request, pages):
        self.scheduler.on_new_request(request)
        assert self.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
        self.scheduler.update_state_after_alloc(request, tuple(pages), 0)
        self.step(new=[(request, pages, 0, request.num_tokens)])
        self.settle()
        self.scheduler.request_finished(request.request_id)
