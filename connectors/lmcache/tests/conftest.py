import pytest
from adapter_client import Client, config_of


@pytest.fixture
def client(tmp_path):
    made = Client(config_of(tmp_path / "pool"))
    yield made
    made.adapter.close()


@pytest.fixture
def memory_client():
    made = Client({"pool": {"buffers": 0}, "device": [{"kind": "memory", "size": "64MiB"}]})
    yield made
    made.adapter.close()
