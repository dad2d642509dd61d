"""Random prompts on a machine that is short of everything, with faults: never another token, and nothing is left.

KVPOOL_FAULT_PROMPTS says how many prompts (default 60); KVPOOL_FAULT_SEED which; KVPOOL_FAULT_MODEL the model: full
attention, or "windows" in some layers, or "sliding" in all.
"""

import os
import random

import engine as engines
import pytest
import tiny_models
from engine import prompt, spoil

PROMPTS = int(os.environ.get("KVPOOL_FAULT_PROMPTS", "60"))
SEED = int(os.environ.get("KVPOOL_FAULT_SEED", "1"))
MODEL = {"windows": tiny_models.GEMMA, "sliding": tiny_models.MISTRAL}.get(os.environ.get("KVPOOL_FAULT_MODEL"), tiny_models.LLAMA)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return engines.Engine(
        tmp_path_factory.mktemp("faults"),
        model=MODEL,
        memory="8MiB",
        file="48MiB",  # less than all documents take: blocks are evicted
        device={"limit_read": "200MB/s"},
        extra={"load_timeout_s": 0.15},
        num_gpu_blocks_override=80 if MODEL is tiny_models.GEMMA else 40,  # few pages: requests are preempted
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
    expected = {}
    asked = wrong = aborted = 0
    while asked < PROMPTS:
        batch = [next(source) for _ in range(rng.randrange(1, 5))]
        fault = rng.random()
        if fault < 0.1:
            engine.settle()
            spoil(engine.pool_path)
        if rng.random() < 0.5:
            engine.llm.reset_prefix_cache()
        names = {}
        for one in batch:
            names[engine.add(one, tokens=4)] = tuple(one["prompt_token_ids"])
        if fault > 0.8:
            victim = rng.choice(list(names))
            for _ in range(rng.randrange(3)):
                engine.step()
            engine.abort(victim)
            del names[victim]
            aborted += 1
        answers = {}
        while engine.llm.llm_engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished and output.request_id in names:
                    answers[names[output.request_id]] = list(output.outputs[0].token_ids)
        for tokens, answer in answers.items():
            expected.setdefault(tokens, []).append(answer)
        asked += len(batch)
    stats = engine.mover.stats() | engine.pool.stats()
    print(f"{asked} prompts, {aborted} aborted: {stats}")
    engine.assert_nothing_is_left()
    # What the engine says without any help.
    assert engine.llm.reset_prefix_cache(reset_connector=True)
    for tokens, answers in expected.items():
        engine.forget()
        assert engine.llm.reset_prefix_cache(reset_connector=True)
        [cold] = engine.ask([{"prompt_token_ids": list(tokens)}], tokens=4)
        assert cold.cached_tokens == 0
        wrong += sum(answer != cold.tokens for answer in answers)
    assert wrong == 0
    assert stats["loaded_blocks"] > 0 and stats["stored_blocks"] > 0
