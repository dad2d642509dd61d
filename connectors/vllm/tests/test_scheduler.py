"""The two sides against a real pool, with an engine of our own: pages in NumPy arrays, requests by hand."""

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
from kvpool.vllm.work import Step
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


class World:
    def __init__(self, tmp_path, sliding=False, verify_first=False, devices=None, events=False, **settings):
        file = {"kind": "file", "path": str(tmp_path / "pool"), "size": "32MiB"}
        self.pool = kvpool.Pool({
            "pool": {"buffers": "8MiB", "staging": "4MiB"},
            "device": [file | devices] if devices else [{"kind": "memory", "size": "8MiB"}, file],
        })  # fmt: skip
        groups = [Group(PAGE_TOKENS, 4, False, False, ("l0",))]
        if sliding:
            groups.append(Group(PAGE_TOKENS, 2, True, True, ("l1",)))
        else:
            groups[0] = Group(PAGE_TOKENS, 4, False, False, ("l0", "l1"))
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
        self.engine = Engine(layout, ns, mover)
        settings = Settings.read({"config": "x", "match_wait_ms": 1000, "sync_load_budget_ms": 0, **settings})
        announced = Announced(Words, self.pool.stats) if events else None
        self.scheduler = SchedulerSide(self.engine, settings, self.pool, verify_first, announced)
        self.worker = WorkerSide(self.engine)
        self.engine.requests_may_fail = not verify_first

    def close(self):
        self.scheduler.close()
        self.worker.close()
        self.pool.close()

    def step(self, new=(), cached=(), preempted=(), tokens=True):
        """new, cached: (request, pages of each group, computed, scheduled). Returns (step, finished requests)."""
        output = SimpleNamespace(
            scheduled_new_reqs=[
                SimpleNamespace(req_id=r.request_id, block_ids=tuple(p), num_computed_tokens=c) for r, p, c, _ in new
            ],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=[r.request_id for r, *_ in cached], new_block_ids=[p for _, p, *_ in cached],
                num_computed_tokens=[c for _, _, c, _ in cached], resumed_req_ids=set()),
            num_scheduled_tokens={r.request_id: n for r, _, _, n in (*new, *cached)},
            preempted_req_ids=set(preempted))  # fmt: skip
        step = self.scheduler.build_step(output)
        self.worker.begin_step(step)
        self.worker.start_loads(step)
        for request, pages, computed, scheduled in new:
            self.compute(request, pages, computed, scheduled)
        if tokens:
            self.worker.start_stores(step)
        self.scheduler.step_ended()
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


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path, recompute=False)
    yield made
    made.close()


def test_a_load_is_promised_once_and_comes(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    for _ in range(3):  # vLLM asks as often as it likes
        assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, True)
    pages = [list(range(30, 42))]
    world.scheduler.update_state_after_alloc(request, tuple(pages), 768)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)  # it is under way
    _, finished = world.step()
    while not finished:
        _, finished = world.step()
    assert finished == {"b"} and world.holds(pages, 0, 768)
    assert world.worker.take_failed_pages() == set()


def test_at_least_one_token_is_left_to_compute(world):
    world.store(Request("a", 1024), [list(range(1, 17))])
    request = Request("b", 1024)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, True)


def test_what_is_computed_is_not_loaded_over(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 320) == (448, True)
    pages = [list(range(30, 42))]
    before = world.caches[0][30:35].copy()
    world.scheduler.update_state_after_alloc(request, tuple(pages), 448)
    _, finished = world.step()
    while not finished:
        _, finished = world.step()
    assert world.holds(pages, 320, 768)
    assert (world.caches[0][30:35] == before).all()


def test_only_whole_blocks_are_stored_each_in_the_step_that_fills_it(world):
    request, pages = Request("a", 900), [list(range(1, 17))]
    world.scheduler.on_new_request(request)
    world.scheduler.update_state_after_alloc(request, tuple(pages), 0)
    stores = world.step(new=[(request, pages, 0, 500)])[0]
    assert len(stores.stores) == 0  # taken by the worker
    world.settle()
    assert world.engine.mover.stats()["stored_blocks"] == 1
    world.step(cached=[(request, None, 500, 400)])
    world.settle()
    assert world.engine.mover.stats()["stored_blocks"] == 3
    assert world.engine.mover.stats()["failed_stores"] == 0


