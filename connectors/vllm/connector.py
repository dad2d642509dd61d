"""KVPoolConnector: kvpool as a KV connector of vLLM (KVConnectorBase_V1). docs/vllm.md is the guide.

Where the pool cannot serve an engine (several processes, layers of an unknown kind), that is said in one line and
the engine runs on without it. A configuration that cannot be is an error at start.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any

import vllm

import kvpool

try:
    from vllm.distributed.kv_transfer.kv_connector.v1 import base
    from vllm.distributed.kv_transfer.kv_connector.v1.base import (
        KVConnectorBase_V1,
        KVConnectorMetadata,
        KVConnectorRole,
        KVConnectorWorkerMetadata,
        SupportsHMA,
    )
    from vllm.forward_context import get_forward_context, is_forward_context_available
    from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import RequestStatus
except ImportError as missing:
    raise ImportError(f"kvpool {kvpool.__version__} does not fit vLLM {vllm.__version__}: it is made for 0.26 to 0.33 ({missing})") from None

from kvpool.vllm import kv_events, layout, registry
from kvpool.vllm.announced import Announced
from kvpool.vllm.scheduler import SchedulerSide
from kvpool.vllm.settings import Settings
from kvpool.vllm.stats import Differences, KVPoolPrometheus, KVPoolStats
from kvpool.vllm.work import Step
from kvpool.vllm.worker import WorkerSide, open_engine

log = logging.getLogger("vllm.kvpool")

_TRIED = ("0.26.", "0.32.")
# Of tokens that are dropped from a session; seen in 0.26, and not in 0.32.
_HASHES_STAY = not vllm.__version__.startswith(("0.32.", "0.33."))

# Pages that a device may still write, though nobody waits for it any more.
_left_behind: list[Any] = []

# Absent from vLLM 0.26, which lets a connector name the pages of a failed load, of one group, but not the request.
_TransferResults = getattr(base, "KVConnectorTransferResults", None)


def _calling_scheduler() -> Scheduler | None:
    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), Scheduler):
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def _recompute(scheduler: Scheduler, request_id: str) -> None:
    """What later versions do with a request whose load failed, for 0.26: its blocks are freed, and it is matched again."""
    request = scheduler.requests.get(request_id)
    if request is not None and request.status == RequestStatus.WAITING_FOR_REMOTE_KVS:
        request.num_computed_tokens = 0
        scheduler.failed_recving_kv_req_ids.add(request_id)


class Metadata(KVConnectorMetadata):
    def __init__(self, step: Step | None = None):
        """None where the pool is not used: vLLM may have to send it to other processes."""
        self.step = step


class WorkerMetadata(KVConnectorWorkerMetadata):
    """Goes with a step's output: which one that was."""

    def __init__(self, step: int):
        self.step = step

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        return self  # there is one worker


