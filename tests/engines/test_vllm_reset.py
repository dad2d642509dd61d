"""The pool is emptied while loads are under way, from a device that is so slow that they last."""

import time

import engine as engines
import pytest
import tiny_models
from engine import NUMBER_BYTES, ON_GPU, expected_cached, prompt
from vllm import LLM


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(tmp_path_factory.mktemp("reset"), memory="", device={"limit_read": f"{NUMBER_BYTES * 500}KB/s"})


def test_a_second_engine_is_refused_and_leaves_the_first_alone(engine, tmp_path):
    """vLLM would give it the first one's connector, also without one of its own."""
    one = prompt(1000, 20)
    [cold] = engine.ask([one])
    with pytest.raises(RuntimeError, match="one connector a process"):
        LLM(model=tiny_models.write(tiny_models.LLAMA, tmp_path / "second", seed=5), skip_tokenizer_init=True, enforce_eager=True,
            dtype="float32", max_model_len=1024, gpu_memory_utilization=0.1 if ON_GPU else 0.5)  # fmt: skip
    engine.forget()
    [warm] = engine.ask([one])
    assert warm.same(cold) and warm.cached_tokens == expected_cached(1000)
    assert warm.same_pages_tokens >= warm.cached_tokens
    engine.assert_nothing_is_left()


def loading(engine):
    return sum(tracked.loading > 0 for tracked in engine.scheduler_side._tracked.values())


@pytest.mark.parametrize("steps", [None, 0, 1, 5])
def test_a_reset_in_mid_load(engine, steps):
    """So many steps after the loads have been planned; None: before the first step."""
    prompts = [prompt(tokens, 10 if steps is None else steps) for tokens in (3000, 1500, 700)]
    cold = [engine.ask([one])[0] for one in prompts[:2]]
    engine.forget()
    loaded = engine.mover.stats()["loaded_blocks"]
    # The last one is not in the pool: it computes and stores beside.
    names = [engine.add(prompts[0]), engine.add(prompts[1]), engine.add(prompts[2], tokens=60)]
    if steps is not None:
        while loading(engine) < 2:
            engine.step()
        for _ in range(steps):
            engine.step()
        assert loading(engine) == 2 and engine.mover.stats()["loaded_blocks"] - loaded < 10, "the loads were over too soon"
    began = time.monotonic()
    emptied = engine.llm.reset_prefix_cache(reset_connector=True)
    assert time.monotonic() - began < 5
    assert emptied == (steps is None)  # vLLM's own cache is not while pages are in use, and it says so
    answers = engine.finish(names)
    assert all(answer.same(one) for answer, one in zip(answers, cold))
    engine.assert_nothing_is_left()
    assert engine.pool.stats()["ready_blocks"] == 0
    for one, answer in zip(prompts, answers):
        [again] = engine.ask([one], tokens=len(answer.tokens))
        assert again.cached_tokens == 0 and again.same(answer)
    engine.forget()
    [warm] = engine.ask(prompts[1:2])
    assert warm.same(cold[1]) and warm.cached_tokens == expected_cached(1500)
    assert engine.llm.reset_prefix_cache(reset_connector=True)
    engine.assert_nothing_is_left()