def test_a_page_that_is_handed_out_again_waits_for_its_copy(world):
    first, second = Request("a", 512), Request("b", 100)
    world.scheduler.on_new_request(first)
    world.scheduler.update_state_after_alloc(first, ([1, 2, 3, 4, 5, 6, 7, 8],), 0)
    world.step(new=[(first, [[1, 2, 3, 4, 5, 6, 7, 8]], 0, 512)])
    world.scheduler.request_finished("a")
    world.scheduler.on_new_request(second)
    world.scheduler.update_state_after_alloc(second, ([5, 6],), 0)
    step, _ = world.step(new=[(second, [[5, 6]], 0, 100)])
    assert list(step.pages) == [5, 6]
    reader = Request("c", 600)
    world.settle()
    world.scheduler.on_new_request(reader)
    pages = [list(range(40, 50))]
    assert world.scheduler.get_num_new_matched_tokens(reader, 0) == (512, True)
    world.scheduler.update_state_after_alloc(reader, tuple(pages), 512)
    _, finished = world.step()
    while not finished:
        _, finished = world.step()
    assert world.holds(pages, 0, 512)


def test_pages_that_vllm_has_computed_already_are_waited_for_by_nobody(world):
    request = Request("a", 700)
    world.scheduler.on_new_request(request)
    world.scheduler.update_state_after_alloc(request, (list(range(1, 12)),), 0)
    step, _ = world.step(new=[(request, [list(range(1, 12))], 320, 380)])
    assert list(step.pages) == list(range(6, 12))


def test_requests_with_an_adapter_are_left_alone(world):
    request = Request("a", 1000, lora_request=object())
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    world.scheduler.update_state_after_alloc(request, (list(range(1, 17)),), 0)
    assert world.step(new=[(request, [list(range(1, 17))], 0, 1000)])[0].stores == []
    assert world.engine.mover.stats()["stored_blocks"] == 0


def test_prompts_whose_logprobs_are_wanted_are_computed(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    request = Request("b", 1000, skip_reading_prefix_cache=True)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)


def test_pins_end_with_their_request(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    for end in ("finished", "preempted"):
        request = Request(end, 1000)
        world.scheduler.on_new_request(request)
        assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, True)
        assert world.pool.stats()["pins_held"] >= 1
        if end == "preempted":
            world.step(preempted=[end])
        world.scheduler.request_finished(end)
    for _ in range(2000):
        world.scheduler._consumer.poll()
        if world.pool.stats()["pins_held"] == 0:
            return
    raise AssertionError("a pin is left")


def test_a_failed_load_names_its_pages_and_is_not_tried_again(tmp_path):
    world = World(tmp_path, recompute=False, load_timeout_s=0.05, devices={"limit_read": "2MB/s"})
    world.store(Request("a", 4000), [list(range(1, 64))])
    request = Request("b", 4000)
    world.scheduler.on_new_request(request)
    tokens, is_async = world.scheduler.get_num_new_matched_tokens(request, 0)
    assert (tokens, is_async) == (3840, True)
    world.scheduler.update_state_after_alloc(request, (list(range(1, 61)),), tokens)
    _, finished = world.step()
    while not finished:
        _, finished = world.step()
    failed = world.worker.take_failed_pages()
    assert failed and failed == set(range(61 - len(failed), 61)) and len(failed) % 4 == 0
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    world.close()


def test_several_groups_are_promised_when_they_are_verified(tmp_path):
    world = World(tmp_path, sliding=True, verify_first=True, recompute=False)
    pages = [list(range(1, 17)), list(range(20, 36))]
    world.store(Request("a", 1000), pages)
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    answer = world.scheduler.get_num_new_matched_tokens(request, 0)
    while answer == (None, False):
        answer = world.scheduler.get_num_new_matched_tokens(request, 0)
    assert answer == (768, True)
    target = [list(range(40, 52)), [0] * 10 + [52, 53]]
    world.scheduler.update_state_after_alloc(request, tuple(target), 768)
    _, finished = world.step()
    while not finished:
        _, finished = world.step()
    assert world.holds(target, 0, 768)
    world.close()


def test_what_fits_the_budget_and_lies_in_memory_is_loaded_in_the_step(tmp_path):
    world = World(tmp_path, recompute=False, sync_load_budget_ms=10_000)
    world.store(Request("a", 1000), [list(range(1, 17))])
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, False)
    pages = [list(range(30, 46))]
    world.scheduler.update_state_after_alloc(request, tuple(pages), 768)
    _, finished = world.step(new=[(request, pages, 768, 232)])
    assert finished == set() and world.holds(pages, 0, 1000)
    world.close()


