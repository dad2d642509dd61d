"""Adapters that are closed, by whom and whenever it be, forgotten, or left behind by a fork."""

import gc
import os
import resource
import signal
import threading
import time

import kvpool
import pytest
from adapter_client import MIB, PATIENCE_S, Client, config_of, keys_of
from kvpool.lmcache import LMCacheAdapter


@pytest.mark.parametrize("pause_s", [0, 0.002, 0.02])
def test_close_with_work_under_way(tmp_path, pause_s):
    client = Client(config_of(tmp_path / "pool", size="512MiB"))
    keys = keys_of(128)
    values = [bytes([i]) * MIB for i in range(128)]
    numbers = [client.adapter.submit_batch_set(keys[i : i + 8], values[i : i + 8]) for i in range(0, 128, 8)]
    buffers = [bytearray(MIB) for _ in range(64)]
    numbers += [client.adapter.submit_batch_get(keys[i : i + 8], buffers[i : i + 8]) for i in range(0, 64, 8)]
    time.sleep(pause_s)
    client.adapter.close()
    client.take()
    assert sorted(client.completions) == sorted(numbers)
    for number in numbers[16:]:
        for i, there in enumerate(client.completions[number][2]):
            assert not there or buffers[(number - numbers[16]) * 8 + i] == values[(number - numbers[16]) * 8 + i]
    for buffer in buffers:
        buffer.append(0)  # nothing holds it any more
    with pytest.raises(kvpool.Closed):
        client.adapter.submit_batch_exists(["a"])
    client.adapter.close()


def test_the_pool_is_closed_before_its_adapter(tmp_path):
    client = Client(config_of(tmp_path / "pool"))
    keys = keys_of(32)
    numbers = [client.adapter.submit_batch_set(keys[i : i + 8], [bytes(MIB)] * 8) for i in range(0, 32, 8)]
    for close in (client.adapter.pool.close, client.adapter.close) * 2:
        close()
    client.take()
    assert sorted(client.completions) == numbers
    with pytest.raises(kvpool.Closed):
        client.adapter.submit_batch_exists(keys)


def test_closed_from_both_sides_at_once(tmp_path):
    client = Client(config_of(tmp_path / "pool"))
    client.adapter.submit_batch_set(keys_of(64), [bytes(MIB)] * 64)
    closers = [threading.Thread(target=each.close) for each in (client.adapter.pool, client.adapter) * 2]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(PATIENCE_S)
    assert client.adapter.pool.closed and not any(closer.is_alive() for closer in closers)


def test_an_adapter_that_nobody_closes(tmp_path):
    client = Client(config_of(tmp_path / "pool"))
    client.adapter.submit_batch_set(["a"], [bytes(8 * MIB)])
    del client
    Client(config_of(tmp_path / "pool")).adapter.close()  # its file is free again


@pytest.mark.parametrize("closed", [False, True])
def test_a_forked_child_forgets_it(client, closed):
    assert client.set(["a"], [b"x" * 100])[0]
    child = os.fork()
    if child == 0:
        if closed:
            client.adapter.close()
        del client.adapter
        gc.collect()
        os._exit(0)
    until = time.monotonic() + PATIENCE_S
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert client.get(["a"], [100]) == [b"x" * 100]


def test_one_that_finds_no_descriptor_leaves_nothing_behind(tmp_path):
    pool = kvpool.Pool({**config_of(tmp_path / "pool"), "limits": {"consumers": 1}})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = 0
    for more in range(16):
        next_one = os.dup(2)
        os.close(next_one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one + more, before[1]))
        try:
            adapter = LMCacheAdapter(pool._native, 64, False)
            break
        except (RuntimeError, kvpool.KVPoolError) as error:
            assert "ulimit -n" in str(error)
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert os.dup(2) == next_one  # what it had opened is closed again
        os.close(next_one)
    assert refused >= 3  # its consumer takes one, and it two
    adapter.close()
