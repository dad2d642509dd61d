"""Loads that fail while they are under way: of a device that breaks, and past their deadline. What did not come is computed.

KVPOOL_FAULT_MODEL as in test_vllm_faults.py.
"""

import os

import engine as engines
import pytest
import tiny_models
from engine import ON_GPU, TOKEN_BYTES, expected_cached, failing, prompt

KIND = os.environ.get("KVPOOL_FAULT_MODEL")
TOKENS = 4000
# Of so many a load takes one second, what its requests read: of layers with a window the last block's alone, but on a CPU it is
# two requests of 8 blocks each.
OF_WINDOW_TOKENS = 256 if ON_GPU else 512
LOAD_TOKENS = {"sliding": OF_WINDOW_TOKENS, "windows": (TOKENS + OF_WINDOW_TOKENS) // 2}.get(KIND, TOKENS)
TIMEOUT_S = 1.5


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(
        tmp_path_factory.mktemp("failures"),
        model=tiny_models.named(KIND),
        memory="",
        device={"limit_read": f"{LOAD_TOKENS * TOKEN_BYTES // 1000}KB/s"},
        extra={"load_timeout_s": TIMEOUT_S},
    )


def step_into_load(engine, names):
    """Until all are being loaded, and bytes have come."""
    read = engine.pool.device_stats()[0]["read_bytes"]
    while sum(tracked.loading > 0 for tracked in engine.scheduler_side._tracked.values()) < len(names) or (
        engine.pool.device_stats()[0]["read_bytes"] == read
    ):
        engine.step()
        assert engine.llm.llm_engine.has_unfinished_requests(), "the load was over too soon"


def test_a_device_that_fails_in_mid_load(engine):
    one, other = prompt(TOKENS, 1), prompt(700, 2)
    cold = [engine.ask([each])[0] for each in (one, other)]
    engine.forget()
    mover, pool = engine.mover.stats(), engine.pool.stats()
    names = [engine.add(one)]
    step_into_load(engine, names)
    with failing(engine.pool_path):
        names.append(engine.add(other))
        answers = engine.finish(names)
    assert all(answer.same(expected) for answer, expected in zip(answers, cold))
    now = engine.pool.stats()
    assert now["short_ios"] + now["io_errors"] > pool["short_ios"] + pool["io_errors"]
    assert engine.mover.stats()["failed_loads"] > mover["failed_loads"]
    engine.assert_nothing_is_left()
    [again] = engine.ask([one])  # some of it has to be stored again
    engine.forget()
    [warm] = engine.ask([one])
    assert again.same(cold[0]) and warm.same(cold[0]) and warm.cached_tokens == expected_cached(TOKENS)
    engine.assert_nothing_is_left()


def test_loads_past_their_deadline(engine):
    prompts = [prompt(TOKENS, seed) for seed in (3, 4, 5)]
    cold = [engine.ask([one])[0] for one in prompts]
    engine.forget()
    mover, pool = engine.mover.stats(), engine.pool.stats()
    warm = engine.ask(prompts)  # together they take three times as long as one
    assert all(answer.same(expected) for answer, expected in zip(warm, cold))
    assert engine.mover.stats()["failed_loads"] > mover["failed_loads"]
    assert engine.pool.stats()["timed_out_requests"] > pool["timed_out_requests"]
    engine.assert_nothing_is_left()
    [alone] = engine.ask(prompts[:1])
    assert alone.same(cold[0]) and alone.cached_tokens == expected_cached(TOKENS)
    engine.assert_nothing_is_left()
