"""kvpool as LMCache's native_plugin and as its plugin, made as its command line makes them."""

import argparse
import ctypes
import json
import select
import time

import pytest

pytest.importorskip("lmcache", reason="lmcache is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey  # noqa: E402
from lmcache.v1.distributed.internal_api import L1MemoryDesc  # noqa: E402
from lmcache.v1.distributed.l2_adapters import create_l2_adapter  # noqa: E402
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config  # noqa: E402
from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj  # noqa: E402

from kvpool.lmcache import plugin  # noqa: E402

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LAYOUT = {0: MemoryLayoutDesc(shapes=[], dtypes=[])}
PATIENCE_S = 30


def make_adapter(config, capacity_gb=0, kind="native_plugin", memory=None):
    spec = {"type": "native_plugin", "module_path": "kvpool.lmcache", "class_name": "Adapter",
            "adapter_params": {"config": config}, "max_capacity_gb": capacity_gb}  # fmt: skip
    if kind == "plugin":
        spec = {"type": "plugin", "module_path": "kvpool.lmcache.plugin", "class_name": "L2Adapter",
                "adapter_params": {"config": config, "max_capacity_gb": capacity_gb}}  # fmt: skip
    parsed = parse_args_to_l2_adapters_config(argparse.Namespace(l2_adapter=[json.dumps(spec)]))
    described = None if memory is None else L1MemoryDesc(memory.data_ptr(), memory.nbytes, 4096, memory.nbytes)
    return create_l2_adapter(parsed.adapters[0], described)


def config_of(device, path):
    devices = {"memory": {"kind": "memory"}, "file": {"kind": "file", "path": str(path)}}
    return {"pool": {"buffers": 0, "staging": "8MiB"}, "device": [devices[device] | {"size": "64MiB"}]}


@pytest.fixture(params=["memory", "file"])
def device(request):
    return request.param


@pytest.fixture(params=["native_plugin", "plugin"])
def adapter(request, device, tmp_path):
    made = make_adapter(config_of(device, tmp_path / "pool"), 0.0625, request.param)
    yield made
    made.close()


def key_of(number, **more):
    return ObjectKey(chunk_hash=number.to_bytes(32, "big"), model_name="test/model", kv_rank=0x01000100, **more)


def object_of(values, fill):
    data = torch.full((values,), fill, dtype=torch.float32)
    metadata = MemoryObjMetadata(
        shape=data.shape, dtype=data.dtype, address=0, phy_size=4 * values, fmt=MemoryFormat.KV_2LTD, ref_count=1
    )
    return TensorMemoryObj(data, metadata, parent_allocator=None)


def wait_for(descriptor, ask):
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    until = time.monotonic() + PATIENCE_S
    while (answer := ask()) is None:
        assert time.monotonic() < until
        poller.poll(50)
    return answer


def store(adapter, keys, objects):
    task = adapter.submit_store_task(keys, objects)
    done = {}

    def ask():
        done.update(adapter.pop_completed_store_tasks())
        return done.get(task)

    return wait_for(adapter.get_store_event_fd(), ask)


def look_up(adapter, keys):
    task = adapter.submit_lookup_and_lock_task(keys, LAYOUT)
    found = wait_for(adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(task))
    assert adapter.query_lookup_and_lock_result(task) is None
    return [found.test(i) for i in range(len(keys))]


def load(adapter, keys, objects):
    task = adapter.submit_load_task(keys, objects)
    found = wait_for(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task))
    return [found.test(i) for i in range(len(keys))]


def test_store_look_up_load_unlock(adapter):
    keys = [key_of(i) for i in range(5)]
    result = store(adapter, keys, [object_of(64 * KIB, float(i)) for i in range(5)])
    assert result.is_successful() and result.bytes_transferred() == 5 * 256 * KIB
    assert look_up(adapter, [*keys, key_of(99)]) == [True] * 5 + [False]
    back = [object_of(64 * KIB, -1.0) for _ in range(6)]
    assert load(adapter, [*keys, key_of(99)], back) == [True] * 5 + [False]
    assert all(torch.all(back[i].tensor == float(i)) for i in range(5))
    adapter.submit_unlock(keys)


def test_groups_ranks_and_salts_are_apart(adapter):
    keys = [key_of(1), key_of(1, object_group_id=1), key_of(1, cache_salt="alice"), key_of(1, cache_salt="bob")]
    sizes = [1000, 2000, 1000, 1000]
    for i, key in enumerate(keys):
        assert look_up(adapter, [key]) == [False]
        assert store(adapter, [key], [object_of(sizes[i], float(i))]).is_successful()
    back = [object_of(size, -1.0) for size in sizes]
    assert load(adapter, keys, back) == [True] * 4
    assert all(torch.all(back[i].tensor == float(i)) for i in range(4))


