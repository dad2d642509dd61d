import kvpool
import pytest
from demo_blocks import SEGMENT_BYTES, config_of


@pytest.fixture
def pool(tmp_path):
    with kvpool.Pool(config_of(tmp_path / "pool")) as made:
        yield made


@pytest.fixture
def ns(pool):
    return pool.namespace(kvpool.Geometry("demo", 16, SEGMENT_BYTES))
