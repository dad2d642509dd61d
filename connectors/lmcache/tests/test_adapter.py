"""kvpool.lmcache.Adapter by its own contract: batches in, completions out."""

import mmap
import os
import subprocess
import sys
import threading
import time

import kvpool
import pytest
from adapter_client import KIB, MIB, PATIENCE_S, Client, config_of, keys_of
from kvpool.lmcache import Adapter

LENGTHS = [1, 100, 4095, 4096, 4097, 65536, MIB - 1, MIB, MIB + 4096, 3 * MIB + 5, 4 * MIB + 1, 24 * MIB]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_value_of_any_length_comes_back(client, length):
    value = os.urandom(length)
    assert client.set(["a"], [memoryview(value)]) == (True, "", None)
    assert client.exists(["a", "b"]) == [True, False]
    assert client.get(["a"], [length]) == [value]
    assert client.delete(["a"]) == [True]
    assert client.exists(["a"]) == [False]
    assert client.get(["a"], [length]) == [None]


def test_lengths_mix_in_one_batch(client):
    keys = keys_of(3 * len(LENGTHS))
    values = [os.urandom(length) for length in LENGTHS * 3]
    lengths = [len(value) for value in values]
    assert client.set(keys, values)[0]
    assert client.exists(keys + ["other"]) == [True] * len(keys) + [False]
    assert client.get(keys, lengths) == values
    assert client.delete(keys[::2]) == [True] * len(keys[::2])
    assert client.exists(keys) == [i % 2 == 1 for i in range(len(keys))]
    assert client.get(keys, lengths) == [value if i % 2 else None for i, value in enumerate(values)]


def test_another_length_is_a_miss(client):
    client.set(["a"], [b"x" * 5000])
    assert client.get(["a"], [4999]) == [None]
    assert client.get(["a"], [5001]) == [None]
    client.set(["a"], [b"y" * 4999])  # a key has one length, the one that it was stored with last
    assert client.get(["a", "a"], [5000, 4999]) == [None, b"y" * 4999]


def test_missing_keys_among_others(client):
    keys = keys_of(100)
    stored = [i for i in range(100) if i % 7 and i not in (50, 51, 52)]
    client.set([keys[i] for i in stored], [bytes([i]) * 8192 for i in stored])
    want = [bytes([i]) * 8192 if i in stored else None for i in range(100)]
    assert client.get(keys, [8192] * 100) == want
    assert client.exists(keys) == [value is not None for value in want]


def test_a_key_twice_in_a_batch(client):
    assert client.set(["a", "a"], [b"1" * 4096, b"1" * 4096])[0]
    assert client.get(["a", "a"], [4096, 4096]) == [b"1" * 4096] * 2


def test_memory_that_is_not_aligned(client):
    value = os.urandom(3 * MIB)
    assert client.set(["a"], [memoryview(value)[123 : 2 * MIB + 123]])[0]
    back = bytearray(3 * MIB)
    ok, _, found = client.wait(client.adapter.submit_batch_get(["a"], [memoryview(back)[77 : 2 * MIB + 77]]))
    assert ok and found == [True]
    assert back[77 : 2 * MIB + 77] == value[123 : 2 * MIB + 123]
    assert back[:77] == bytes(77) and back[2 * MIB + 77 :] == bytes(MIB - 77)


def colliding_keys():
    """Two keys of the same XXH3 hash, with the secret that the library has in it.

    Each 8 bytes are mixed with 8 of the secret, 64 bytes further on with the next 8, and a product of both halves
    is summed beside the 8 bytes themselves. Where the upper halves are the secret's own the product is 0, and of
    two such places only the sum of their lower halves is left.
    """
    first, second = 7 * 64, 14 * 64
    text = bytearray(b"x" * 1100)
    text[first + 3 : first + 8] = b"\xc2" + bytes.fromhex("813a264c")  # the first makes UTF-8 of it
    text[second + 4 : second + 8] = bytes.fromhex("cdb45931")
    other = bytearray(text)
    other[first] += 1
    other[second] -= 1
    return text.decode(), other.decode()


def test_keys_that_were_made_to_collide(client):
    one, other = colliding_keys()
    assert one != other
    assert client.set([one], [b"1" * 100])[0]
    assert client.exists([other]) == [False]
    assert client.set([other], [b"2" * 100])[0]
    assert client.get([one, other], [100, 100]) == [b"1" * 100, b"2" * 100]


def test_deleting_what_is_not_there_says_that_it_is_gone(client):
    """What the pool evicted by itself must leave LMCache's accounts too."""
    assert client.delete(["never"]) == [True]
    client.set(["a"], [b"x"])
    assert client.delete(["never", "a"]) == [True, True]


