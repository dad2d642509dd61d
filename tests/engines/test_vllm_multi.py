"""kvpool within vLLM's MultiConnector, behind another connector that is asked first."""

import engine as engines
import pytest
from engine import expected_cached, prompt, spoil
from second_connector import SecondConnector


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    second = {"kv_connector": "SecondConnector", "kv_role": "kv_both", "kv_connector_module_path": "second_connector"}
    return engines.Engine(tmp_path_factory.mktemp("multi"), beside=[second])


@pytest.mark.parametrize("tokens", [10, 257, 2049, 6000])
def test_prompts_come_back(engine, tokens):
    one = prompt(tokens, 1)
    [cold] = engine.ask([one])
    assert cold.cached_tokens == 0
    engine.forget()
    [warm] = engine.ask([one])
    assert warm.same(cold)
    assert warm.cached_tokens == expected_cached(tokens)
    engine.assert_nothing_is_left()


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


def test_bytes_that_changed_on_the_disk_are_computed(engine):
    one = prompt(3000, 3)
    [cold] = engine.ask([one])
    engine.forget()
    spoil(engine.pool_path)
    [warm] = engine.ask([one])
    assert warm.same(cold)
    assert engine.pool.stats()["checksum_errors"] > 0
    engine.assert_nothing_is_left()


def test_numbers_are_reported(engine):
    """Of both sides; in one process vLLM drops those of steps that have no output."""
    values = {metric.name: getattr(metric, "value", None) for metric in engine.llm.get_metrics()}
    assert 0 < values["vllm:kvpool_loaded_blocks"] <= engine.mover.stats()["loaded_blocks"]
    assert 0 < values["vllm:kvpool_matched_tokens"] <= engine.scheduler_side.matched_tokens