def test_what_windows_have_left_is_not_stored_later(tmp_path):
    world = World(tmp_path, sliding=True, recompute=False)
    request, pages = Request("a", 1000), [list(range(1, 17)), list(range(20, 36))]
    world.scheduler.on_new_request(request)
    world.scheduler.update_state_after_alloc(request, tuple(pages), 0)
    tracked = world.scheduler._tracked["a"]
    world.step(new=[(request, pages, 0, 300)], tokens=False)
    tracked.stored = 0  # as if the first block had not been stored in its step
    assert world.step(cached=[(request, None, 300, 700)])[0].stores == []
    assert not tracked.may_store
    world.close()


def test_all_can_be_forgotten(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    world.scheduler.reset()
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)


# ---- events ----


def told(world, kind="stored"):
    return [event for event in world.scheduler.take_events() if event[0] == kind]


def blocks(kind, request, *numbers):
    return [(kind, request, number) for number in numbers]


@pytest.fixture
def watched(tmp_path):
    made = World(tmp_path, recompute=False, events=True)
    yield made
    made.close()


def ask(world, name, tokens=1000, **more):
    request = Request(name, tokens, **more)
    world.scheduler.on_new_request(request)
    world.scheduler.get_num_new_matched_tokens(request, 0)
    return request


def test_a_block_is_announced_once_when_it_is_stored(watched):
    request = Request("a", 1000)
    watched.scheduler.on_new_request(request)
    watched.scheduler.update_state_after_alloc(request, (list(range(1, 17)),), 0)
    watched.step(new=[(request, [list(range(1, 17))], 0, 600)])
    assert watched.scheduler.will_have_events()
    watched.settle()
    assert watched.scheduler.will_have_events()
    assert watched.scheduler.take_events() == blocks("stored", "a", 0, 1)
    assert not watched.scheduler.will_have_events() and watched.scheduler.take_events() == []
    watched.step(cached=[(request, None, 600, 400)])
    watched.settle()
    assert watched.scheduler.take_events() == blocks("stored", "a", 2)
    ask(watched, "b")  # finds what is known already
    assert watched.scheduler.take_events() == []


def test_a_store_that_fails_is_not_announced(watched):
    request = Request("a", 1000)
    watched.scheduler.on_new_request(request)
    watched.scheduler.update_state_after_alloc(request, (list(range(1, 17)),), 0)
    step, _ = watched.step(new=[(request, [list(range(1, 17))], 0, 1000)], tokens=False)
    [store] = step.stores
    store.parent = b"x" * 16  # which the pool does not have
    watched.worker.start_stores(step)
    watched.settle()
    assert watched.scheduler.take_events() == [] and not watched.scheduler.will_have_events()


def test_what_a_match_misses_is_taken_back(watched):
    watched.store(Request("a", 1000), [list(range(1, 17))])
    assert watched.scheduler.take_events() == blocks("stored", "a", 0, 1, 2)
    keys = watched.engine.layout.keys(Request("a", 1000).block_hashes, 1, 2)
    watched.scheduler._consumer.delete(watched.engine.namespace, keys).result(10)
    ask(watched, "b")
    assert watched.scheduler.take_events() == blocks("removed", "a", 1, 2)


def test_an_answer_that_is_older_than_a_store_takes_nothing_back(watched):
    late = Request("late", 1000)
    watched.scheduler.on_new_request(late)  # asks while the pool has nothing
    watched.store(Request("a", 1000), [list(range(1, 17))])
    assert told(watched) == blocks("stored", "a", 0, 1, 2)
    watched.scheduler.get_num_new_matched_tokens(late, 0)
    assert watched.scheduler.take_events() == []


def test_what_others_have_stored_is_announced_when_it_is_found(tmp_path):
    world = World(tmp_path, recompute=False)
    world.store(Request("a", 1000), [list(range(1, 17))])
    world.scheduler._announced = Announced(Words, world.pool.stats)
    ask(world, "b")
    assert world.scheduler.take_events() == blocks("stored", "b", 0, 1, 2)
    world.close()


