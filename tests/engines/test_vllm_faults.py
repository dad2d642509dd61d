"""Random prompts on a machine that is short of everything, with faults: bytes that changed, a device that fails, loads past
their deadline, aborts, preemptions. Never another token, no page that is wrong, and nothing is left.

KVPOOL_FAULT_PROMPTS says how many prompts (default 60); KVPOOL_FAULT_SEED which; KVPOOL_FAULT_MODEL the model: full
attention, or "windows" in some layers, or "sliding" in all.
"""

import os
import random

import engine as engines
import pytest
import tiny_models
from engine import failing, page_tokens, prompt, spoil

PROMPTS = int(os.environ.get("KVPOOL_FAULT_PROMPTS", "60"))
SEED = int(os.environ.get("KVPOOL_FAULT_SEED", "1"))
MODEL = tiny_models.named(os.environ.get("KVPOOL_FAULT_MODEL"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(
        tmp_path_factory.mktemp("faults"),
        model=MODEL,
        memory="8MiB",
        file="48MiB",  # less than all documents take: blocks are evicted
        buffers="32MiB",
        device={"limit_read": "200MB/s"},
        extra={"load_timeout_s": 0.15},
        # few pages: requests are preempted
        num_gpu_blocks_override=(80 if MODEL is tiny_models.GEMMA else 40) * 128 // page_tokens(MODEL),
        max_model_len=4096,
        max_num_seqs=4,
    )


def documents(rng):
    """Prompts that continue others, so that they hit."""
    while True:
        document, length = rng.randrange(12), rng.choice([200, 300, 700, 1100, 1500, 2300])
        yield prompt(length + rng.randrange(1, 200), rng.randrange(3), shared=0) if rng.random() < 0.3 else {
            "prompt_token_ids": prompt(3000, document)["prompt_token_ids"][:length]
        }


def test_tokens_are_those_of_an_engine_without_the_pool(engine):
    rng = random.Random(SEED)
    source = documents(rng)
    given = []  # prompts and answers
    asked = aborted = failed = 0
    while asked < PROMPTS:
        batch = [next(source) for _ in range(rng.randrange(1, 5))]
        fault = rng.random()
        if fault < 0.1:
            engine.settle()
            spoil(engine.pool_path)
        if rng.random() < 0.5:
            engine.llm.reset_prefix_cache()
        tokens = 150 if rng.random() < 0.1 else 4
        names = {engine.add(one, tokens): one for one in batch}
        if fault > 0.8:
            victim = rng.choice(list(names))
            for _ in range(rng.randrange(3)):
                engine.step()
            engine.abort(victim)
            del names[victim]
            aborted += 1
        if 0.1 < fault < 0.2:
            for _ in range(rng.randrange(3)):
                engine.step()
            with failing(engine.pool_path):
                answers = engine.finish(list(names))
            failed += 1
        else:
            answers = engine.finish(list(names))
        given += zip(names.values(), answers)
        asked += len(batch)
    stats = engine.mover.stats() | engine.pool.stats() | {"preemptions": engine.preemptions}
    print(f"{asked} prompts, {aborted} aborted, {failed} with a device that fails: {stats}")
    engine.assert_nothing_is_left()
    wrong = 0
    for one, answer in given:  # what the engine says without any help
        assert engine.llm.reset_prefix_cache(reset_connector=True)
        [cold] = engine.ask([one], tokens=len(answer.tokens))
        assert cold.cached_tokens == 0
        wrong += not answer.same(cold)
        engine.settle()
    assert wrong == 0
    engine.assert_nothing_is_left()
    assert stats["loaded_blocks"] > 0 and stats["stored_blocks"] > 0
    assert PROMPTS < 60 or (aborted > 0 and failed > 0 and stats["failed_loads"] > 0)
