"""The two sides where a GPU moves pages: events, and loads that end for vLLM before their copies do."""

import pytest
from kvpool._native import PageMover
from kvpool.vllm.work import Step
from world import Request

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
