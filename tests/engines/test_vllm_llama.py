"""A model whose layers all see everything: one group of layers, cut by page when a load fails."""

import engine as engines
import pytest
from common_tests import *  # noqa: F403
from engine import expected_cached, prompt


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(tmp_path_factory.mktemp("llama"))


def test_what_was_generated_is_stored_too(engine):
    one = prompt(300, 2)
    [cold] = engine.ask([one], tokens=240)
    engine.forget()
    longer = {"prompt_token_ids": one["prompt_token_ids"] + cold.tokens}
    [warm] = engine.ask([longer])
    assert warm.cached_tokens == 512
    engine.forget()
    engine.llm.reset_prefix_cache(reset_connector=True)
    [again] = engine.ask([longer])
    assert again.cached_tokens == 0 and again.same(warm)


def test_a_part_in_the_engine_s_own_cache_is_not_loaded(engine):
    one = prompt(2000, 5)
    [cold] = engine.ask([one])
    engine.forget()
    engine.ask([{"prompt_token_ids": one["prompt_token_ids"][:700]}])  # 640 of them in pages of 128
    loaded = engine.mover.stats()["loaded_blocks"]
    [warm] = engine.ask([one])
    assert warm.same(cold) and warm.cached_tokens == expected_cached(2000)
    assert engine.mover.stats()["loaded_blocks"] - loaded == 7 - 2


def test_bytes_that_are_wrong_would_be_seen(engine):
    """The tests above compare what depends on the loaded bytes: if they were others, tokens would be too."""
    one = prompt(1500, 7)
    [cold] = engine.ask([one])
    engine.forget()
    layers = engine.core.model_executor.driver_worker.worker.model_runner.kv_caches
    name = engine.add(one)
    wrong = None
    while wrong is None:
        for output in engine.step():
            if output.request_id == name and output.finished:
                wrong = list(output.outputs[0].token_ids)
        for layer in layers:
            layer.mul_(1.5)
    assert wrong != cold.tokens and engine.pages.wrong
    engine.pages.wrong.clear()
    engine.assert_nothing_is_left()


def test_the_pool_can_be_emptied(engine):
    one = prompt(1000, 10)
    engine.ask([one])
    engine.forget()
    assert engine.llm.reset_prefix_cache(reset_connector=True)
    [cold] = engine.ask([one])
    assert cold.cached_tokens == 0


def test_numbers_are_reported(engine):
    stats = engine.connector.build_kv_connector_stats({"loaded_blocks": 2})
    assert stats.aggregate(engine.connector.build_kv_connector_stats({"loaded_blocks": 3})).reduce() == {"loaded_blocks": 5}
    metrics = {metric.name for metric in engine.llm.get_metrics()}
    assert any(name.startswith("vllm:kvpool_loaded_blocks") for name in metrics), sorted(metrics)
