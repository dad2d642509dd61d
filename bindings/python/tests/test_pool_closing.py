"""Pools and consumers that are closed while others use them, or left behind by a fork."""

import asyncio
import gc
import os
import signal
import threading
import time
import weakref

import kvpool
import pytest
from demo_blocks import SEGMENT_BYTES, keys_of, payload


def test_a_closed_pool_says_so(pool, ns):
    consumer = pool.consumer()
    pool.close()
    pool.close()
    assert pool.closed and consumer.closed
    with pytest.raises(kvpool.Closed):
        consumer.match(ns, keys_of(1))
    with pytest.raises(kvpool.Closed):
        pool.consumer()
    with pytest.raises(kvpool.Closed):
        pool.stats()


def slow_pool(tmp_path):
    return kvpool.Pool({
        "pool": {"buffers": 0, "staging": "4MiB"},
        "device": [{"kind": "file", "path": str(tmp_path / "slow"), "size": "16MiB", "limit_write": "1MB/s"}],
    })  # fmt: skip


def test_a_pool_may_be_closed_while_its_consumer_is(tmp_path):
    pool = slow_pool(tmp_path)
    consumer = pool.consumer()
    ns = pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
    consumer.store(ns, keys_of(16), payload(16))
    threads = [threading.Thread(target=close, args=[30]) for close in (consumer.close, pool.close, consumer.close)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert pool.closed and consumer.closed


def test_a_result_that_closing_prevented_says_so(tmp_path):
    with slow_pool(tmp_path) as pool:
        consumer = pool.consumer()
        ns = pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
        requests = [consumer.store(ns, keys_of(4, 4 * i), payload(4)) for i in range(4)]
        consumer.close(30)
        assert all(request.released() for request in requests)
        for request in requests:
            with pytest.raises(kvpool.Closed, match="was closed before the request ended"):
                request.result()


def test_an_await_ends_when_another_thread_closes_the_consumer(tmp_path):
    with slow_pool(tmp_path) as pool:
        consumer = pool.consumer()
        ns = pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))

        async def main():
            request = consumer.store(ns, keys_of(16), payload(16))
            threading.Timer(0.1, consumer.close, [30]).start()
            return await asyncio.wait_for(request, 30)

        try:
            assert asyncio.run(main()).status == kvpool.Status.CANCELLED
        except kvpool.Closed:
            pass


def test_a_loop_that_has_gone_is_not_held(tmp_path):
    with slow_pool(tmp_path) as pool:
        consumer = pool.consumer()
        ns = pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
        loops = []

        async def main(i):
            loops.append(weakref.ref(asyncio.get_running_loop()))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(consumer.store(ns, keys_of(8, 10 * i), payload(8)), 0.01)

        for i in range(3):
            asyncio.run(main(i))
        gc.collect()
        assert not any(loop() for loop in loops)
        until = time.monotonic() + 30
        while pool.stats()["tickets_under_way"] > 0:  # they were cancelled with their tasks
            consumer.poll()
            assert time.monotonic() < until


@pytest.mark.parametrize("closing", [False, True])
def test_a_forked_child_leaves_its_parents_pool_alone(pool, ns, closing):
    consumer = pool.consumer()
    request = consumer.store(ns, keys_of(1), payload(1))
    child = os.fork()
    if child == 0:
        told = 0
        for ask in (pool.stats, lambda: consumer.match(ns, keys_of(1)), lambda: request.wait_released(10)):
            try:
                ask()
            except kvpool.Closed:
                told += 1
        if closing:
            pool.close()
        del ask, request, consumer, pool, ns
        gc.collect()
        os._exit(0 if told >= 2 else 1)  # the request may have ended before
    until = time.monotonic() + 30
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert request.result(10).blocks == 1
    assert consumer.match(ns, keys_of(1)).result(10).blocks == 1
