#!/usr/bin/env python3
"""What kvpool costs vLLM on the CPU, and what it saves: an engine without it, with it and no hits, and with hits.

Both engines are there all the time, each in a process of its own, and are asked in turn, some seconds each: the speed of
a machine that others share changes from minute to minute. Run it with the Python of a virtual environment that has
vLLM and kvpool (make test-engines makes build/engines/vllm-0.32). Nothing else should run on the machine.

Prints for each round the ratio of throughputs, until all is answered and stored; and how long the engine's thread was in
the connector without hits, and kvpool's own threads on a CPU. Exit status: 0 measured; 2 something could not run.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

from arguments import folder, number

ROOT = pathlib.Path(__file__).parents[1]
MODEL_TOKENS = 8192
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "PYTHONHASHSEED": "0",
}  # fmt: skip


def prompts(count: int, tokens: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    return [{"prompt_token_ids": [rng.randrange(3, 1000) for _ in range(tokens)]} for _ in range(count)]


class Cost:
    """Seconds of this process that are kvpool's."""

    def __init__(self):
        from kvpool.vllm.connector import KVPoolConnector

        self.connector_s = 0.0
        for name, function in list(vars(KVPoolConnector).items()):
            if callable(function) and not name.startswith("_"):
                setattr(KVPoolConnector, name, self._timed(function))

    def _timed(self, function):
        def timed(*args, **more):
            begin = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self.connector_s += time.perf_counter() - begin

        return timed

    @staticmethod
    def threads_s() -> float:
        made = 0.0
        for task in pathlib.Path("/proc/self/task").iterdir():
            if (task / "comm").read_text().startswith("kvpool"):
                made += time.clock_gettime(~int(task.name) << 3 | 6)  # the thread's clock; `stat` has steps of 10 ms
        return made


def run(options: argparse.Namespace) -> None:
    """In the child: one engine. Of each line of its input it asks prompts, and prints what that took as JSON."""
    sys.path.insert(0, str(ROOT / "tests/engines"))
    import tiny_models
    from vllm import LLM, SamplingParams

    folder = pathlib.Path(options.child)
    model = tiny_models.LLAMA | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8,
                                 "num_attention_heads": 16, "num_key_value_heads": 4}  # fmt: skip
    more = {}
    if options.engine == "kvpool":
        config = {
            "pool": {"buffers": "256MiB", "staging": "32MiB"},
            "device": [{"kind": "memory", "size": "256MiB"}, {"kind": "file", "path": str(folder / "pool"), "size": "4GiB"}],
        }
        more["kv_transfer_config"] = {
            "kv_connector": "KVPoolConnector", "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"config": config},
        }  # fmt: skip
    llm = LLM(model=tiny_models.write(model, folder / "model"), skip_tokenizer_init=True, enforce_eager=True, dtype="float32",
              gpu_memory_utilization=0.7, max_model_len=MODEL_TOKENS, max_num_batched_tokens=2048, **more)  # fmt: skip
    sampling = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, max_tokens=options.answer)

    mover = llm.llm_engine.engine_core.engine_core.scheduler.connector._scheduler._engine.mover if more else None

    def timed(batch: list[dict]) -> float:
        """Until all is answered, and stored."""
        begin = time.monotonic()
        llm.generate(batch, sampling, use_tqdm=False)
        while mover is not None and mover.busy():
            time.sleep(1e-3)
        return time.monotonic() - begin

    timed(prompts(2, options.tokens, 10**6))
    cost = Cost() if more else None
    print("ready", flush=True)
    for line in sys.stdin:
        kind, seed = line.split()
        if kind == "again":
            llm.reset_prefix_cache()
        connector, threads = cost.connector_s if cost else 0.0, Cost.threads_s()
        out = {"s": timed(prompts(options.prompts, options.tokens, int(seed)))}
        out["threads_s"] = Cost.threads_s() - threads
        out["connector_s"] = cost.connector_s - connector if cost else 0.0
        print(json.dumps(out), flush=True)
    os._exit(0)


