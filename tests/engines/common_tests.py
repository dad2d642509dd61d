"""What holds for every model and setting. A test file imports these beside its own `engine`."""

import pytest
from engine import expected_cached, prompt, spoil


@pytest.mark.parametrize("tokens", [10, 255, 256, 257, 511, 513, 1000, 2049, 8000])
def test_prompts_come_back(engine, tokens):
    one = prompt(tokens, 1)
    [cold] = engine.ask([one])
    assert cold.cached_tokens == 0
    engine.forget()
    [warm] = engine.ask([one])
    assert warm.same(cold)
    assert warm.same_pages_tokens >= warm.cached_tokens == expected_cached(tokens)
    engine.assert_nothing_is_left()


def test_answers_come_back(engine):
    one = prompt(300, 4)
    [first] = engine.ask([one], tokens=220)
    engine.forget()
    [second] = engine.ask([{"prompt_token_ids": one["prompt_token_ids"] + first.tokens}])
    assert second.same_pages_tokens >= second.cached_tokens == expected_cached(520) == 512
    engine.assert_nothing_is_left()


def test_the_speed_of_prefill_is_learnt(engine):
    engine.ask([prompt(700, 11)])
    assert 0 < engine.scheduler_side._model.seconds(0, 700) < 60


def test_requests_at_the_same_time_share_a_prefix(engine):
    prompts = [prompt(1200 + 100 * i, i, shared=1024) for i in range(4)]
    cold = []
    for one in prompts:
        cold += engine.ask([one])
        engine.settle()  # the next finds the prefix in the pool: it could not store what its window has left behind
    engine.forget()
    warm = engine.ask(prompts)
    assert all(w.same(c) for w, c in zip(warm, cold))
    assert [w.cached_tokens for w in warm] == [expected_cached(1200 + 100 * i) for i in range(4)]
    assert all(w.same_pages_tokens >= w.cached_tokens for w in warm)
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
    [again] = engine.ask([one])  # stored once more
    assert again.same(cold) and again.cached_tokens == expected_cached(3000)
    engine.assert_nothing_is_left()


def test_an_abort_in_mid_load_leaves_nothing_behind(engine):
    one, other = prompt(6000, 8), prompt(300, 9)
    [cold] = engine.ask([one])
    engine.forget()
    for steps in range(4):
        name = engine.add(one)
        engine.add(other, tokens=12)
        for _ in range(steps):
            engine.step()
        engine.abort(name)
        engine.assert_nothing_is_left()
    [warm] = engine.ask([one])
    assert warm.same(cold) and warm.cached_tokens == expected_cached(6000)
