"""vLLM without a cache of its own. It has hashes for a connector nevertheless, and what comes again is the pool's."""

import engine as engines
import pytest
from common_tests import *  # noqa: F403


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(tmp_path_factory.mktemp("no_prefix_caching"), enable_prefix_caching=False)


def test_what_was_generated_comes_from_the_pool_too(engine):
    one = engines.prompt(300, 2)
    [cold] = engine.ask([one], tokens=240)
    engine.settle()
    longer = {"prompt_token_ids": one["prompt_token_ids"] + cold.tokens}
    [warm] = engine.ask([longer])
    assert warm.cached_tokens == 512
    engine.assert_nothing_is_left()
