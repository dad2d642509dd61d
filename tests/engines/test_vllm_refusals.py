"""What is said when kvpool cannot serve an engine: an error for what the user wrote, a line for what cannot be."""

import logging
import pickle
import subprocess
import sys
import types

import pytest
import vllm
from engine import tiny_models  # noqa: F401  sets the environment before vLLM is imported
from kvpool.vllm import KVPoolConnector
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, MambaSpec

torch = pytest.importorskip("torch")


def spec(**changed):
    return FullAttentionSpec(**({"block_size": 128, "num_kv_heads": 2, "head_size": 64, "dtype": torch.float32} | changed))


def configuration(extra, policy="recompute", spec_of_layer=None, **changed):
    fields = {
        "world_size": 1, "data_parallel_size": 1, "executor": "uni", "enable_sleep_mode": False, "calculate_kv_scales": False,
    } | changed  # fmt: skip
    transfer = types.SimpleNamespace(engine_id="none", kv_connector_extra_config=extra, kv_load_failure_policy=policy,
                                     kv_connector="KVPoolConnector", kv_role="kv_both")  # fmt: skip
    vllm_config = types.SimpleNamespace(
        kv_transfer_config=transfer,
        parallel_config=types.SimpleNamespace(world_size=fields["world_size"], data_parallel_size=fields["data_parallel_size"],
                                              distributed_executor_backend=fields["executor"],
                                              decode_context_parallel_size=1, prefill_context_parallel_size=1),
        model_config=types.SimpleNamespace(enable_sleep_mode=fields["enable_sleep_mode"]),
        cache_config=types.SimpleNamespace(calculate_kv_scales=fields["calculate_kv_scales"], block_size=128,
                                           hash_block_size=None, prefix_match_unit=None, enable_prefix_caching=True),
    )  # fmt: skip
    groups = [KVCacheGroupSpec(["model.layers.0.self_attn.attn"], spec_of_layer or spec())]
    return vllm_config, KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups)


def connector(extra, role=KVConnectorRole.WORKER, **changed):
    vllm_config, caches = configuration(extra, **changed)
    return KVPoolConnector(vllm_config, role, caches)


@pytest.fixture
def good(tmp_path):
    return {"config": {"pool": {"buffers": "4MiB", "staging": "4MiB"}, "device": [{"kind": "memory", "size": "8MiB"}]}}


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    return caplog


def test_what_the_user_wrote_is_an_error(good, tmp_path, said):
    with pytest.raises(ValueError, match="'config' is missing"):
        connector({})
    with pytest.raises(ValueError, match="'confg' is unknown"):
        connector({"confg": "x"})
    with pytest.raises(ValueError, match='"kv_load_failure_policy": "recompute" of KVPoolConnector'):
        connector(good, policy="fail")
    with pytest.raises(ValueError, match="multiple of 128"):
        connector(good | {"block_tokens": 100})
    with pytest.raises(Exception, match="absent.toml"):
        connector({"config": str(tmp_path / "absent.toml")})
    lines = [record.getMessage() for record in said.records]
    for words in ("'confg' is unknown", '"kv_load_failure_policy"', "multiple of 128", "absent.toml"):
        assert sum(line.startswith("kvpool: ") and words in line for line in lines) == 1, words
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"somebody's" * 1000)
    with pytest.raises(Exception, match="foreign"):
        connector({"config": {"device": [{"kind": "file", "path": str(foreign), "size": "8MiB"}]}})


class OuterScheduler(Scheduler):
    def __init__(self, policy):
        outer = types.SimpleNamespace(kv_connector="MultiConnector", kv_load_failure_policy=policy)
        self.vllm_config = types.SimpleNamespace(kv_transfer_config=outer)

    def connector(self, extra):
        return connector(extra, role=KVConnectorRole.SCHEDULER)


