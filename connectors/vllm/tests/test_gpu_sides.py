"""The two sides where a GPU moves pages: events, and loads that end for vLLM before their copies do."""

import pytest
from kvpool._native import PageMover
from kvpool.vllm.layout import Group, Layout
from kvpool.vllm.registry import Engine
from kvpool.vllm.work import Step
from kvpool.vllm.worker import WorkerSide
from world import Request, World

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
        self._in_parts = set()

    def __getattr__(self, name):
        return getattr(self._mover, name)

    def load(self, job, *rest):
        *rest, event, parts = rest
        self._told.append(("load", event, parts))
        if parts:
            self._in_parts.add(job)
        self._mover.load(job, *rest)

    def store(self, job, *rest):
        self._told.append(("store", rest[-1]))
        self._mover.store(job, *rest[:-1])

    def events(self):
        out = []
        for job, kind, blocks in self._mover.events():
            if kind == PageMover.LOADED:
                self._kept.append(job)
                if job in self._in_parts:
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
    (_, before), (_, behind), load, compute, (_, filled), store = gpu.told[:6]
    assert load == ("load", before, [(2, behind)]) and compute == ("compute",) and store == ("store", filled)
    assert before < behind < filled


@pytest.mark.parametrize("loads_late", [False, True])
def test_a_load_has_come_when_the_next_step_waits_for_it(gpu, loads_late):
    request, finished = begin_load(gpu)
    wait = ("wait", gpu.told[1][1])
    assert finished == {"b"} and wait not in gpu.told
    assert set(gpu.worker._marks) == set(gpu.worker._parts) == set(gpu.worker._ordered), "events stay until copies have ended"
    gpu.told.clear()
    gpu.step()
    assert gpu.told == [], "a step without tokens waits for nothing"
    gpu.step(new=[(request, [list(range(17, 33))], 768, 232)], loads_late=loads_late)
    assert gpu.told[:2] == [wait, ("compute",)]
    gpu.scheduler.request_finished(request.request_id)
    gpu.engine.mover.ending = 3
    gpu.worker.take_events()
    assert gpu.worker.take_finished() is None and not gpu.worker._marks and not gpu.worker._parts and not gpu.worker._ordered


def test_a_load_of_many_blocks_comes_in_parts(gpu, monkeypatch):
    monkeypatch.setattr("kvpool.vllm.worker._PART_BLOCKS_MIN", 1)
    begin_load(gpu)
    (_, _), (_, first), (_, second), (_, _, parts), *_ = gpu.told
    assert parts == [(1, first), (2, second)]


def test_a_gpu_that_fails_ends_the_engine(gpu):
    begin_load(gpu)
    gpu.engine.mover.ending = 2
    with pytest.raises(RuntimeError, match="GPU"):
        gpu.worker.take_events()


def test_a_load_that_was_ordered_may_be_cancelled(gpu):
    begin_load(gpu)
    [job] = gpu.worker._ordered
    gpu.worker.begin_step(Step(cancels=[job]), None)
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


def test_a_load_whose_pages_others_may_touch_ends_when_it_has_been_copied(gpu):
    gpu.engine.among_others = True
    _, finished = begin_load(gpu)
    (_, mark), load, *_ = gpu.told
    assert finished == set() and load == ("load", mark, []), "in no parts, of which the GPU would tell before they are there"
    gpu.engine.mover.ending = 3
    gpu.worker.take_events()
    assert gpu.worker.take_finished() == {"b"}


def test_on_a_gpu_no_step_waits_for_a_load(tmp_path):
    world = World(tmp_path, recompute=False, sync_load_budget_ms=10_000)
    world.store(Request("a", 1000), [list(range(1, 17))])
    world.engine.mark = lambda: None
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, True)
    world.close()


def test_an_engine_without_requests_goes_on_until_a_load_is_over(gpu):
    begin_load(gpu)
    assert gpu.scheduler.has_work()
    gpu.scheduler.request_finished("b")
    gpu.engine.mover.ending = 3
    gpu.step(tokens=False)
    assert not gpu.scheduler.has_work()


def test_where_layers_share_memory_loads_are_waited_for_at_once():
    def at_once(*groups, hash_tokens=64, **more):
        layout = Layout(256, hash_tokens, tuple(Group(tokens, 4, False, 0, ("l0",)) for tokens in groups))
        return WorkerSide(Engine(layout, None, None), **more)._whole_loads

    assert not at_once(64)
    assert at_once(64, 64) and at_once(64, hash_tokens=16) and at_once(64, zeroes_pages=True)
