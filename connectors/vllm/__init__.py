"""kvpool for vLLM: the connector, and how vLLM finds it.

`--kv-transfer-config '{"kv_connector": "KVPoolConnector", "kv_role": "kv_both",
"kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"config": "kvpool.toml"}}'`

Importing this module imports neither vLLM nor the pool; docs/vllm.md is the guide.
"""

_NAME = "KVPoolConnector"

__all__ = ["KVPoolConnector", "register"]


def register() -> None:
    """Makes the name KVPoolConnector known to vLLM (entry point of the group vllm.general_plugins)."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    if _NAME not in KVConnectorFactory._registry:
        KVConnectorFactory.register_connector(_NAME, "kvpool.vllm.connector", _NAME)


def __getattr__(name: str):
    if name == _NAME:
        from kvpool.vllm.connector import KVPoolConnector

        return KVPoolConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
