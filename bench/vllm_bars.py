#!/usr/bin/env python3
"""What kvpool costs vLLM on the CPU, and what it saves: an engine without it, with it and no hits, and with hits.

Each run is a process of its own; the engines alternate. Run it with the Python of a virtual environment that has
vLLM and kvpool (make test-engines makes build/engines/vllm-0.32). Nothing else should run on the machine.

Prints for each pair the ratio of throughputs, and the medians; and how long the engine's thread was in the connector
without hits, and kvpool's own threads on a CPU, which tells more than ratios where other machines share the host.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
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
                user, kernel = (task / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
                made += (int(user) + int(kernel)) / os.sysconf("SC_CLK_TCK")
        return made


def run(options: argparse.Namespace) -> None:
    """In the child: one engine. Prints what it measured as JSON, in its last line."""
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
              gpu_memory_utilization=0.7, max_model_len=8192, max_num_batched_tokens=2048, **more)  # fmt: skip
    sampling = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, max_tokens=options.answer)

    def timed(batch: list[dict]) -> float:
        begin = time.monotonic()
        llm.generate(batch, sampling, use_tqdm=False)
        return time.monotonic() - begin

    timed(prompts(2, options.tokens, 1))
    cold = prompts(options.prompts, options.tokens, 2)
    cost = Cost() if options.engine == "kvpool" else None
    before = Cost.threads_s()
    out = {"cold_s": timed(cold), "threads_s": Cost.threads_s() - before}
    out["connector_s"] = cost.connector_s if cost else 0.0
    llm.reset_prefix_cache()
    out["again_s"] = timed(cold)
    print(json.dumps(out), flush=True)
    os._exit(0)


def measure(engine: str, options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=options.path, prefix="kvpool-vllm-") as folder:
        command = [sys.executable, __file__, "--child", folder, "--engine", engine, "--prompts", str(options.prompts),
                   "--tokens", str(options.tokens), "--answer", str(options.answer)]  # fmt: skip
        done = subprocess.run(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default=".", help="a folder on the disk to use")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2000, help="of each prompt")
    parser.add_argument("--answer", type=int, default=16, help="tokens generated for each")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--engine", default="alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options)
    ratios, gains, costs = [], [], []
    for pair in range(options.pairs):
        order = ("alone", "kvpool") if pair % 2 == 0 else ("kvpool", "alone")
        found = {engine: measure(engine, options) for engine in order}
        ratios.append(found["alone"]["cold_s"] / found["kvpool"]["cold_s"])
        costs.append([found["kvpool"][name] / found["kvpool"]["cold_s"] for name in ("connector_s", "threads_s")])
        gains.append(found["alone"]["again_s"] / found["kvpool"]["again_s"])
        print(f"pair {pair + 1}: alone {found['alone']['cold_s']:.2f} s, with kvpool and no hits {found['kvpool']['cold_s']:.2f} s: "
              f"{ratios[-1]:.3f}; again {found['alone']['again_s']:.2f} s and {found['kvpool']['again_s']:.2f} s", flush=True)  # fmt: skip
    print(f"throughput without hits, of the engine alone: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    connector, threads = (statistics.median(cost) for cost in zip(*costs))
    print(f"without hits the connector takes {connector:.3%} of the engine's thread, kvpool's threads {threads:.3%} of a core")
    print(f"prompts that come again: {statistics.median(gains):.2f} times as fast ({min(gains):.2f} to {max(gains):.2f})")


if __name__ == "__main__":
    main()