def test_what_could_not_be_loaded_is_taken_back(tmp_path):
    world = World(tmp_path, recompute=False, events=True, load_timeout_s=0.05, devices={"limit_read": "2MB/s"})
    world.store(Request("a", 4000), [list(range(1, 64))])
    assert len(told(world)) == 15
    request = ask(world, "b", 4000)
    world.scheduler.update_state_after_alloc(request, (list(range(1, 61)),), 3840)
    while not world.step()[1]:
        pass
    failed = len(world.worker.take_failed_pages()) // 4
    assert failed > 0
    world.scheduler.request_finished("b")
    assert told(world, "removed") == blocks("removed", "a", *range(15 - failed, 15))
    world.close()


def test_what_is_lost_is_not_taken_for_evicted(watched):
    watched.store(Request("a", 1000), [list(range(1, 17))])
    watched.store(Request("b", 1000, salt=1), [list(range(17, 33))])
    assert len(told(watched)) == 6
    keys = watched.engine.layout.keys(Request("b", 1000, salt=1).block_hashes, 0, 3)
    watched.scheduler._consumer.delete(watched.engine.namespace, keys).result(10)
    while watched.pool.stats()["ready_blocks"] > 3:
        pass
    for _ in range(3):
        watched.scheduler._announced._look_s = 0
        assert watched.scheduler.take_events() == []  # not those of "a", which are colder
    ask(watched, "late", salt=1)
    assert watched.scheduler.take_events() == blocks("removed", "b", 0, 1, 2)


def test_as_many_are_taken_back_as_were_evicted_though_told_late():
    counters = {"evicted_blocks": 0, "ready_blocks": 0}
    announced = Announced(Words, lambda: counters)

    def look():
        announced._look_s = 0
        return [event[1:] for event in announced.take() if event[0] == "removed"]

    def tell(name, blocks):
        keys = [f"{name}{block}".encode() for block in range(blocks)]
        announced.stored(keys, None, announced.planned(Request(name, 64), 0, blocks))

    tell("a", 100)
    counters["ready_blocks"] = 100
    assert look() == look() == []
    for _ in range(12):  # a store evicts as it goes on, and is told of at its end
        counters["evicted_blocks"] += 5
        assert look() == []
    tell("b", 60)
    assert look() == []  # of what was told since the last look the number may not know
    assert look() == [("a", block) for block in range(99, 39, -1)]  # the last ones are the first that may go
    counters["evicted_blocks"] += 20
    counters["ready_blocks"] -= 40  # and 20 are lost
    assert look() == [("a", block) for block in range(39, 19, -1)] and look() == []
    announced._even_s -= 60  # nobody has named them for long
    assert look() == [("a", block) for block in range(19, -1, -1)] and look() == []
    assert len(announced._told) == counters["ready_blocks"]


def test_what_the_pool_evicts_is_taken_back(tmp_path):
    world = World(tmp_path, recompute=False, events=True, devices={"size": "3MiB"})
    requests = [Request(f"{number}", 1024 if number % 2 else 1000, salt=number) for number in range(40)]
    there = set()

    def look():
        world.scheduler._announced._look_s = 0
        for kind, name, block in world.scheduler.take_events():
            assert (kind, name) != ("removed", "0")
            (there.add if kind == "stored" else there.remove)((name, block))

    for request in requests:
        world.store(request, [list(range(1, 17))])
        ask(world, "0")  # stays in use
        world.scheduler.request_finished("0")
        look()
    look()
    assert world.pool.stats()["evicted_blocks"] > 0
    for request in requests:
        keys = world.engine.layout.keys(request.block_hashes, 0, 4)
        found = world.scheduler._consumer.match(world.engine.namespace, keys, pin=False).result(10).blocks
        assert {one for one in there if one[0] == request.request_id} == {(request.request_id, block) for block in range(found)}
    world.close()


def test_all_is_cleared_with_the_pool(watched):
    watched.store(Request("a", 1000), [list(range(1, 17))])
    watched.scheduler.reset()
    assert watched.scheduler.take_events() == [("cleared",)]
    ask(watched, "b")
    assert watched.scheduler.take_events() == []


