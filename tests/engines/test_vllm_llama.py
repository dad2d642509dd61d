"""A model whose layers all see everything: one group of layers, cut by page when a load fails."""

import engine as engines
import pytest
from engine import expected_cached, prompt, spoil


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("tokens", [10, 255, 256, 257, 511, 513, 1000, 2049, 8000])
def test_prompts_come_back(engine, tokens):
    one = prompt(tokens, 1)
    [cold] = engine.ask([one])
    assert cold.cached_tokens == 0
    engine.forget()
    [warm] = engine.ask([one])
    assert warm.same(cold)
    assert warm.cached_tokens == expected_cached(tokens)
    engine.assert_nothing_is_left()


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


def test_requests_at_the_same_time_share_a_prefix(engine):
    prompts = [prompt(1200 + 100 * i, i, shared=1024) for i in range(4)]
    cold = [engine.ask([one])[0] for one in prompts]
    engine.forget()
    warm = engine.ask(prompts)
    assert all(w.same(c) for w, c in zip(warm, cold))
    assert [w.cached_tokens for w in warm] == [expected_cached(1200 + 100 * i) for i in range(4)]
    engine.assert_nothing_is_left()


def test_a_part_in_the_engine_s_own_cache_is_not_loaded(engine):
    one = prompt(2000, 5)
    [cold] = engine.ask([one])
    engine.forget()
    engine.ask([{"prompt_token_ids": one["prompt_token_ids"][:700]}])  # 640 of them in pages of 128
    loaded = engine.mover.stats()["loaded_blocks"]
    [warm] = engine.ask([one])
    assert warm.same(cold) and warm.cached_tokens == expected_cached(2000)
    assert engine.mover.stats()["loaded_blocks"] - loaded == 7 - 2


def test_bytes_that_changed_on_the_disk_are_computed(engine):
    one = prompt(3000, 6)
    [cold] = engine.ask([one])
    engine.forget()
    spoil(engine.pool_path)
    errors = engine.pool.stats()["checksum_errors"]
    [warm] = engine.ask([one])
    assert warm.same(cold)
    assert engine.pool.stats()["checksum_errors"] > errors
    engine.forget()
    [again] = engine.ask([one])  # stored once more
    assert again.same(cold) and again.cached_tokens == expected_cached(3000)
    engine.assert_nothing_is_left()


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
    assert wrong != cold.tokens
    engine.assert_nothing_is_left()


def test_an_abort_in_mid_load_leaves_nothing_behind(engine):
    one, other = prompt(6000, 8), prompt(300, 9)
    [cold] = engine.ask([one])
    engine.forget()
    for steps in range(4):
        name = engine.add(one)
        beside = engine.add(other, tokens=12)
        for _ in range(steps):
            engine.step()
        engine.abort(name)
        while engine.llm.llm_engine.has_unfinished_requests():
            engine.step()
        assert beside
        engine.assert_nothing_is_left()
    [warm] = engine.ask([one])
    assert warm.same(cold) and warm.cached_tokens == expected_cached(6000)


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
