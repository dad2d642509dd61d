"""What a user of the package relies on, against a pool of memory and a file."""

import asyncio
import ctypes
import gc
import threading

import kvpool
import pytest
from demo_blocks import BLOCK_BYTES, SEGMENT_BYTES, keys_of, payload


def test_what_was_stored_comes_back(pool, ns):
    consumer = pool.consumer()
    keys, data = keys_of(4), payload(4)
    assert consumer.store(ns, keys, data).result(10).blocks == 4
    found = consumer.match(ns, keys + keys_of(1, 100)).result(10)
    assert found.blocks == 4 and found.bytes == 4 * BLOCK_BYTES and found.estimate_s > 0
    back = bytearray(len(data))
    result = consumer.retrieve(ns, found.pin, back).result(10)
    assert result.ok and result.blocks == 4 and result.segments == 3
    assert back == data
    assert pool.stats()["retrieved_blocks"] == 4
    devices = pool.device_stats()
    assert [device["name"] for device in devices] == ["memory0", "file0"]
    assert sum(device["used_bytes"] for device in devices) >= 4 * BLOCK_BYTES


def test_a_miss_is_no_error(pool, ns):
    consumer = pool.consumer()
    assert consumer.match(ns, keys_of(2)).result(10).blocks == 0
    result = consumer.retrieve(ns, keys_of(2), bytearray(2 * BLOCK_BYTES)).result(10)
    assert result.status == kvpool.Status.MISS and not result.ok and result.blocks == 0


def test_buffers_may_be_one_for_each_segment_and_a_part_may_be_asked_for(pool, ns):
    consumer = pool.consumer()
    keys, data = keys_of(3), payload(3)
    columns, at = [], 0
    for size in SEGMENT_BYTES:
        columns.append(b"".join(data[b * BLOCK_BYTES + at : b * BLOCK_BYTES + at + size] for b in range(3)))
        at += size
    assert consumer.store(ns, keys, columns).result(10).blocks == 3
    back = bytearray(len(data))
    assert consumer.retrieve(ns, keys, back).result(10).ok
    assert back == data
    middle = bytearray(3 * 5000)
    request = consumer.retrieve(ns, keys, [middle], segment_first=1, segment_count=1)
    assert request.result(10).ok and middle == columns[1]
    assert request.progress == 1


