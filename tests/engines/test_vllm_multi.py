"""kvpool within vLLM's MultiConnector, behind another connector that is asked first."""

import engine as engines
import pytest
from common_tests import *  # noqa: F403
from engine import expected_cached, prompt
from second_connector import SecondConnector


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    second = {"kv_connector": "SecondConnector", "kv_role": "kv_both", "kv_connector_module_path": "second_connector"}
    return engines.Engine(tmp_path_factory.mktemp("multi"), beside=[second])


def test_what_another_loads_is_not_loaded_and_is_stored(engine):
    one = prompt(2000, 2)
    SecondConnector.keeps = True
    [cold] = engine.ask([one])
    SecondConnector.keeps = False
    engine.assert_nothing_is_left()
    for kept_by_kvpool in (True, False):
        if not kept_by_kvpool:
            assert engine.llm.reset_prefix_cache(reset_connector=True)
        before = engine.mover.stats()
        [warm] = engine.ask([one])
        engine.settle()
        after = engine.mover.stats()
        assert warm.same(cold) and warm.cached_tokens == 1920  # whole pages, not whole blocks
        assert after["loaded_blocks"] == before["loaded_blocks"]
        assert after["stored_blocks"] - before["stored_blocks"] == (0 if kept_by_kvpool else 7)
        engine.assert_nothing_is_left()
    SecondConnector.known.clear()
    [warm] = engine.ask([one])  # now what kvpool has taken from those pages
    assert warm.same(cold) and warm.cached_tokens == expected_cached(2000)
    engine.assert_nothing_is_left()


def test_numbers_are_reported(engine):
    """Of both sides; in one process vLLM drops those of steps that have no output."""
    values = {metric.name: getattr(metric, "value", None) for metric in engine.llm.get_metrics()}
    assert 0 < values["vllm:kvpool_loaded_blocks"] <= engine.mover.stats()["loaded_blocks"]
    assert 0 < values["vllm:kvpool_matched_tokens"] <= engine.scheduler_side.matched_tokens
