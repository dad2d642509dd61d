"""Settings: what a user writes into kv_connector_extra_config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Checked; docs/vllm.md has the same list for users.

    config               path of a kvpool.toml, or its content as a dict; required
    namespace            a salt: engines with different ones share nothing, such as the weights' version
    block_tokens         tokens of a pool block; 0: 256, or the next multiple of the engine's pages
    staging_bytes        pool memory through which pages pass; 0: all of the pool's `buffers`
    sync_load_budget_ms  what loads may take inside of a step, on a CPU, of bytes that memory holds already; 0: never
    load_timeout_s       after which a load is given up and computed; 0: the pool's own deadline
    match_wait_ms        what one step may wait for the pool to say what it has
    recompute            whether what is computed sooner than loaded is not loaded
    """

    config: str | Mapping[str, Any]
    namespace: str = ""
    block_tokens: int = 0
    staging_bytes: int = 0
    sync_load_budget_ms: float = 2.0
    load_timeout_s: float = 0.0
    match_wait_ms: float = 1.0
    recompute: bool = True

    @classmethod
    def read(cls, extra: Mapping[str, Any]) -> "Settings":
        """Raises ValueError with one line that names the key."""
        if not isinstance(extra, Mapping):
            raise ValueError("kv_connector_extra_config is missing; it names kvpool's 'config'")
        known = {field: kind for field, kind in cls.__annotations__.items()}
        for name in extra:
            if name not in known:
                raise ValueError(f"kv_connector_extra_config: {name!r} is unknown; the keys are {', '.join(known)}")
        if "config" not in extra:
            raise ValueError("kv_connector_extra_config: 'config' is missing: the path of a kvpool.toml, or its content")
        for name, value in extra.items():
            _check(name, value)
        return cls(**extra)


_KINDS = {
    (str, Mapping): "the path of a kvpool.toml, or its content",
    (str,): "a text",
    (int,): "a whole number, 0 or more",
    (int, float): "a number, 0 or more",
    (bool,): "true or false",
}


def _check(name: str, value: Any) -> None:
    kinds = {"config": (str, Mapping), "namespace": (str,), "block_tokens": (int,), "staging_bytes": (int,),
             "recompute": (bool,)}.get(name, (int, float))
    good = isinstance(value, kinds) and (isinstance(value, bool) == (kinds == (bool,)))
    if good and isinstance(value, (int, float)):
        good = 0 <= value < 2**32 if name == "block_tokens" else 0 <= value < 2**63
    if not good:
        raise ValueError(f"kv_connector_extra_config: {name!r} cannot be {value!r}, it is {_KINDS[kinds]}")