def test_usage_follows_stores_and_deletes(adapter):
    keys = [key_of(i) for i in range(8)]
    assert store(adapter, keys, [object_of(MIB // 4, float(i)) for i in range(8)]).is_successful()
    usage = adapter.get_usage()
    assert usage.total_bytes_used == 8 * MIB and usage.usage_fraction == 8 / 64
    adapter.delete(keys[:6])
    assert adapter.get_usage().total_bytes_used == 2 * MIB
    assert look_up(adapter, keys) == [False] * 6 + [True] * 2
    adapter.delete([*keys, key_of(99)])
    assert adapter.get_usage().total_bytes_used == 0


def test_what_the_pool_evicted_leaves_the_accounts(adapter):
    """Twice of what fits: no store fails, old keys are misses, and deleting all brings usage back to nothing."""
    keys = [key_of(i) for i in range(128)]
    for i in range(0, 128, 8):
        objects = [object_of(MIB // 4, float(i + j)) for j in range(8)]
        assert store(adapter, keys[i : i + 8], objects).is_successful()
    found = look_up(adapter, keys)
    assert not any(found[:32]) and all(found[-8:])
    back = [object_of(MIB // 4, -1.0) for _ in keys]
    assert load(adapter, keys, back) == found
    assert all(torch.all(each.tensor == float(i)) for i, each in enumerate(back) if found[i])
    adapter.delete(keys)
    assert adapter.get_usage().total_bytes_used == 0


def test_many_tasks_at_once(adapter):
    keys = [[key_of(100 * i + j) for j in range(4)] for i in range(40)]
    values = [[object_of(25_000, float(i)) for _ in batch] for i, batch in enumerate(keys)]
    tasks = [adapter.submit_store_task(batch, objects) for batch, objects in zip(keys, values)]
    assert len(set(tasks)) == 40
    done = {}
    until = time.monotonic() + PATIENCE_S
    while len(done) < 40:
        assert time.monotonic() < until
        done.update(adapter.pop_completed_store_tasks())
    assert all(result.is_successful() for result in done.values())
    back = [[object_of(25_000, -1.0) for _ in batch] for batch in keys]
    tasks = [adapter.submit_load_task(batch, objects) for batch, objects in zip(keys, back)]
    for i, task in enumerate(tasks):
        found = wait_for(adapter.get_load_event_fd(), lambda task=task: adapter.query_load_result(task))
        assert all(found.test(j) for j in range(4))
        assert all(torch.all(each.tensor == float(i)) for each in back[i])


def test_a_plugin_is_told_of_lmcaches_memory(device, tmp_path):
    """Values anywhere in it are stored from and loaded into where they lie; what else it holds stays."""
    memory = torch.full((8 * MIB,), 7, dtype=torch.uint8)
    made = make_adapter(config_of(device, tmp_path / "pool"), kind="plugin", memory=memory)
    values = [part_of(memory, at, MIB + 4096 * at // MIB) for at in range(0, 6 * MIB, 2 * MIB)]
    keys = [key_of(i) for i in range(3)]
    for i, value in enumerate(values):
        value.tensor.fill_(i + 1)
    assert store(made, keys, values).is_successful()
    memory.fill_(7)
    assert load(made, keys, values) == [True] * 3
    assert all(torch.all(value.tensor == i + 1) for i, value in enumerate(values))
    lengths = sum(value.tensor.numel() for value in values)
    assert int((memory == 7).sum()) == memory.numel() - lengths
    made.close()


@pytest.mark.parametrize("stable_bytes", [None, 3 * MIB, 8 * MIB])
def test_a_plugin_names_stable_memory_only(stable_bytes, monkeypatch):
    """Where LMCache says no stable size, its memory is shared, or a reservation that grows."""
    named = []

    class Recorded(plugin.Adapter):
        def __init__(self, memory, **params):
            named.extend((ctypes.addressof(each), len(each)) for each in memory)
            super().__init__(memory=memory, **params)

    monkeypatch.setattr(plugin, "Adapter", Recorded)
    memory = torch.full((8 * MIB,), 7, dtype=torch.uint8)
    described = L1MemoryDesc(memory.data_ptr(), memory.nbytes, 4096, stable_bytes)
    made = plugin.L2Adapter({"config": config_of("memory", None)}, described)
    assert named == ([(memory.data_ptr(), stable_bytes)] if stable_bytes else [])
    value = part_of(memory, 4 * MIB, MIB)
    assert store(made, [key_of(1)], [value]).is_successful()
    assert load(made, [key_of(1)], [value]) == [True] and torch.all(memory == 7)
    made.close()


def part_of(memory, at, length):
    data = memory[at : at + length]
    metadata = MemoryObjMetadata(
        shape=data.shape, dtype=data.dtype, address=at, phy_size=length, fmt=MemoryFormat.KV_2LTD, ref_count=1
    )
    return TensorMemoryObj(data, metadata, parent_allocator=None)


def test_status_and_close():
    made = make_adapter({"device": [{"kind": "memory", "size": "64MiB"}], "pool": {"buffers": 0}})
    assert made.report_status()["is_healthy"] and made.report_status()["type"] == "Adapter"
    fds = {made.get_store_event_fd(), made.get_lookup_and_lock_event_fd(), made.get_load_event_fd()}
    assert len(fds) == 3
    values = [object_of(MIB // 4, 1.0) for _ in range(32)]
    made.submit_store_task([key_of(i) for i in range(32)], values)
    made.close()


def test_a_wrong_configuration_names_the_key():
    with pytest.raises(ValueError, match="did you mean 'size'"):
        make_adapter({"device": [{"kind": "memory", "sise": "64MiB"}]})
