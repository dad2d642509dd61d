import kvpool
import pytest
from demo_blocks import SEGMENT_BYTES


@pytest.fixture
def pool(tmp_path):
    config = {
        "pool": {"buffers": "1MiB", "staging": "4MiB"},
        "device": [
            {"kind": "memory", "size": "8MiB"},
            {"kind": "file", "path": str(tmp_path / "pool"), "size": "8MiB"},
        ],
    }
    with kvpool.Pool(config) as made:
        yield made


@pytest.fixture
def ns(pool):
    return pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
