"""Lets LMCache's own tests of native connectors run against kvpool.

    python -m pytest -p contract FOLDER/test_native_connector_l2_adapter.py

with this folder in PYTHONPATH: the connector that those tests make up for themselves becomes an Adapter over a pool.
What they derive from it before (RecordingNativeConnector, whose tests are of LMCache's own padding) stays as it is.
"""

from kvpool.lmcache import Adapter

MADE_UP = "MockNativeConnector"
OPENED_MIN = 30  # LMCache 0.5.6 makes up 33


class Connector(Adapter):
    opened = 0

    def __init__(self):
        Connector.opened += 1
        super().__init__({"pool": {"buffers": 0}, "device": [{"kind": "memory", "size": "16MiB"}]})


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        assert hasattr(module, MADE_UP), f"{module.__name__} has no {MADE_UP}"
        setattr(module, MADE_UP, Connector)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{Connector.opened} pools were opened")
    assert Connector.opened >= OPENED_MIN