def test_empty_batches_and_values(client):
    for submit in (client.adapter.submit_batch_exists, client.adapter.submit_batch_delete):
        assert client.wait(submit([])) == (True, "", [])
    assert client.set([], []) == (True, "", None)
    ok, error, _ = client.set(["a", "b"], [b"", b"x"])
    assert not ok and "empty value" in error
    assert client.exists(["a", "b"]) == [False, True]
    assert client.get(["a"], [0]) == [None]


def test_wrong_calls(client):
    adapter = client.adapter
    with pytest.raises(kvpool.InvalidArgument, match="2 keys and 1 values"):
        adapter.submit_batch_set(["a", "b"], [b"x"])
    with pytest.raises(TypeError, match="a key is a str"):
        adapter.submit_batch_exists([b"a"])
    with pytest.raises(TypeError, match="not a str"):
        adapter.submit_batch_exists("abc")
    with pytest.raises(TypeError, match="int"):
        adapter.submit_batch_delete(5)
    with pytest.raises(TypeError, match="None"):
        adapter.submit_batch_set(["a"], None)
    with pytest.raises(TypeError, match="writable"):
        adapter.submit_batch_get(["a"], [b"x"])
    with pytest.raises(TypeError, match="contiguous"):
        adapter.submit_batch_set(["a"], [memoryview(b"0123")[::2]])


def test_numbers_are_unique_over_all_kinds(client):
    adapter = client.adapter
    numbers = []
    for i in range(50):
        numbers.append(adapter.submit_batch_set([f"k{i}"], [b"x" * 100]))
        numbers.append(adapter.submit_batch_exists([f"k{i}"]))
        numbers.append(adapter.submit_batch_delete([f"k{i}"]))
        numbers.append(adapter.submit_batch_get([f"k{i}"], [bytearray(100)]))
    assert len(set(numbers)) == 200
    for number in numbers:
        assert client.wait(number)[0]
    client.take()
    assert not client.completions and not client.poller.poll(0)


