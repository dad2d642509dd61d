"""vLLM takes pages back from requests that run, for want of pages or because it is told to. They come again, from the pool as
far as they are there.

KVPOOL_FAULT_MODEL as in test_vllm_faults.py.
"""

import os

import engine as engines
import pytest
import tiny_models
from engine import ON_GPU, page_tokens, prompt

MODEL = tiny_models.named(os.environ.get("KVPOOL_FAULT_MODEL"))
ANSWER_TOKENS = 140
PAGES_TOKENS = 3008  # two of the requests, but not to their end


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    of_groups = 2 if MODEL is tiny_models.GEMMA else 1
    return engines.Engine(
        tmp_path_factory.mktemp("preemption"),
        model=MODEL,
        num_gpu_blocks_override=PAGES_TOKENS // page_tokens(MODEL) * of_groups,
        max_model_len=2048,
    )


@pytest.fixture(scope="module")
def prompts():
    return [prompt(1390 + 10 * seed, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def cold(engine, prompts):
    answers = []
    for one in prompts:
        answers += engine.ask([one], ANSWER_TOKENS)
        engine.forget()
        assert engine.llm.reset_prefix_cache(reset_connector=True)
    assert engine.preemptions == 0
    return answers


def are_the_same(answers, expected):
    return all(answer.same(one) for answer, one in zip(answers, expected))


@pytest.mark.skipif(MODEL is not tiny_models.LLAMA, reason="behind a window pages are freed as others are taken: no want of them")
def test_requests_that_want_more_pages_than_there_are(engine, prompts, cold):
    for stored in (False, True):
        loaded, preempted = engine.mover.stats()["loaded_blocks"], engine.preemptions
        answers = engine.finish([engine.add(one, ANSWER_TOKENS) for one in prompts])
        assert are_the_same(answers, cold)
        assert engine.preemptions > preempted
        assert engine.mover.stats()["loaded_blocks"] > loaded or not stored
        engine.assert_nothing_is_left()


def test_an_abort_among_requests_that_want_more_pages_than_there_are(engine, prompts, cold):
    for steps in (5, ANSWER_TOKENS // 2):
        names = [engine.add(one, ANSWER_TOKENS) for one in prompts]
        for _ in range(steps):
            engine.step()
        engine.abort(names[0])
        assert are_the_same(engine.finish(names[1:]), cold[1:])
        engine.assert_nothing_is_left()


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_all_that_run_lose_their_pages(engine, prompts, cold, steps):
    """While they store, or answer. vLLM asks for them again before it says that they lost their pages, so what the pool has of
    them by then may be computed again."""
    for stored in (False, True):
        if not stored:
            assert engine.llm.reset_prefix_cache(reset_connector=True)
        loaded, preempted = engine.mover.stats()["loaded_blocks"], engine.preemptions
        names = [engine.add(one, 30) for one in prompts[:2]]
        while len(engine.core.scheduler.running) < 2:
            engine.settle()  # a load that comes late finds no pages beside a request that has begun to answer
            engine.step()
            assert engine.llm.llm_engine.has_unfinished_requests(), "they never ran side by side"
        for _ in range(steps):
            engine.step()
        try:
            engine.llm.reset_prefix_cache(reset_running_requests=True)
        except RuntimeError:  # on a GPU a step is under way, whose pages vLLM keeps till it has ended, and says so
            assert ON_GPU
        assert are_the_same(engine.finish(names), [one.first(30) for one in cold])
        assert engine.preemptions > preempted
        assert engine.mover.stats()["loaded_blocks"] > loaded or not stored
        engine.assert_nothing_is_left()
