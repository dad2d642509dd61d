"""A model with sliding windows in all layers: one group, whose pages begin behind what the window has left."""

import engine as engines
import pytest
import tiny_models
from common_tests import *  # noqa: F403


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(tmp_path_factory.mktemp("sliding"), model=tiny_models.MISTRAL)
