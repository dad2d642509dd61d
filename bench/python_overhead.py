#!/usr/bin/env python3
"""What the Python bindings cost beyond the C API: microseconds of a request, nanoseconds of a page.

Processor time of the calling thread, so that what the engine does meanwhile does not count: of sending one match and
taking its result; of handing 10,000 pages to the mover; of listing the pages of a load of 131,000 tokens in two groups of layers;
of both sides of the connector, for a prompt of as many tokens that is stored, and one that is loaded. It has no options.
"""

import argparse
import ctypes
import hashlib
import random
import statistics
import sys
import time
import types

MISSING = ""
try:
    import kvpool
    from kvpool._native import PageMover, PageNumbers
    from kvpool.vllm import layout
    from kvpool.vllm.registry import Engine
    from kvpool.vllm.scheduler import SchedulerSide
    from kvpool.vllm.settings import Settings
    from kvpool.vllm.worker import WorkerSide
except ImportError as error:
    MISSING = str(error)

PAGES_OF_BLOCK = 16


def request_us(consumer, ns, keys, rounds=2000) -> float:
    """Sent and taken in batches of 100, as an engine does that does not wait for each."""
    spent = []
    for _ in range(rounds // 100):
        begin = time.thread_time_ns()
        requests = [consumer.match(ns, keys, pin=False) for _ in range(100)]
        sent = time.thread_time_ns() - begin
        time.sleep(0.002)
        begin = time.thread_time_ns()
        for request in requests:
            request.result()
        spent.append((sent + time.thread_time_ns() - begin) / 100 / 1e3)
    return statistics.median(spent)


def page_ns(mover, keys, pages, rounds=50) -> float:
    spent = []
    for id in range(1, rounds + 1):
        begin = time.thread_time_ns()
        mover.store(id, 0, keys, None, pages)
        spent.append((time.thread_time_ns() - begin) / len(pages))
        mover.wait_ended(id)
        mover.events()
    return statistics.median(spent)


def groups_page_ns(blocks=511, rounds=20) -> float:
    """Of a load's list of pages, of a model with full layers and windows of 128 tokens in pages of 16."""
    groups = (layout.Group(16, 16, False, False, ()), layout.Group(16, 8, True, True, ()))
    of_model = layout.Layout(256, 16, groups)
    ids = [PageNumbers(list(range(1, blocks * 16 + 1))) for _ in groups]
    spent = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        pages = of_model.pages_to_load(ids, 0, blocks, 0)
        spent.append((time.thread_time_ns() - begin) / len(pages))
    return statistics.median(spent)


class Prompt:
    def __init__(self, name: str, blocks: int):
        """As vLLM has it: a hash for each page, a page more than whole blocks, which has to be computed."""
        self.request_id, self.num_tokens = name, blocks * 256 + 16
        self.block_hashes = [hashlib.sha256(b"%s %d" % (name.encode(), i)).digest() for i in range(blocks * PAGES_OF_BLOCK + 1)]


def work(seconds: float) -> None:
    """As a thread does that computes, or waits for a GPU, without sleeping."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


class Page:
    __slots__ = ("block_id",)

    def __init__(self, block_id: int):
        self.block_id = block_id


class Blocks:
    """As vLLM gives them: an object for each page."""

    def __init__(self, count: int):
        numbers = list(range(1, count + 1))
        random.shuffle(numbers)
        self._pages = [Page(number) for number in numbers]

    def get_block_ids(self) -> tuple[list[int]]:
        return ([page.block_id for page in self._pages],)


def step_of(prompt: Prompt, pages: list[int], computed: int) -> types.SimpleNamespace:
    """vLLM's output of a step that computes the rest of the prompt."""
    new = types.SimpleNamespace(req_id=prompt.request_id, block_ids=(pages,), num_computed_tokens=computed)
    none = types.SimpleNamespace(req_ids=[], new_block_ids=[], num_computed_tokens=[], resumed_req_ids=set())
    scheduled = {prompt.request_id: prompt.num_tokens - computed}
    return types.SimpleNamespace(
        scheduled_new_reqs=[new], scheduled_cached_reqs=none, num_scheduled_tokens=scheduled, preempted_req_ids=set()
    )


def connector_page_ns(pool, ns, mover, sleeps, blocks=511, rounds=20) -> tuple[float, float, float]:
    """Of a prompt that is stored, of one that is loaded, and of that vLLM's own list of page numbers. sleeps: the thread, before
    and while the pool answers."""
    group = layout.Group(16, PAGES_OF_BLOCK, False, False, ("l0",))
    engine = Engine(layout.Layout(256, 16, (group,)), ns, mover, ("l0",))
    settings = Settings.read({"config": "x", "match_wait_ms": 1000, "sync_load_budget_ms": 0})
    scheduler, worker = SchedulerSide(engine, settings, pool, False), WorkerSide(engine)
    pause = time.sleep if sleeps else work

    def pass_through(prompt: Prompt) -> tuple[float, int]:
        """Nanoseconds a page, and tokens that were loaded."""
        given = Blocks(blocks * PAGES_OF_BLOCK + 1)
        pages = given.get_block_ids()[0]
        pause(0.001)
        begin = time.thread_time_ns()
        scheduler.on_new_request(prompt)
        spent = time.thread_time_ns() - begin
        pause(0.001)  # the pool answers
        begin = time.thread_time_ns()
        found, _ = scheduler.get_num_new_matched_tokens(prompt, 0)
        listing = time.thread_time_ns()
        ids = given.get_block_ids() if scheduler.wants_pages(found) else ()
        listed.append((time.thread_time_ns() - listing) / (blocks * PAGES_OF_BLOCK))
        scheduler.update_state_after_alloc(prompt, ids, found)
        step = scheduler.build_step(step_of(prompt, pages, found))
        worker.begin_step(step, None)
        worker.start_loads(step)
        worker.start_stores(step)
        spent += time.thread_time_ns() - begin
        while mover.stats()["jobs_under_way"]:
            pause(0.001)
        begin = time.thread_time_ns()
        worker.take_events()
        worker.take_finished()
        scheduler.step_ended()
        scheduler.request_finished(prompt.request_id)
        spent += time.thread_time_ns() - begin
        return spent / (blocks * PAGES_OF_BLOCK), found

    stored, loaded, listed = [], [], []
    for i in range(rounds):
        for which in (stored, loaded):
            nanoseconds, found = pass_through(Prompt(f"prompt {sleeps} {i}", blocks))
            assert found == (0 if which is stored else blocks * 256)
            which.append(nanoseconds)
    scheduler.close()
    return statistics.median(stored), statistics.median(loaded), statistics.median(listed[1::2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if MISSING:
        parser.error(f"{sys.executable} lacks kvpool: {MISSING}")
    config = {"pool": {"buffers": "64MiB", "staging": "4MiB"}, "device": [{"kind": "memory", "size": "64MiB"}]}
    with kvpool.Pool(config) as pool:
        consumer = pool.consumer()
        ns = pool.namespace(kvpool.Geometry("requests", 256, [65536]))
        print(f"a request: {request_us(consumer, ns, [kvpool.key(b'1')]):.2f} us")
        blocks, page_bytes, count = 625, 64, 10_000
        memory = bytearray(count * page_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        paged = pool.namespace(kvpool.Geometry("pages", 256, [PAGES_OF_BLOCK * page_bytes]))
        layer = (address, page_bytes, count, [page_bytes], [1], 1, 0)
        mover = PageMover.open(pool._native, paged, [layer], [PAGES_OF_BLOCK], 16 << 20)
        keys = b"".join(kvpool.key(b"%d" % i) for i in range(blocks))
        pages = PageNumbers([i % count for i in range(blocks * PAGES_OF_BLOCK)])
        print(f"a page: {page_ns(mover, keys, pages):.1f} ns")
        print(f"a page of several groups' load: {groups_page_ns():.1f} ns")
        for sleeps, how in ((False, "busy"), (True, "asleep before")):
            stored, loaded, listed = connector_page_ns(pool, paged, mover, sleeps)
            print(f"a page of the connector's, a thread that is {how}: stored {stored:.1f} ns,", end=" ")
            print(f"loaded {loaded:.1f} ns, of it vLLM's own list of pages {listed:.1f}")


if __name__ == "__main__":
    main()