def test_numpy_and_the_pool_s_own_memory_are_used_where_they_lie(pool, ns):
    numpy = pytest.importorskip("numpy")
    consumer = pool.consumer(region_bytes=2 * BLOCK_BYTES // 4096 * 4096 + 4096)
    region = consumer.region
    assert region.ctypes.data % 4096 == 0
    source = region[: 2 * BLOCK_BYTES]
    source[:] = numpy.frombuffer(payload(2), numpy.uint8)
    assert consumer.store(ns, keys_of(2), source).result(10).blocks == 2
    back = numpy.zeros((2, BLOCK_BYTES // 8), numpy.float64)
    assert consumer.retrieve(ns, keys_of(2), back).result(10).ok
    assert back.tobytes() == payload(2)


def test_torch_tensors_of_any_type_come_by_dlpack(pool, ns):
    torch = pytest.importorskip("torch")
    consumer = pool.consumer()
    source = torch.arange(2 * BLOCK_BYTES // 2, dtype=torch.int32).to(torch.bfloat16)
    assert consumer.store(ns, keys_of(2), source).result(10).blocks == 2
    back = torch.zeros_like(source)
    assert consumer.retrieve(ns, keys_of(2), back).result(10).ok
    assert torch.equal(source, back)


def test_what_cannot_be_a_buffer_is_refused(pool, ns):
    consumer = pool.consumer()
    with pytest.raises(TypeError, match="writable"):
        consumer.retrieve(ns, keys_of(1), bytes(BLOCK_BYTES))
    with pytest.raises(TypeError, match="contiguous"):
        consumer.store(ns, keys_of(1), object())
    with pytest.raises(TypeError, match="contiguous"):
        consumer.store(ns, keys_of(1), memoryview(bytes(2 * BLOCK_BYTES))[::2])
    torch = pytest.importorskip("torch")
    for strided in (torch.zeros(BLOCK_BYTES, 2, dtype=torch.uint8)[:, 0], torch.zeros(2, BLOCK_BYTES // 2, dtype=torch.uint8).t()):
        with pytest.raises(TypeError, match="contiguous"):
            consumer.retrieve(ns, keys_of(1), strided)
        with pytest.raises(TypeError, match="contiguous"):
            consumer.store(ns, keys_of(1), strided)
    with pytest.raises(kvpool.InvalidArgument, match=f"holds 10 bytes; {BLOCK_BYTES} are wanted"):
        consumer.store(ns, keys_of(1), bytes(10))
    with pytest.raises(kvpool.InvalidArgument, match="there are 2 buffers; one for each of 3 segments"):
        consumer.store(ns, keys_of(1), [bytes(65536), bytes(5000)])
    with pytest.raises(kvpool.InvalidArgument, match="a key is 16 bytes"):
        consumer.match(ns, [b"short"])
    with pytest.raises(ValueError, match="3 segments"):
        consumer.retrieve(ns, keys_of(1), bytearray(5000), segment_first=3)


def test_buffers_are_kept_until_the_release(pool, ns):
    consumer = pool.consumer()
    data = bytearray(payload(4))
    request = consumer.store(ns, keys_of(4), data)
    with pytest.raises(BufferError):
        data.extend(b"more")
    request.wait_released(10)
    del request
    data.extend(b"more")


def test_a_pin_holds_its_run_until_it_is_given_back(pool, ns):
    consumer = pool.consumer()
    consumer.store(ns, keys_of(2), payload(2)).result(10)
    with consumer.match(ns, keys_of(2)).result(10).pin as pin:
        assert pin.held and pin.blocks == 2
        assert consumer.stage(pin).result(10).blocks == 2
        assert consumer.estimate(pin).result(10).estimate_s > 0
        assert consumer.delete(ns, keys_of(1)).result(10).blocks == 2
        back = bytearray(2 * BLOCK_BYTES)
        assert consumer.retrieve(ns, pin, back).result(10).ok and back == payload(2)
    assert not pin.held
    with pytest.raises(kvpool.InvalidArgument, match="the pin is released"):
        consumer.retrieve(ns, pin, back)
    wait_until(lambda: pool.stats()["pins_held"] == 0)


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come")


def test_a_pin_that_is_forgotten_is_given_back(pool, ns):
    consumer = pool.consumer()
    consumer.store(ns, keys_of(1), payload(1)).result(10)
    consumer.match(ns, keys_of(1)).result(10)
    wait_until(lambda: pool.stats()["pins_held"] == 0)


def test_requests_are_awaited(pool, ns):
    async def store_and_retrieve(consumer, number):
        keys, data = keys_of(2, 1000 * number), payload(2, number)
        assert (await consumer.store(ns, keys, data)).blocks == 2
        back = bytearray(len(data))
        assert (await consumer.retrieve(ns, keys, back)).ok
        assert back == data

    async def all_of_them():
        one, two = pool.consumer(), pool.consumer()
        await asyncio.wait_for(
            asyncio.gather(*(store_and_retrieve(one if n % 2 else two, n) for n in range(12))), 30
        )

    asyncio.run(all_of_them())
    asyncio.run(all_of_them())  # in another loop


def test_threads_may_share_a_consumer(pool, ns):
    consumer = pool.consumer()
    failures = []

    def work(number):
        try:
            for round in range(20):
                keys, data = keys_of(1, 100 * number + round), payload(1, number)
                consumer.store(ns, keys, data).result(30)
                back = bytearray(len(data))
                if not consumer.retrieve(ns, keys, back).result(30).ok or back != data:
                    raise AssertionError("wrong bytes")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_errors_are_typed_and_have_the_command_line_s_words(tmp_path):
    with pytest.raises(kvpool.InvalidArgument, match="devize") as caught:
        kvpool.Pool.from_toml('[[devize]]\nkind = "memory"\n')
    assert isinstance(caught.value, ValueError) and caught.value.status == kvpool.Status.INVALID_ARGUMENT
    with pytest.raises(kvpool.KVPoolError, match="absent.toml"):
        kvpool.Pool(tmp_path / "absent.toml")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"somebody's" * 1000)
    config = {"device": [{"kind": "file", "path": str(foreign), "size": "8MiB"}]}
    with pytest.raises(kvpool.NotOurs, match="foreign"):
        kvpool.Pool(config)
    assert foreign.read_bytes() == b"somebody's" * 1000
    mine = {"device": [{"kind": "file", "path": str(tmp_path / "mine"), "size": "8MiB"}]}
    with kvpool.Pool(mine), pytest.raises(kvpool.KVPoolError, match="in use"):
        kvpool.Pool(mine)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ({"path": None}, "key 'device[0].path' is missing or None; what TOML has "),
        ({"path": b"pool"}, "key 'device[0].path' is b'pool'; what TOML has "),
        ({"path": "a\0b"}, "key 'device[0].path' holds a zero byte"),
        ({"path": "\udcff"}, "key 'device[0].path' is no UTF-8"),
        ({1: "file"}, "key 'device[0].1': the name is 1; a str is wanted"),
    ],
)
def test_what_toml_does_not_have_is_named(device, words):
    with pytest.raises(kvpool.InvalidArgument) as caught:
        kvpool.Pool({"device": [{"kind": "file", "size": "8MiB", **device}]})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: kvpool.Pool(None), "config is missing or None; the path of a kvpool.toml or a dict is wanted"),
        (lambda: kvpool.Pool("a\0b"), "the configuration's path holds a zero byte"),
        (lambda: kvpool.Pool.from_toml(None), "the configuration's text is missing or None; a str is wanted"),
        (lambda: kvpool.Pool.from_toml("[pool]\n\0"), "the configuration's text holds a zero byte, in line 2"),
    ],
)
def test_what_cannot_be_a_configuration_is_said_in_a_line(make, words):
    with pytest.raises(kvpool.InvalidArgument) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_paths_may_stand_in_a_configuration(tmp_path):
    with kvpool.Pool({"device": [{"kind": "file", "path": tmp_path / "pool", "size": "8MiB"}]}):
        assert (tmp_path / "pool").exists()


