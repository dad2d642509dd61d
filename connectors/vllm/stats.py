"""What vLLM's log and its Prometheus endpoint show of the pool."""

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

# name in the data: (metric, what it counts)
COUNTERS = {
    "loaded_blocks": ("vllm:kvpool_loaded_blocks", "Blocks loaded from the pool into pages"),
    "loaded_bytes": ("vllm:kvpool_loaded_bytes", "Bytes of them"),
    "failed_loads": ("vllm:kvpool_failed_loads", "Loads that failed in part or whole, and were computed"),
    "stored_blocks": ("vllm:kvpool_stored_blocks", "Blocks stored in the pool, those that were there already among them"),
    "stored_bytes": ("vllm:kvpool_stored_bytes", "Bytes of them"),
    "failed_stores": ("vllm:kvpool_failed_stores", "Stores of which some blocks were not stored"),
    "wrong_copies": ("vllm:kvpool_wrong_copies", "Copies to a GPU whose bytes did not match their checksum"),
    "matched_tokens": ("vllm:kvpool_matched_tokens", "Tokens that were promised from the pool"),
    "declined_tokens": ("vllm:kvpool_declined_tokens", "Tokens that the pool has, but that are computed sooner"),
}


@dataclass
class KVPoolStats(KVConnectorStats):
    """Counts since the last report."""

    data: dict[str, Any] = field(default_factory=dict)

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name, count in other.data.items():
            self.data[name] = self.data.get(name, 0) + count
        return self

    def reduce(self) -> dict[str, int | float]:
        return dict(self.data)

    def is_empty(self) -> bool:
        return not any(self.data.values())

    def to_dict(self) -> dict[str, Any]:
        return self.data

    def __getitem__(self, field_name: str) -> Any:
        """MultiConnector of vLLM 0.26 reads it as what comes out of another process."""
        return getattr(self, field_name)


class Differences:
    """Counters that only grow, as what was added since the last time."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def take(self, counters: dict[str, int]) -> KVPoolStats | None:
        data = {name: count - self._before.get(name, 0) for name, count in counters.items() if name in COUNTERS}
        self._before.update(counters)
        stats = KVPoolStats(data={name: count for name, count in data.items() if count})
        return None if stats.is_empty() else stats


class KVPoolPrometheus(KVConnectorPromMetrics):
    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters = {}
        for name, (metric, what) in COUNTERS.items():
            counter = self._counter_cls(name=metric, documentation=what, labelnames=labelnames)
            self._counters[name] = {engine: counter.labels(*values) for engine, values in per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, count in transfer_stats_data.items():
            self._counters[name][engine_idx].inc(count)
