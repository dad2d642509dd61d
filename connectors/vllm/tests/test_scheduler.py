"""The two sides against a real pool."""

import kvpool
import pytest
from kvpool._native import PageMover, PageNumbers
from kvpool.vllm.layout import KEY_BYTES, Group, Layout
from kvpool.vllm.registry import Engine
from kvpool.vllm.work import Load, Step
from kvpool.vllm.worker import WorkerSide
from world import Request, World, output


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


@pytest.mark.parametrize("kind", [{"lora_request": object()}, {"resumable": True}])
def test_requests_with_an_adapter_and_sessions_are_left_alone(world, kind):
    world.store(Request("a", 1000), [list(range(1, 17))])
    request = Request("b", 1000, **kind)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    world.store(Request("c", 1000, salt=1, **kind), [list(range(1, 17))])
    assert world.engine.mover.stats()["stored_blocks"] == 3, "of the first"


@pytest.mark.parametrize("hashes_stay", [False, True])
def test_after_a_session_nothing_is_stored_where_its_hashes_stay(tmp_path, hashes_stay):
    world = World(tmp_path, recompute=False, hashes_stay=hashes_stay)
    early, pages = Request("a", 1000), [list(range(1, 17))]
    world.scheduler.on_new_request(early)
    world.scheduler.on_new_request(Request("b", 1000, salt=1, resumable=True))
    world.scheduler.update_state_after_alloc(early, tuple(pages), 0)
    world.step(new=[(early, pages, 0, 1000)])
    world.store(Request("c", 1000, salt=2), pages)
    assert world.engine.mover.stats()["stored_blocks"] == (0 if hashes_stay else 6)
    world.close()


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


class Refusing:
    """A consumer that refuses what has that name, so many times."""

    def __init__(self, consumer, name, times):
        self.consumer, self.name, self.left = consumer, name, times

    def __getattr__(self, name):
        if name == self.name and self.left > 0:
            self.left -= 1
            return self.refuse
        return getattr(self.consumer, name)

    @staticmethod
    def refuse(*_):
        raise kvpool.Busy("the queue is full")


@pytest.mark.parametrize("verify_first", [False, True])
def test_a_pool_that_stays_busy_keeps_no_request(tmp_path, verify_first):
    world = World(tmp_path, sliding=verify_first, verify_first=verify_first, recompute=False, sync_load_budget_ms=10_000)
    world.store(Request("a", 1000), [list(range(1, 17))] * (1 + verify_first))
    world.scheduler._consumer = Refusing(world.scheduler._consumer, "stage", 1000)
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    answers = [world.scheduler.get_num_new_matched_tokens(request, 0) for _ in range(200)]
    assert answers[0] == (None, False) and answers[-1] == ((0, False) if verify_first else (768, True))
    world.close()


def test_a_reset_that_failed_is_done_when_it_is_tried_again(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    world.scheduler._consumer = Refusing(world.scheduler._consumer, "delete", 1)
    with pytest.raises(kvpool.Busy):
        world.scheduler.reset()
    world.scheduler.reset()
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)


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


def test_a_load_that_its_step_waits_for_is_started_before_the_others():
    started = []

    class Mover:
        def load(self, job, *rest):
            started.append(job)

        def wait_ended(self, job):
            assert started == [job]

        def events(self):
            return [(started[0], PageMover.LOADED, 1)]

    def load(number, is_async):
        return Load(number, f"r{number}", None, 0, 1, PageNumbers([]), PageNumbers([]), 4, 0, is_async, -1)

    layout = Layout(256, 64, (Group(64, 4, False, 0, ("l0",)),))
    WorkerSide(Engine(layout, None, Mover())).start_loads(Step(loads=[load(1, True), load(2, False)]))
    assert started == [2, 1]