def test_requests_for_nothing_are_refused_with_the_reason(pool, ns):
    consumer = pool.consumer()
    consumer.store(ns, keys_of(2), payload(2)).result(10)
    pin = consumer.match(ns, keys_of(2)).result(10).pin
    back = bytearray(2 * BLOCK_BYTES)
    for refused, words in (
        (lambda: consumer.match(ns, []), "there are no keys"),
        (lambda: consumer.store(ns, b"", b""), "there are no keys"),
        (lambda: consumer.delete(ns, []), "there are no keys"),
        (lambda: consumer.match(ns, "a key"), "keys are a list of 16 bytes each, or one buffer"),
        (lambda: consumer.retrieve(ns, pin, b"", blocks=0), "the pin's run has 2 blocks; .* blocks 0"),
        (lambda: consumer.retrieve(ns, pin, b"", block_first=2), "the pin's run has 2 blocks; block_first 2"),
        (lambda: consumer.stage(pin, 1, 2), "the pin's run has 2 blocks; block_first 1 and blocks 2"),
        (lambda: consumer.retrieve(ns, keys_of(2), back, blocks=1), "a part of a pin's run"),
        (lambda: consumer.match(ns, keys_of(2)).result(float("nan")), "not a number"),
        (lambda: pool.consumer(region_bytes=-1), "region_bytes is -1; a whole number from 0 to "),
        (lambda: pool.consumer("a\0b"), "the consumer's name holds a zero byte"),
        (lambda: pool.namespace("demo"), "the geometry is 'demo'; a kvpool.Geometry, .* is wanted"),
    ):
        with pytest.raises(kvpool.InvalidArgument, match=words):
            refused()


def test_objects_say_what_they_are(pool, ns):
    consumer = pool.consumer()
    request = consumer.store(ns, keys_of(2), payload(2))
    assert repr(request) == "<kvpool.Request: under way>" and not request.cancelled()
    request.wait_released(10)
    assert repr(request) == "<kvpool.Request: done>" and not request.cancelled()
    found = consumer.match(ns, keys_of(2)).result(10)
    assert repr(found) == f"<kvpool.Result: ok, 2 blocks, {2 * BLOCK_BYTES} bytes, with a pin>"
    assert found.status is kvpool.Status.OK
    assert repr(found.pin) == "<kvpool.Pin: 2 blocks, held>"
    found.pin.release()
    assert repr(found.pin) == "<kvpool.Pin: 2 blocks, released>"
    assert repr(ns) == f"<kvpool.Namespace 'demo': {BLOCK_BYTES} bytes in 3 segments for 16 tokens>"


def test_a_namespace_has_one_shape(pool, ns):
    assert ns.segment_bytes == SEGMENT_BYTES and ns.block_bytes == BLOCK_BYTES
    again = pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
    assert again.number == ns.number
    with pytest.raises(kvpool.InvalidArgument):
        pool.namespace(kvpool.Geometry("demo", 16, [4096]))


