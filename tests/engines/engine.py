"""A vLLM engine in this process for the tests, with kvpool below it, and what they ask of it."""

import dataclasses
import os
import pathlib
import random
import time

os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    HF_HUB_OFFLINE="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
    PYTHONHASHSEED="0",
)

import tiny_models  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

BLOCK_TOKENS = 256
LOGPROB_DIFFERENCE_MAX = 1e-3


@dataclasses.dataclass
class Answer:
    tokens: list[int]
    logprobs: list[float]
    cached_tokens: int

    def same(self, other: "Answer") -> bool:
        near = all(abs(a - b) <= LOGPROB_DIFFERENCE_MAX for a, b in zip(self.logprobs, other.logprobs))
        return self.tokens == other.tokens and near


def prompt(tokens: int, seed: int, shared: int = 0) -> dict:
    """So many tokens; the first `shared` are the same for all seeds."""
    common, own = random.Random(0), random.Random(f"{seed} {tokens}")
    return {"prompt_token_ids": [common.randrange(3, 1000) for _ in range(shared)]
            + [own.randrange(3, 1000) for _ in range(tokens - shared)]}  # fmt: skip


def expected_cached(tokens: int) -> int:
    """Whole blocks, and at least one token is left to compute."""
    return (tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS


class Engine:
    """One a process: vLLM keeps one connector in it."""

    def __init__(self, folder: pathlib.Path, model: dict = tiny_models.LLAMA, memory: str = "32MiB", file: str = "512MiB",
                 device: dict | None = None, extra: dict | None = None, beside: list[dict] | None = None, **llm):  # fmt: skip
        """beside: other connectors, which are asked first."""
        self.pool_path = folder / "pool"
        config = {
            "pool": {"buffers": "32MiB", "staging": "16MiB"},
            "device": [{"kind": "file", "path": str(self.pool_path), "size": file, **(device or {})}],
        }
        if memory:
            config["device"].insert(0, {"kind": "memory", "size": memory})
        transfer = {
            "kv_connector": "KVPoolConnector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"config": config, "recompute": False, **(extra or {})},
        }
        if beside:
            transfer = {
                "kv_connector": "MultiConnector",
                "kv_role": "kv_both",
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": {"connectors": [*beside, transfer]},
            }
        arguments = {
            "model": tiny_models.write(model, folder / "model"),
            "skip_tokenizer_init": True,
            "enforce_eager": True,
            "dtype": "float32",
            "gpu_memory_utilization": 0.5,
            "max_model_len": 8704,
            "max_num_batched_tokens": 1024,
            "disable_log_stats": False,
            "kv_transfer_config": transfer,
        }
        self.llm = LLM(**(arguments | llm))
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.connector = self.core.scheduler.connector
        if beside:
            self.connector = self.connector._connectors[-1]
        self._names = 0

    # The two sides of the connector.
    @property
    def scheduler_side(self):
        return self.connector._scheduler

    @property
    def mover(self):
        return self.scheduler_side._engine.mover

    @property
    def pool(self):
        return self.connector._user.pool

    def ask(self, prompts: list[dict], tokens: int = 6) -> list[Answer]:
        sampling = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, max_tokens=tokens, logprobs=1)
        answers = []
        for output in self.llm.generate(prompts, sampling, use_tqdm=False):
            only = output.outputs[0]
            logprobs = [step[token].logprob for step, token in zip(only.logprobs, only.token_ids)]
            answers.append(Answer(list(only.token_ids), logprobs, output.num_cached_tokens))
        return answers

    def settle(self) -> None:
        """Until everything that was to be stored is, and no page is read any more."""
        deadline = time.monotonic() + 60
        while self.mover.stats()["jobs_under_way"] > 0:
            assert time.monotonic() < deadline, "the pool does not come to rest"
            time.sleep(0.01)

    def forget(self) -> None:
        """Empties vLLM's own cache, so that whatever is cached comes from the pool."""
        self.settle()
        assert self.llm.reset_prefix_cache(), "pages are still in use"

    def add(self, one: dict, tokens: int = 6) -> str:
        self._names += 1
        name = f"request-{self._names}"
        sampling = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, max_tokens=tokens, logprobs=1)
        self.llm.llm_engine.add_request(name, one, sampling)
        return name

    def abort(self, name: str) -> None:
        self.llm.llm_engine.abort_request([name])

    def step(self) -> list:
        return self.llm.llm_engine.step()

    def assert_nothing_is_left(self) -> None:
        """No request, page or pin is held by anybody."""
        deadline = time.monotonic() + 30
        while self.core.scheduler.requests and time.monotonic() < deadline:
            self.step()
        assert not self.core.scheduler.requests, self.core.scheduler.requests
        self.forget()
        blocks = self.core.scheduler.kv_cache_manager.block_pool
        free = blocks.get_num_free_blocks()
        assert free == blocks.num_gpu_blocks - 1, f"{free} of {blocks.num_gpu_blocks} pages are free"  # one is no page
        left = ("pins_held", "tickets_under_way")
        while any(self.pool.stats()[name] for name in left) and time.monotonic() < deadline:
            self.scheduler_side._consumer.poll()
            time.sleep(0.01)
        assert all(self.pool.stats()[name] == 0 for name in left), self.pool.stats()
        assert not self.scheduler_side._tracked, self.scheduler_side._tracked


def spoil(path: pathlib.Path) -> None:
    """Changes a byte in every 4 KiB of what the pool has written to its file."""
    with open(path, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for at in range(1 << 20, size, 4096):
            byte = os.pread(file.fileno(), 1, at + 100)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at + 100)
        os.fsync(file.fileno())
