"""A model with sliding windows: two groups of layers, of which a failed load cannot be cut by page."""

import engine as engines
import pytest
import tiny_models
from common_tests import *  # noqa: F403
from engine import prompt


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(tmp_path_factory.mktemp("windows"), model=tiny_models.GEMMA)


def test_all_of_a_long_prompt_is_stored_though_windows_move_on(engine):
    """In steps of 1024 tokens; vLLM hands the pages that a window has left out again at once."""
    stored = engine.mover.stats()["stored_blocks"]
    engine.ask([prompt(5000, 2)])
    engine.settle()
    assert engine.mover.stats()["stored_blocks"] - stored == 5000 // 256
    assert engine.mover.stats()["failed_stores"] == 0


def test_a_shorter_prefix_has_its_own_window(engine):
    one = prompt(4000, 3)
    engine.ask([one])
    for tokens in (600, 2000, 3500):
        shorter = {"prompt_token_ids": one["prompt_token_ids"][:tokens] + [5] * 50}
        engine.forget()
        [warm] = engine.ask([shorter])
        assert warm.cached_tokens == tokens // 256 * 256
        engine.forget()
        assert engine.llm.reset_prefix_cache(reset_connector=True)
        [cold] = engine.ask([shorter])
        assert cold.cached_tokens == 0 and warm.same(cold)
        engine.settle()  # the next finds it in the pool: it could not store what its window has left behind
        engine.ask([one])