def test_threads_submit_while_one_drains(client):
    """Four of them, each with its own keys, in all sizes."""
    adapter, threads, failures = client.adapter, 4, []
    arrived = threading.Condition()
    completions = {}
    stop = threading.Event()

    def drain():
        while not stop.is_set():
            if client.poller.poll(100):
                with arrived:
                    for number, *rest in adapter.drain_completions():
                        completions[number] = rest
                    arrived.notify_all()

    def await_all(numbers):
        with arrived:
            assert arrived.wait_for(lambda: all(n in completions for n in numbers), PATIENCE_S)
            return [completions.pop(n) for n in numbers]

    def work(thread):
        try:
            for turn in range(10):
                lengths = [(thread * 7 + turn * 13 + i * 4099) % 20000 // 1000 * 1000 + 1 for i in range(20)]
                keys = [f"{thread}@{turn}@{i}" for i in range(20)]
                values = [bytes([thread * 16 + i]) * length for i, length in enumerate(lengths)]
                numbers = [adapter.submit_batch_set(keys[i : i + 5], values[i : i + 5]) for i in range(0, 20, 5)]
                assert all(ok for ok, _, _ in await_all(numbers))
                buffers = [bytearray(length) for length in lengths]
                numbers = [adapter.submit_batch_get(keys[i : i + 4], buffers[i : i + 4]) for i in range(0, 20, 4)]
                numbers.append(adapter.submit_batch_exists(keys))
                assert all(all(found) for _, _, found in await_all(numbers))
                assert buffers == values
        except BaseException as failure:
            failures.append(failure)
            raise

    drainer = threading.Thread(target=drain, daemon=True)
    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    drainer.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(4 * PATIENCE_S)
    stop.set()
    drainer.join(PATIENCE_S)
    assert not failures and not any(worker.is_alive() for worker in workers)


def test_a_full_pool_evicts_what_was_used_least(memory_client):
    """128 MiB through 64: all stores succeed, the oldest values are misses, and nothing is an error."""
    client = memory_client
    keys = keys_of(128)
    for i in range(0, 128, 16):
        values = [bytes([i + j]) * MIB for j in range(16)]
        assert client.set(keys[i : i + 16], values) == (True, "", None)
    found = client.exists(keys)
    assert not any(found[:32]) and all(found[112:])
    back = client.get(keys, [MIB] * 128)
    assert [value is not None for value in back] == found
    assert all(value == bytes([i]) * MIB for i, value in enumerate(back) if value)


def test_a_batch_larger_than_the_pool(memory_client):
    """Values of one batch may push out each other: room is made by what other requests give back."""
    client = memory_client
    keys = keys_of(100)
    numbers = [client.adapter.submit_batch_set(keys, [b"%03d" % i + b"x" * (MIB - 3) for i in range(100)]) for _ in range(4)]
    assert [client.wait(number)[0] for number in numbers] == [True] * 4
    back = client.get(keys, [MIB] * 100)
    assert 32 <= sum(value is not None for value in back) < 100
    assert all(value[:3] == b"%03d" % i for i, value in enumerate(back) if value)


def test_a_value_larger_than_the_pool(memory_client):
    client = memory_client
    ok, error, _ = client.set(["a"], [bytes(80 * MIB)])
    assert not ok and error
    assert client.set(["b"], [bytes(MIB)])[0]
    assert client.exists(["a", "b"]) == [False, True]


def test_sizes_take_over_from_each_other(memory_client):
    """A pool full of one length becomes room for another."""
    client = memory_client
    for length in (MIB, 300 * KIB, 2 * MIB + 12345, 4096):
        keys = keys_of(100 * MIB // max(length, 64 * KIB), f"of{length}x")
        for i in range(0, len(keys), 10):
            assert client.set(keys[i : i + 10], [b"%05d" % j + bytes(length - 5) for j in range(i, i + 10)][: len(keys[i : i + 10])])[0]
        found = client.exists(keys)
        assert all(found[-10:])
        back = client.get(keys, [length] * len(keys))
        assert all(value[:5] == b"%05d" % i for i, value in enumerate(back) if value)


def test_limits_below_a_request(tmp_path):
    limits = {"tickets": 2, "blocks_per_request": 3, "segments_per_request": 128}
    client = Client({**config_of(tmp_path / "pool"), "limits": limits})
    keys = keys_of(60)
    values = [bytes([i]) * (MIB // 2) for i in range(60)]
    numbers = [client.adapter.submit_batch_set(keys[i : i + 10], values[i : i + 10]) for i in range(0, 60, 10)]
    assert all(client.wait(number)[0] for number in numbers)
    assert client.get(keys, [MIB // 2] * 60) == values
    client.adapter.close()


def test_limits_below_a_request_for_keys(tmp_path):
    """Lookups, deletes and the deletes before a set are as large as stores are."""
    client = Client({**config_of(tmp_path / "pool"), "limits": {"blocks_per_request": 3}})
    for length in (100, 200):
        keys = keys_of(10, f"of{length}x")
        assert client.set(keys, [bytes([i]) * length for i in range(10)]) == (True, "", None)
    assert client.set(keys, [bytes([i]) * 100 for i in range(10)]) == (True, "", None)
    assert client.get(keys * 2, [100] * 10 + [200] * 10) == [bytes([i]) * 100 for i in range(10)] + [None] * 10
    assert client.exists(keys) == [True] * 10
    assert client.delete(keys) == [True] * 10
    assert client.exists(keys) == [False] * 10
    client.adapter.close()


def test_too_many_lengths(tmp_path, capfd):
    client = Client(config_of(tmp_path / "pool"), lengths_max=3)
    assert client.set(["1", "2", "3"], [b"x" * n for n in (10, 20, 30)])[0]
    for length in (40, 50):
        ok, error, _ = client.set(["4", "5"], [b"x" * length, b"x" * 10])
        assert not ok and "more than 3 different lengths" in error
    assert client.exists(["3", "4", "5"]) == [True, False, True]
    assert capfd.readouterr().err.count("different lengths") == 1
    client.adapter.close()


def test_segments_that_the_configuration_bounds(tmp_path):
    """A namespace in the configuration lets blocks have 64 segments only; larger values have larger ones."""
    config = config_of(tmp_path / "pool", size="512MiB")
    config["namespace"] = [{"name": "x", "segment_bytes": "64KiB", "segments": 4}]
    client = Client(config)
    value = os.urandom(4096) * (100 * MIB // 4096) + b"tail"
    assert client.set(["a"], [value])[0]
    assert client.get(["a"], [len(value)]) == [value]
    client.adapter.close()


PINNED = """
import pathlib, re, sys, time
from kvpool.lmcache import Adapter
config = {"pool": {"buffers": 0, "staging": "2MiB"}, "device": [{"kind": "file", "path": sys.argv[1], "size": "64MiB"}]}
adapter = Adapter(config, memory=[bytearray(int(sys.argv[2]))] if sys.argv[2] != "0" else [])
def pinned_kib():
    time.sleep(0.1)  # what measured the device goes a little later
    return int(re.search(r"VmPin:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
print(min(pinned_kib() for _ in range(20)))
adapter.close()
"""


def pinned_bytes(path, memory_bytes):
    """By a process that opens an adapter: the kernel gives back late what a closed one had."""
    command = [sys.executable, "-c", PINNED, str(path), str(memory_bytes)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout) * KIB


def test_named_memory_is_pinned(tmp_path):
    """The kernel's registered buffers are it, beside the pool's own."""
    without = pinned_bytes(tmp_path / "pool", 0)
    if without == 0:
        pytest.skip("`ulimit -l` allows no registered buffers")
    assert pinned_bytes(tmp_path / "pool", 4 * MIB) >= without + 4 * MIB


def test_a_wrong_configuration_is_one_clear_line(tmp_path):
    with pytest.raises(kvpool.InvalidArgument, match="queue_dept.*did you mean 'queue_depth'"):
        Adapter({"device": [{"kind": "memory", "size": "1MiB", "queue_dept": 3}]})
    with pytest.raises(kvpool.KVPoolError, match="missing.toml"):
        Adapter(str(tmp_path / "missing.toml"))
    with pytest.raises(kvpool.InvalidArgument, match="lengths_max"):
        Adapter({"device": [{"kind": "memory", "size": "8MiB"}]}, lengths_max=0)
    with pytest.raises(kvpool.InvalidArgument, match="huge_pages is 'no'; true or false is wanted"):
        Adapter({"device": [{"kind": "memory", "size": "8MiB"}]}, huge_pages="no")


def test_a_path_as_configuration(tmp_path):
    file = tmp_path / "kvpool.toml"
    file.write_text('[[device]]\nkind = "memory"\nsize = "16MiB"\n')
    client = Client(str(file))
    assert client.set(["a"], [b"x" * 10])[0] and client.get(["a"], [10]) == [b"x" * 10]
    assert client.adapter.pool.stats()["ready_blocks"] == 1
    client.adapter.close()


def test_a_deadline_that_passes_is_a_miss(tmp_path):
    """What came of a value by then is not taken for it, and nothing is written into its buffer afterwards."""
    config = {**config_of(tmp_path / "pool"), "limits": {"deadline": "300ms"}}
    config["device"][0]["limit_read"] = "10MB/s"
    client = Client(config)
    assert client.set(["a"], [os.urandom(8 * MIB)])[0]
    back = mmap.mmap(-1, 8 * MIB)  # aligned: the device itself writes it
    ok, error, found = client.wait(client.adapter.submit_batch_get(["a"], [back]))
    assert ok and found == [False], error
    assert any(back[:])  # it was under way
    back[:] = bytes(8 * MIB)
    until = time.monotonic() + PATIENCE_S
    while client.adapter.pool.stats()["tickets_under_way"] > 0:
        assert time.monotonic() < until
    assert not any(back[:])
    assert client.adapter.pool.stats()["timed_out_requests"] == 1
    client.adapter.close()


def spoil(path, offset, count):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(os.urandom(count))
        file.flush()
        os.fsync(file.fileno())


def test_bytes_that_rot_are_a_miss(client, tmp_path):
    keys = keys_of(64)
    values = [os.urandom(256 * KIB) for _ in keys]
    assert client.set(keys, values)[0]
    pool = tmp_path / "pool"
    needle = values[40][1000:1064]
    content = pool.read_bytes()
    spoil(pool, content.index(needle), 64)
    back = client.get(keys, [256 * KIB] * 64)
    assert back[40] is None
    assert back[:40] == values[:40] and back[41:] == values[41:]
    assert client.exists(keys) == [i != 40 for i in range(64)]
    assert client.set(keys[40:41], values[40:41])[0]
    assert client.get(keys, [256 * KIB] * 64) == values


def test_a_file_that_lost_its_end(client, tmp_path):
    """What cannot be read any more is missing, what can be is right."""
    keys = keys_of(100)
    values = [bytes([i]) * MIB for i in range(100)]
    assert client.set(keys, values)[0]
    os.truncate(tmp_path / "pool", 40 * MIB)
    back = client.get(keys, [MIB] * 100)
    assert any(value is None for value in back) and any(value is not None for value in back)
    assert all(value in (None, values[i]) for i, value in enumerate(back))


def test_values_are_let_go_with_their_completion(client):
    value, back = bytearray(4096), bytearray(4096)
    number = client.adapter.submit_batch_set(["a"], [value])
    with pytest.raises(BufferError):
        value.append(0)
    client.wait(number)
    value.append(0)
    client.wait(client.adapter.submit_batch_get(["a"], [back]))
    back.append(0)
