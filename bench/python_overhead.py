#!/usr/bin/env python3
"""What the Python bindings cost beyond the C API: microseconds of a request, nanoseconds of a page.

Processor time of the calling thread, so that what the engine does meanwhile does not count: of sending one match and
taking its result; of handing 10,000 pages to the mover; of listing the pages of a load of 131,000 tokens in two groups of layers.
"""

import ctypes
import statistics
import time
import types

import kvpool
from kvpool._native import PageMover, PageNumbers
from kvpool.vllm import layout
from kvpool.vllm.scheduler import SchedulerSide


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
    side = types.SimpleNamespace(_layout=layout.Layout(256, 16, groups))
    tracked = types.SimpleNamespace(block_ids=[PageNumbers(list(range(1, blocks * 16 + 1))) for _ in groups])
    spent = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        pages = SchedulerSide._load_pages(side, tracked, 0, blocks, 0)
        spent.append((time.thread_time_ns() - begin) / len(pages))
    return statistics.median(spent)


def main() -> None:
    config = {"pool": {"buffers": "64MiB", "staging": "4MiB"}, "device": [{"kind": "memory", "size": "64MiB"}]}
    with kvpool.Pool(config) as pool:
        consumer = pool.consumer()
        ns = pool.namespace(kvpool.Geometry("requests", 256, [65536]))
        print(f"a request: {request_us(consumer, ns, [kvpool.key(b'1')]):.2f} us")
        pages_of_block, blocks, page_bytes, count = 16, 625, 64, 1024
        memory = bytearray(count * page_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        paged = pool.namespace(kvpool.Geometry("pages", 256, [pages_of_block * page_bytes]))
        layer = (address, page_bytes, count, [page_bytes], [1], 1, 0)
        mover = PageMover.open(pool._native, paged, [layer], [pages_of_block], 16 << 20)
        keys = b"".join(kvpool.key(b"%d" % i) for i in range(blocks))
        pages = PageNumbers([i % count for i in range(blocks * pages_of_block)])
        print(f"a page: {page_ns(mover, keys, pages):.1f} ns")
        print(f"a page of several groups' load: {groups_page_ns():.1f} ns")


if __name__ == "__main__":
    main()