@pytest.mark.parametrize("computed", [319, 320])
def test_what_windows_have_left_is_not_stored_later(tmp_path, computed):
    """vLLM frees a page of 64 tokens when the next one looks back at 128 others and none is in it."""
    world = World(tmp_path, sliding=True, recompute=False)
    request, pages = Request("a", 1000), [list(range(1, 17)), list(range(20, 36))]
    world.scheduler.on_new_request(request)
    world.scheduler.update_state_after_alloc(request, tuple(pages), 0)
    tracked = world.scheduler._tracked["a"]
    world.step(new=[(request, pages, 0, computed)], tokens=False)
    tracked.stored = 0  # as if the first block had not been stored in its step
    stores = world.step(cached=[(request, None, computed, 1000 - computed)], tokens=False)[0].stores
    is_there = computed < 2 * 64 + 3 * 64
    assert len(stores) == is_there and tracked.may_store == is_there
    world.close()


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("late", [0, 1])
def test_answers_are_stored(tmp_path, sliding, late):
    """Also where a token is known a step after the next one was scheduled."""
    world = World(tmp_path, sliding=sliding, recompute=False)
    request, pages = Request("a", 1000), [list(range(1, 17)), list(range(20, 36))][: 1 + sliding]
    hashes, request.block_hashes = request.block_hashes, request.block_hashes[: 500 // 64]
    world.scheduler.on_new_request(request)
    world.scheduler.update_state_after_alloc(request, tuple(pages), 0)
    stored = world.step(new=[(request, pages, 0, 500)], tokens=False)[0].stores
    for computed in range(500, 800):
        request.block_hashes = hashes[: (computed + 1 - late) // 64]
        stored += world.step(cached=[(request, None, computed, 1)], tokens=False)[0].stores
    assert [len(store.keys) // KEY_BYTES for store in stored] == [1, 1, 1]
    assert list(stored[2].pages) == pages[0][8:12] + (pages[1][10:12] if sliding else [])
    world.close()


def test_a_step_without_tokens_is_not_taken_for_a_prefill(world):
    """vLLM schedules a step before the one before it has ended."""
    request, pages = Request("a", 1000), [list(range(1, 17))]
    world.scheduler.on_new_request(request)
    empty, prefill, last = (world.scheduler.build_step(output(new=new)) for new in ((), [(request, pages, 0, 300)], ()))
    world.scheduler.step_ended(empty.number)
    assert not world.scheduler._model.known
    world.scheduler.step_ended(prefill.number)
    assert world.scheduler._model._moments.tokens == 300
    world.scheduler.step_ended(last.number)
    assert world.scheduler._model._moments.count == 1


def test_a_step_that_never_ends_is_not_taken_for_the_next(world):
    request, other = Request("a", 1000), Request("b", 1000, salt=1)
    for one in (request, other):
        world.scheduler.on_new_request(one)
    world.scheduler.build_step(output(new=[(request, [list(range(1, 17))], 0, 300)]))
    step = world.scheduler.build_step(output(new=[(other, [list(range(20, 36))], 0, 200)]))
    world.scheduler.step_ended(step.number)
    assert world.scheduler._model._moments.tokens == 200


def test_all_can_be_forgotten(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    world.scheduler.reset()
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)


# ---- events ----


def test_pages_for_another_connector_are_waited_for(world):
    world.engine.among_others = True
    request = Request("a", 1000)
    world.scheduler.on_new_request(request)
    world.scheduler.get_num_new_matched_tokens(request, 128)
    world.scheduler.update_state_after_alloc(request, (list(range(1, 17)),), 0)
    step, _ = world.step()
    assert list(step.pages) == list(range(3, 17)), "but not those that vLLM has found itself"


def test_a_producer_does_not_load_and_a_consumer_does_not_store(tmp_path):
    for loads, stores in ((False, True), (True, False)):
        world = World(tmp_path / f"{loads}", recompute=False, loads=loads, stores=stores)
        world.store(Request("a", 1000), [list(range(1, 17))])
        assert world.pool.stats()["stored_blocks"] == (3 if stores else 0)
        request = Request("b", 1000)
        world.scheduler.on_new_request(request)
        assert world.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
        world.close()


def test_the_estimate_of_a_request_that_waits_is_renewed(world, monkeypatch):
    monkeypatch.setattr("kvpool.vllm.scheduler._ESTIMATE_S", 0.0)
    world.store(Request("a", 1000), [list(range(1, 17))])
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, True)
    tracked = world.scheduler._tracked["b"]
    tracked.estimate_s = 1e9  # what it was while the pool was busy
    while tracked.estimate_s == 1e9:
        assert world.scheduler.get_num_new_matched_tokens(request, 0) == (768, True)
    assert 0 < tracked.estimate_s < 10
    world.scheduler.request_finished("b")


def test_requests_that_go_before_they_are_looked_at_keep_none_from_being_served(world):
    world.store(Request("a", 1000), [list(range(1, 17))])
    for i in range(600):
        world.scheduler.on_new_request(Request(f"gone {i}", 1000))
        world.scheduler.request_finished(f"gone {i}")
    request = Request("b", 1000)
    world.scheduler.on_new_request(request)
    found = None, False
    for _ in range(1000):
        if (found := world.scheduler.get_num_new_matched_tokens(request, 0))[0] is not None:
            break
        world.step()
    assert found == (768, True)
    world.scheduler.request_finished("b")