def test_nothing_is_collected_where_nobody_listens(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    assert world.engine.stored == [] and world.engine.storing == {} and world.scheduler.take_events() == []
    assert not world.scheduler.will_have_events()


class Mark:
    """An event of a GPU, and what becomes of it."""

    def __init__(self, number, told):
        self.cuda_event, self._told = number, told

    def wait(self):
        self._told.append(("wait", self.cuda_event))


class OnGpu:
    """A mover that tells of loads as one on a GPU does: ordered first; that they have ended, when it is let."""

    def __init__(self, mover, told):
        self._mover, self._told, self._kept, self.ending = mover, told, [], None

    def __getattr__(self, name):
        return getattr(self._mover, name)

    def load(self, job, *rest):
        self._told.append(("load", rest[-1]))
        self._mover.load(job, *rest[:-1])

    def store(self, job, *rest):
        self._told.append(("store", rest[-1]))
        self._mover.store(job, *rest[:-1])

    def events(self):
        out = []
        for job, kind, blocks in self._mover.events():
            if kind == PageMover.LOADED:
                self._kept.append(job)
                out.append((job, PageMover.ORDERED, blocks))
            else:
                out.append((job, kind, blocks))
        if self.ending is not None:
            out += [(job, PageMover.LOADED, self.ending) for job in self._kept]
            self._kept.clear()
        return out


@pytest.fixture
def gpu(world):
    world.told = []
    world.engine.mover = world.worker._mover = OnGpu(world.engine.mover, world.told)
    numbers = iter(range(1, 100))

    def mark():
        world.told.append(("mark", number := next(numbers)))
        return Mark(number, world.told)

    world.engine.mark = mark
    compute = world.compute
    world.compute = lambda *rest: (world.told.append(("compute",)), compute(*rest))
    return world


def begin_load(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, True)
    world.scheduler.update_state_after_alloc(request, (list(range(17, 33)),), 768)
    world.told.clear()
    other = Request("c", 300, salt=3)
    world.scheduler.on_new_request(other)
    world.scheduler.get_num_new_matched_tokens(other, 0)
    world.scheduler.update_state_after_alloc(other, (list(range(40, 45)),), 0)
    _, finished = world.step(new=[(other, [list(range(40, 45))], 0, 300)])
    world.settle()
    return request, finished | (world.worker.take_finished() or set())


def test_jobs_wait_for_events_of_their_place_in_a_step(gpu):
    begin_load(gpu)
    kinds = [words[0] for words in gpu.told]
    assert kinds[:5] == ["mark", "load", "compute", "mark", "store"]
    assert gpu.told[1] == ("load", gpu.told[0][1]) and gpu.told[4] == ("store", gpu.told[3][1])


def test_a_load_has_come_when_the_gpu_waits_for_it(gpu):
    request, finished = begin_load(gpu)
    event = gpu.told[0][1]
    assert ("wait", event) in gpu.told and finished == {"b"}
    assert set(gpu.worker._marks) == {job for job in gpu.worker._ordered}, "its event stays until its copies have ended"
    gpu.scheduler.request_finished(request.request_id)
    gpu.engine.mover.ending = 3
    gpu.worker.take_events()
    assert gpu.worker.take_finished() is None and not gpu.worker._marks and not gpu.worker._ordered


def test_a_gpu_that_fails_ends_the_engine(gpu):
    begin_load(gpu)
    gpu.engine.mover.ending = 2
    with pytest.raises(RuntimeError, match="GPU"):
        gpu.worker.take_events()


def test_a_load_that_was_ordered_may_be_cancelled(gpu):
    begin_load(gpu)
    [job] = gpu.worker._ordered
    gpu.worker.begin_step(Step(cancels=[job]))
    gpu.engine.mover.ending = 0
    gpu.worker.take_events()
    assert not gpu.worker._ordered and not gpu.worker._marks


def test_a_step_that_waits_for_copies_says_nothing_of_computing(gpu):
    begin_load(gpu)
    model = gpu.scheduler._model._moments
    assert gpu.engine.gpu_waits
    seen = model.count
    more = Request("d", 300, salt=4)
    gpu.scheduler.on_new_request(more)
    gpu.step(new=[(more, [list(range(50, 55))], 0, 300)])
    assert model.count == seen and not gpu.engine.gpu_waits
    another = Request("e", 300, salt=5)
    gpu.scheduler.on_new_request(another)
    gpu.step(new=[(another, [list(range(55, 60))], 0, 300)])
    assert model.count > seen


def test_pages_for_another_connector_are_waited_for(world):
    world.scheduler._among_others = True
    request = Request("a", 1000)
    world.scheduler.on_new_request(request)
    world.scheduler.get_num_new_matched_tokens(request, 128)
    world.scheduler.update_state_after_alloc(request, (list(range(1, 17)),), 0)
    step, _ = world.step()
    assert list(step.pages) == list(range(3, 17)), "but not those that vLLM has found itself"
