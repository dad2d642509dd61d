"""What the scheduler's side tells those who listen to KV events."""

import pytest
from kvpool.vllm.announced import Announced
from world import Request, Words, World

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
    assert watched.scheduler.has_work()
    watched.settle()
    assert watched.scheduler.has_work()
    assert watched.scheduler.take_events() == blocks("stored", "a", 0, 1)
    assert not watched.scheduler.has_work() and watched.scheduler.take_events() == []
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
    assert watched.scheduler.take_events() == [] and not watched.scheduler.has_work()


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
    assert not world.scheduler.has_work()
