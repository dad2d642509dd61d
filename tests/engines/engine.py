"""A vLLM engine in this process for the tests, with kvpool below it, and what they ask of it."""

import contextlib
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
import torch  # noqa: E402
from page_watch import PageWatch  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

BLOCK_TOKENS = 256
ON_GPU = torch.cuda.is_available()
# As people run it: on a GPU in bfloat16 with CUDA graphs. There another batch is rounded otherwise, logits of 16 to steps of an
# eighth, and where two tokens are about as likely, either may be the answer. What is exact there are the pages (page_watch.py).
NUMBER_BYTES = 2 if ON_GPU else 4
LOGPROB_DIFFERENCE_MAX = 0.5 if ON_GPU else 1e-3
ALTERNATIVES = 5 if ON_GPU else 1
TOKEN_BYTES = 4 * 2 * 2 * 64 * NUMBER_BYTES  # of the models of tiny_models.py


def page_tokens(model: dict) -> int:
    """As vLLM chooses."""
    return 16 if ON_GPU or model is tiny_models.MISTRAL else 128


@dataclasses.dataclass
class Answer:
    tokens: list[int]
    logprobs: list[dict[int, float]]  # of each token and of those that were about as likely
    cached_tokens: int
    same_pages_tokens: int  # in pages that are to the last bit what they were before

    def first(self, tokens: int) -> "Answer":
        return dataclasses.replace(self, tokens=self.tokens[:tokens], logprobs=self.logprobs[:tokens])

    def same(self, other: "Answer") -> bool:
        if len(self.tokens) != len(other.tokens):
            return False
        for mine, theirs, of_mine, of_theirs in zip(self.tokens, other.tokens, self.logprobs, other.logprobs):
            if not ON_GPU and mine != theirs:
                return False
            for token in (mine, theirs):
                if not abs(of_mine.get(token, -99) - of_theirs.get(token, 99)) <= LOGPROB_DIFFERENCE_MAX:
                    return False
            if mine != theirs:  # a tie; what follows it depends on it
                return abs(of_mine[mine] - of_mine[theirs]) <= LOGPROB_DIFFERENCE_MAX
        return True


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

    def __init__(self, folder: pathlib.Path, model: dict = tiny_models.LLAMA, memory: str = f"{8 * NUMBER_BYTES}MiB", file: str = "512MiB",
                 buffers: str = "128MiB", device: dict | None = None, extra: dict | None = None, beside: list[dict] | None = None,
                 **llm):  # fmt: skip
        """buffers: here all that a test stores has room until a slow disk takes it. beside: other connectors, which are asked first."""
        self.pool_path = folder / "pool"
        config = {
            # However slow the disk is today, some of every block lies on it.
            "pool": {"buffers": buffers, "staging": "16MiB", "placement": "equal"},
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
            # With graphs vLLM 0.26 alone answers otherwise each time to a prompt that does not fill such a window.
            "enforce_eager": not ON_GPU or model is tiny_models.MISTRAL,
            "dtype": "bfloat16" if ON_GPU else "float32",
            "gpu_memory_utilization": 0.1 if ON_GPU else 0.5,
            "max_model_len": 8704,
            "max_num_batched_tokens": 1024,
            "disable_log_stats": False,
            "kv_transfer_config": transfer,
        }
        if ON_GPU:
            arguments["kv_cache_memory_bytes"] = 1 << 30  # else what another engine frees meanwhile is an error
        self.llm = LLM(**(arguments | llm))
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.connector = self.core.scheduler.connector
        if beside:
            self.connector = self.connector._connectors[-1]
        self._names = 0
        self.preemptions = 0
        self.pages = PageWatch(self.core.scheduler, self.core.vllm_config.compilation_config.static_forward_context)
        self._watch_preemptions()

    def _watch_preemptions(self) -> None:
        preempt = self.core.scheduler._preempt_request

        def watched(*arguments, **more):
            self.preemptions += 1
            return preempt(*arguments, **more)

        self.core.scheduler._preempt_request = watched

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
        return [self.answer(output) for output in self.llm.generate(prompts, self.sampling(tokens), use_tqdm=False)]

    def answer(self, output) -> Answer:
        """Of a request that has ended."""
        [only] = output.outputs
        logprobs = [{token: one.logprob for token, one in step.items()} for step in only.logprobs]
        return Answer(list(only.token_ids), logprobs, output.num_cached_tokens, self.pages.same_tokens(output.request_id))

    @staticmethod
    def sampling(tokens: int):
        return SamplingParams(temperature=0, ignore_eos=True, detokenize=False, max_tokens=tokens, logprobs=ALTERNATIVES)

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
        self.llm.llm_engine.add_request(name, one, self.sampling(tokens))
        return name

    def abort(self, name: str) -> None:
        self.llm.llm_engine.abort_request([name])

    def step(self) -> list:
        return self.llm.llm_engine.step()

    def finish(self, names: list[str]) -> list[Answer]:
        """Of requests that were added; the others have to end, too."""
        answers = {}
        while self.llm.llm_engine.has_unfinished_requests():
            answers |= {output.request_id: self.answer(output) for output in self.step() if output.finished}
        return [answers[name] for name in names]

    def assert_nothing_is_left(self) -> None:
        """No request, page or pin is held by anybody, and no page was another than it should be."""
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
        assert not self.pages.wrong, self.pages.wrong


@contextlib.contextmanager
def failing(path: pathlib.Path):
    """Meanwhile nothing that the pool has written to its file so far can be read; nor afterwards."""
    size = path.stat().st_size
    os.truncate(path, 1 << 20)
    try:
        yield
    finally:
        os.truncate(path, size)


def spoil(path: pathlib.Path) -> None:
    """Changes the sign of a number in every 4 KiB of what the pool has written to its file."""
    with open(path, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for at in range((1 << 20) + 103, size, 4096):
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 0x80]), at)
        os.fsync(file.fileno())