def test_no_more_than_a_consumer_s_slots_are_under_way(pool, ns):
    consumer = pool.consumer()
    requests = []
    with pytest.raises(kvpool.Busy, match="under way|full"):
        for _ in range(100_000):
            requests.append(consumer.match(ns, keys_of(1)))
            if requests[0].done():  # the engine is as fast as we are
                raise kvpool.Busy("full")
    for request in requests[:256]:
        request.result(10)


def test_results_that_nobody_takes_do_not_keep_others_from_asking(pool, ns):
    consumer = pool.consumer()
    consumer.store(ns, keys_of(1), payload(1)).wait_released()
    for _ in range(2000):
        wait_until(lambda: sends(consumer, ns))


def sends(consumer, ns):
    try:
        consumer.match(ns, keys_of(1), pin=True)  # and forgets it
    except kvpool.Busy:  # the engine has not come to it yet
        return False
    return True


def test_a_waiting_thread_lets_others_run(pool, ns):
    consumer = pool.consumer()
    consumer.store(ns, keys_of(1), payload(1)).result(10)
    with pytest.raises(kvpool.TimedOut):
        # A request that never comes to an end is not at hand: one that cannot be done in no time is.
        consumer.store(ns, keys_of(20, 50), payload(20)).result(0)


def test_memory_is_addressed_up_to_its_end(pool, ns):
    """Whatever address the process has, ctypes' among them."""
    consumer = pool.consumer()
    buffer = (ctypes.c_ubyte * BLOCK_BYTES).from_buffer_copy(payload(1))
    assert consumer.store(ns, keys_of(1), buffer).result(10).blocks == 1
    back = (ctypes.c_ubyte * BLOCK_BYTES)()
    assert consumer.retrieve(ns, keys_of(1), back).result(10).ok
    assert bytes(back) == payload(1)


def test_a_pin_serves_its_own_namespace_and_pool_alone(pool, ns, tmp_path):
    """A buffer's size is checked by the namespace that the caller names: it must be the pin's."""
    consumer = pool.consumer()
    consumer.store(ns, keys_of(1), payload(1)).result(10)
    pin = consumer.match(ns, keys_of(1)).result(10).pin
    small = pool.namespace(kvpool.Geometry("small", 16, [4096]))
    with pytest.raises(kvpool.InvalidArgument, match="another namespace"):
        consumer.retrieve(small, pin, bytearray(4096))
    with kvpool.Pool({"pool": {"buffers": 0}, "device": [{"kind": "memory", "size": "8MiB"}]}) as other:
        elsewhere = other.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
        stranger = other.consumer()
        for refused in (
            lambda: stranger.retrieve(elsewhere, pin, bytearray(BLOCK_BYTES)),
            lambda: stranger.retrieve(ns, pin, bytearray(BLOCK_BYTES)),
            lambda: stranger.match(ns, keys_of(1)),
            lambda: stranger.stage(pin),
            lambda: stranger.estimate(pin),
        ):
            with pytest.raises(kvpool.InvalidArgument, match="another"):
                refused()


def test_a_region_outlives_what_it_was_taken_from(tmp_path):
    config = {
        "pool": {"buffers": "1MiB", "staging": "4MiB"},
        "device": [{"kind": "file", "path": str(tmp_path / "pool"), "size": "8MiB"}],
    }
    with kvpool.Pool(config) as pool:
        ns = pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
        consumer = pool.consumer(region_bytes=2 * BLOCK_BYTES)
        part = consumer.region[:BLOCK_BYTES]
        part[:] = 7
        request = consumer.store(ns, keys_of(1), part)
        consumer.close()
        assert request.released() and consumer.closed
        with pytest.raises(kvpool.TooLarge):  # it is not another's meanwhile
            pool.consumer(region_bytes=900_000)
        with pytest.raises(kvpool.Closed):
            consumer.match(ns, keys_of(1))
    assert pool.closed and (part == 7).all()
    with pytest.raises(kvpool.Closed):
        pool.stats()
    with pytest.raises(kvpool.InUse):
        kvpool.Pool(config)
    del part
    kvpool.Pool(config).close()


def test_what_is_forgotten_under_way_is_given_back(tmp_path):
    config = {
        "pool": {"buffers": 0, "staging": "4MiB"},
        "device": [{"kind": "file", "path": str(tmp_path / "pool"), "size": "8MiB"}],
    }
    for _ in range(3):  # the file is free again each time
        pool = kvpool.Pool(config)
        consumer = pool.consumer()
        ns = pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
        consumer.store(ns, keys_of(4), payload(4))
        consumer.match(ns, keys_of(4))
        del consumer, ns, pool
        gc.collect()