class KVPoolConnector(KVConnectorBase_V1, SupportsHMA):
    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None):
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        self._engine_id = transfer.engine_id
        scheduler = _calling_scheduler() if role == KVConnectorRole.SCHEDULER else None
        self._user: registry.PoolUser | None = None
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._vllm_scheduler = scheduler if _TransferResults is None else None
        self._among_others = scheduler is not None and scheduler.vllm_config.kv_transfer_config.kv_connector != transfer.kv_connector
        self._differences = Differences()
        self._caches_config = kv_cache_config
        try:
            self._settings = Settings.read(transfer.kv_connector_extra_config)
            # Within MultiConnector it is the outer one's that counts, and this one is told its own.
            for one in (transfer, scheduler.vllm_config.kv_transfer_config if scheduler is not None else transfer):
                if one.kv_load_failure_policy != "recompute":
                    raise ValueError(f'set "kv_load_failure_policy": "recompute" of {one.kv_connector}; '
                                     "a load that fails would end its request")  # fmt: skip
            self._check_deployment(vllm_config)
            _, hash_tokens = resolve_kv_cache_block_sizes(kv_cache_config, vllm_config)
            self._layout = layout.plan(kv_cache_config.kv_cache_groups, hash_tokens, self._settings.block_tokens)
            if role == KVConnectorRole.SCHEDULER:
                self._scheduler = self._open_scheduler()
            else:
                self._user = registry.PoolUser(self._settings.config)
        except layout.Unsupported as reason:
            self._give_up(reason)
        except (kvpool.KVPoolError, ValueError) as error:
            log.error("kvpool: %s", error)  # vLLM's own traces bury it
            self.shutdown()
            raise

    @staticmethod
    def _check_deployment(vllm_config: Any) -> None:
        parallel = vllm_config.parallel_config
        if parallel.world_size > 1 or parallel.data_parallel_size > 1:
            raise layout.Unsupported("engines of several workers are not served yet")
        if parallel.distributed_executor_backend in ("mp", "ray"):
            raise layout.Unsupported("its worker runs in another process (set VLLM_ENABLE_V1_MULTIPROCESSING=0 on a CPU)")
        if vllm_config.model_config.enable_sleep_mode:
            raise layout.Unsupported("sleep mode moves the pages away")
        cache = vllm_config.cache_config
        if getattr(cache, "calculate_kv_scales", False):
            raise layout.Unsupported("KV scales that are computed while running are not part of a page")

    def _open_scheduler(self) -> SchedulerSide:
        engine = registry.find(self._engine_id)
        if engine is None:
            raise layout.Unsupported(
                "its worker runs in another process, or was refused (set VLLM_ENABLE_V1_MULTIPROCESSING=0 on a CPU)"
            )
        self._user = registry.PoolUser(self._settings.config)
        engine.among_others = self._among_others
        engine.requests_may_fail = _TransferResults is not None or self._vllm_scheduler is not None
        must_verify_first = not self._layout.fails_by_page and not engine.requests_may_fail
        role = self._vllm_config.kv_transfer_config.kv_role
        return SchedulerSide(engine, self._settings, self._user.pool, must_verify_first, self._open_announced(),
                             loads=role != "kv_producer", stores=role != "kv_consumer", hashes_stay=_HASHES_STAY)

    def _open_announced(self) -> Announced | None:
        wanted = self._vllm_config.kv_events_config
        if wanted is None or not wanted.enable_kv_cache_events:
            return None
        medium = kv_events.MEDIUM_MEMORY if self._is_memory() else kv_events.MEDIUM_DISK
        return Announced(kv_events.KVEvents(self._layout, self._caches_config.kv_cache_groups, medium), self._user.pool.stats)

    def _is_memory(self) -> bool:
        """Whether the pool has its blocks in memory alone."""
        devices = self._user.pool.device_stats()
        return all(device["planned_share"] == 0 or device["in_memory"] for device in devices)

    def _give_up(self, reason: Exception) -> None:
        log.warning("kvpool: the engine runs without the pool: %s", reason)
        self.shutdown()

    # ---- worker ----

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._user is None:
            return
        if self._worker is not None:  # vLLM gives this one to whatever engine comes next, also to one without a connector
            raise RuntimeError("kvpool: vLLM keeps one connector a process, and it serves another engine: shut that one down "
                               "(llm.llm_engine.engine_core.shutdown()), or use a process for each")  # fmt: skip
        try:
            engine = open_engine(self._vllm_config, self._layout, kv_caches, self._caches_config.num_blocks,
                                 self._settings, self._user.pool)
        except layout.Unsupported as reason:
            self._give_up(reason)
            return
        except BaseException as error:
            if isinstance(error, kvpool.KVPoolError):
                log.error("kvpool: %s", error)
            self.shutdown()  # else the pool stays open, and its files in use
            raise
        self._kept = kv_caches  # alive as long as the mover has their addresses
        self._worker = WorkerSide(engine, getattr(self._caches_config, "needs_kv_cache_zeroing", False))
        registry.publish(self._engine_id, engine)
        if not vllm.__version__.startswith(_TRIED):
            log.warning("kvpool %s was not tried with vLLM %s: it was with %s", kvpool.__version__, vllm.__version__, ", ".join(_TRIED))
        log.info("kvpool %s for vLLM %s: blocks of %d tokens, %d bytes", kvpool.__version__, vllm.__version__,
                 self._layout.block_tokens, engine.namespace.block_bytes)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None:
            self._worker.begin_step(self._step(), get_forward_context() if is_forward_context_available() else None)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._worker is not None:
            self._worker.start_loads(self._step())

    def wait_for_layer_load(self, layer_name: str) -> None:
        if self._worker is not None:
            self._worker.before_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Pages are stored when all layers have filled them."""

    def wait_for_save(self) -> None:
        if self._worker is not None:
            self._worker.start_stores(self._step())

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, self._worker.take_finished() if self._worker is not None else None

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        _, received = self.get_finished(finished_req_ids)
        failed = self._worker.take_failed_requests() if self._worker is not None else set()
        return _TransferResults(finished_sending=set(), finished_recving=received or set(), failed_recving=failed)

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return WorkerMetadata(self._step().number) if self._worker is not None else None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_failed_pages() if self._worker is not None else set()

    def _step(self) -> Step:
        return self._get_connector_metadata().step or Step()

    # ---- scheduler ----

    def on_new_request(self, request: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.get_num_new_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            wanted = self._scheduler.wants_pages(num_external_tokens)  # which vLLM lists one by one
            self._scheduler.update_state_after_alloc(request, blocks.get_block_ids() if wanted else (), num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return Metadata(None if self._scheduler is None else self._scheduler.build_step(scheduler_output))

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is None:
            return
        if connector_output.kv_connector_worker_meta is not None:
            self._scheduler.step_ended(connector_output.kv_connector_worker_meta.step)
        if self._vllm_scheduler is not None:
            engine = registry.find(self._engine_id)
            for request_id in engine.failed_requests & set(connector_output.finished_recving or ()):
                engine.failed_requests.discard(request_id)
                _recompute(self._vllm_scheduler, request_id)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(self, request: Any, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        if self._scheduler is not None:
            self._scheduler.request_finished(request.request_id)
        return False, None

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[Any, int]:
        from vllm.v1.metrics.cache_hit_source import CacheHitSource

        in_memory = self._user is not None and self._is_memory()
        return {CacheHitSource.HOST if in_memory else CacheHitSource.DISK: num_external_tokens}

    def take_events(self) -> Iterable[Any]:
        return self._scheduler.take_events() if self._scheduler is not None else ()

    def has_pending_push_work(self) -> bool:
        """Whether vLLM has to go on with steps, though it has no requests."""
        return self._scheduler is not None and self._scheduler.has_work()

    def reset_cache(self) -> bool | None:
        if self._scheduler is not None:
            self._scheduler.reset()
        return None

    # ---- both ----

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache: what is not stored is computed again."""
        return False

    @classmethod
    def supports_sleep_mode(cls, kv_transfer_config: Any) -> bool:
        return False

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """Of a step that is one graph no layer is named: it waits for whole loads."""
        return False

    def get_kv_connector_stats(self) -> KVPoolStats | None:
        if self._worker is not None:
            return self._differences.take(self._worker.counters())
        if self._scheduler is not None:
            return self._differences.take(self._scheduler.counters())
        return None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVPoolStats:
        return KVPoolStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: list[str],
                           per_engine_labelvalues: dict[int, list[object]]) -> KVPoolPrometheus:
        return KVPoolPrometheus(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        scheduler, worker, user = self._scheduler, self._worker, self._user
        self._scheduler = self._worker = self._user = None
        if worker is not None:
            registry.forget(self._engine_id)
        for side in (scheduler, worker, user):  # a device that hangs keeps none of the others
            if side is None:
                continue
            try:
                side.close()
            except kvpool.KVPoolError as error:
                log.warning("kvpool: %s", error)
                if side is worker:
                    _left_behind.append(self._kept)
