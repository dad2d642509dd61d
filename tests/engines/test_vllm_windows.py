"""A model with sliding windows: two groups of layers, of which a failed load cannot be cut by page."""

import engine as engines
import pytest
import tiny_models
from engine import expected_cached, prompt, spoil


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(tmp_path_factory.mktemp("windows"), model=tiny_models.GEMMA)


@pytest.mark.parametrize("tokens", [10, 256, 257, 511, 513, 1000, 2049, 8000])
def test_prompts_come_back(engine, tokens):
    one = prompt(tokens, 1)
    [cold] = engine.ask([one])
    engine.forget()
    [warm] = engine.ask([one])
    assert warm.same(cold)
    assert warm.cached_tokens == expected_cached(tokens)
    engine.assert_nothing_is_left()


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
        engine.ask([one])


def test_requests_at_the_same_time_share_a_prefix(engine):
    prompts = [prompt(1200 + 100 * i, i, shared=1024) for i in range(4)]
    cold = [engine.ask([one])[0] for one in prompts]
    engine.forget()
    warm = engine.ask(prompts)
    assert all(w.same(c) for w, c in zip(warm, cold))
    engine.assert_nothing_is_left()


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
    [again] = engine.ask([one])
    assert again.same(cold)
    engine.assert_nothing_is_left()


def test_an_abort_in_mid_load_leaves_nothing_behind(engine):
    one = prompt(6000, 8)
    engine.ask([one])
    engine.forget()
    for steps in range(4):
        name = engine.add(one)
        for _ in range(steps):
            engine.step()
        engine.abort(name)
        engine.assert_nothing_is_left()