class Failed(Exception):
    pass


class Engine:
    """One in a process of its own, which rests between questions."""

    def __init__(self, engine: str, own: str, options: argparse.Namespace):
        self._log = pathlib.Path(f"{own}.log")
        command = [sys.executable, __file__, "--child", own, "--engine", engine, "--prompts", str(options.prompts),
                   "--tokens", str(options.tokens), "--answer", str(options.answer)]  # fmt: skip
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=log, text=True)  # fmt: skip
        self._line_of("ready")

    def ask(self, kind: str, seed: int) -> dict[str, float]:
        with contextlib.suppress(BrokenPipeError):  # it has ended: _line_of() says so
            self._process.stdin.write(f"{kind} {seed}\n")
            self._process.stdin.flush()
        return json.loads(self._line_of("{"))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _line_of(self, begin: str) -> str:
        for line in self._process.stdout:
            if line.startswith(begin):
                return line
        said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(said) if "Error" in line), said[-1] if said else "it said nothing")
        raise Failed(f"an engine ended: {last.strip()[:300]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=folder, default=".", help="a folder on the disk to use")
    parser.add_argument("--rounds", type=number, default=20)
    parser.add_argument("--prompts", type=number, default=2)
    parser.add_argument("--tokens", type=number, default=2000, help="of each prompt")
    parser.add_argument("--answer", type=number, default=16, help="tokens generated for each")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--engine", default="alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options)
    missing = [module for module in ("vllm", "kvpool") if importlib.util.find_spec(module) is None]
    if missing:
        parser.error(f"{sys.executable} has no {' and no '.join(missing)} (make test-engines makes build/engines/vllm-0.32)")
    if options.tokens + options.answer > MODEL_TOKENS:
        parser.error(f"--tokens and --answer: {MODEL_TOKENS} at most together")
    try:
        measure(options)
    except (Failed, OSError) as failure:
        print(f"vllm_bars: {failure}", file=sys.stderr)
        return 2
    return 0


def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.path, prefix="kvpool-vllm-", ignore_cleanup_errors=True) as own:
        engines = {name: Engine(name, f"{own}/{name}", options) for name in ("alone", "kvpool")}
        rounds = []
        for number in range(options.rounds):
            order = list(engines) if number % 2 == 0 else list(engines)[::-1]
            rounds.append({name: engines[name].ask("cold", number) for name in order})
            alone, pooled = rounds[-1]["alone"]["s"], rounds[-1]["kvpool"]["s"]
            print(f"round {number + 1}: alone {alone:.2f} s, with kvpool and no hits {pooled:.2f} s: {alone / pooled:.3f}", flush=True)
        again = [{name: engine.ask("again", number)["s"] for name, engine in engines.items()} for number in range(min(3, options.rounds))]
        for engine in engines.values():
            engine.close()
    ratios = sorted(one["alone"]["s"] / one["kvpool"]["s"] for one in rounds)
    middle = ratios[len(ratios) // 4 : len(ratios) - len(ratios) // 4]
    total = sum(one["alone"]["s"] for one in rounds) / sum(one["kvpool"]["s"] for one in rounds)
    print(f"throughput without hits, of the engine alone: median {statistics.median(ratios):.3f}, half of the rounds "
          f"{middle[0]:.3f} to {middle[-1]:.3f}; of all rounds together {total:.3f}")  # fmt: skip
    pooled = [one["kvpool"] for one in rounds]
    connector, threads = (statistics.median(one[name] / one["s"] for one in pooled) for name in ("connector_s", "threads_s"))
    print(f"without hits the connector takes {connector:.3%} of the engine's thread, kvpool's threads {threads:.3%} of a core")
    print(f"prompts that come again: {statistics.median(one['alone'] / one['kvpool'] for one in again):.2f} times as fast")


if __name__ == "__main__":
    sys.exit(main())