def test_within_another_connector_its_policy_counts(good):
    OuterScheduler("recompute").connector(good).shutdown()
    with pytest.raises(ValueError, match='"kv_load_failure_policy": "recompute" of MultiConnector'):
        OuterScheduler("fail").connector(good)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"world_size": 2}, "several workers"),
        ({"data_parallel_size": 2}, "several workers"),
        ({"enable_sleep_mode": True}, "sleep mode"),
        ({"calculate_kv_scales": True}, "KV scales"),
        ({"role": KVConnectorRole.SCHEDULER}, "another process"),
        ({"executor": "mp"}, "another process"),
        ({"spec_of_layer": spec(non_causal=True)}, "depend on later tokens"),
        ({"spec_of_layer": MambaSpec(block_size=128, shapes=((2, 2),), dtypes=(torch.float32,))}, "MambaSpec"),
    ],
)
def test_an_engine_that_cannot_be_served_runs_without_the_pool(good, said, changed, words):
    made = connector(good, **changed)
    lines = [record.getMessage() for record in said.records if "runs without the pool" in record.getMessage()]
    assert len(lines) == 1 and words in lines[0], said.text
    request = types.SimpleNamespace(request_id="a", num_tokens=1000, block_hashes=[b"x" * 32] * 7)
    made.on_new_request(request)
    assert made.get_num_new_matched_tokens(request, 0) == (0, False)
    made.register_kv_caches({"model.layers.0.self_attn.attn": torch.zeros(8, 2, 128, 128)})
    metadata = pickle.loads(pickle.dumps(made.build_connector_meta(None)))  # vLLM sends it to workers
    made.bind_connector_metadata(metadata)
    made.start_load_kv(None)
    made.wait_for_save()
    assert made.get_finished(set()) == (None, None) and made.get_block_ids_with_load_errors() == set()
    assert made.request_finished_all_groups(request, ([],)) == (False, None)
    made.shutdown()
    made.shutdown()


def test_a_scheduler_whose_worker_is_elsewhere_leaves_files_alone(tmp_path, said):
    path = tmp_path / "pool"
    made = connector({"config": {"device": [{"kind": "file", "path": str(path), "size": "8MiB"}]}}, role=KVConnectorRole.SCHEDULER)
    assert "another process" in said.text and not path.exists()
    made.shutdown()


def test_hits_come_from_the_host_or_from_a_disk(good, tmp_path):
    sources = pytest.importorskip("vllm.v1.metrics.cache_hit_source").CacheHitSource
    disk = {"kind": "file", "path": str(tmp_path / "pool"), "size": "8MiB"}
    for devices, source in ((good["config"]["device"], sources.HOST), ([disk], sources.DISK)):
        made = connector({"config": good["config"] | {"device": devices}})
        assert made.get_external_cache_hit_sources(None, 512) == {source: 512}
        made.shutdown()


def test_a_vllm_that_does_not_fit_is_named():
    old = "import vllm.v1.core.kv_cache_utils as utils; del utils.resolve_kv_cache_block_sizes; import kvpool.vllm.connector"
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"does not fit vLLM {vllm.__version__}: it is made for" in done.stderr.splitlines()[-1]


def test_a_pool_without_room_for_a_block_is_an_error(good):
    small = {"config": good["config"] | {"pool": {"buffers": "4096", "staging": "4MiB"}}}
    vllm_config, caches = configuration(small)
    vllm_config.model_config = types.SimpleNamespace(
        enable_sleep_mode=False, model="m", revision=None, dtype=torch.float32, quantization=None, get_head_size=lambda: 64,
        hf_config=types.SimpleNamespace(to_dict=dict))  # fmt: skip
    vllm_config.cache_config.cache_dtype, vllm_config.cache_config.prefix_caching_hash_algo = "auto", "sha256"
    made = KVPoolConnector(vllm_config, KVConnectorRole.WORKER, caches)
    with pytest.raises(Exception, match=r"no room for one block.*pool\.buffers"):
        made.register_kv_caches({"model.layers.0.self_attn.attn": torch.zeros(8, 2, 128, 128)})
    made.shutdown()
