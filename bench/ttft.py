#!/usr/bin/env python3
"""Time to first token with vLLM: computing a context, and having it back from vLLM's own tiers, LMCache's, or kvpool's.

    bench/ttft.py --models FOLDER --path FOLDER [--model llama-3.1-8b,...] [--tokens 16384,32768,65536,130944]
                  [--systems none,vllm-memory,kvpool-memory,...] [--repeats 5] [--json FILE]

FOLDER of --models has a folder with a config.json for each model; weights are random. Each system is a process of its
own, since vLLM keeps one connector in it; --turns 2 runs them all again in the other order. In a process each length is
asked in turn, so that a slow minute meets all of them: a prompt that is new ("cold"), the same prompt at once, while it is
still being stored ("soon"), from the GPU's own cache when it has been ("gpu"), then again with that cache emptied
("again"). --mixed adds a new prompt of the longest length beside four requests that are answered ("mixed", until all have
ended). What
the link gives is measured first, by copies of 1 GiB of pinned memory, and told to kvpool.

Of random weights one token says little about the context, so the pages themselves are compared, those that were computed
with those that came back: a sum of each page in each layer.

Prints the medians; --json has every figure. Exit status: 0 measured; 1 a page or a token differed; 2 a system could not
run, which is named.
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

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONHASHSEED": "0",
}  # fmt: skip
GIB = 1 << 30
SETTLE_S = 120


def kvpool(devices: list[dict], link: float, **pool) -> dict:
    if link > 0:
        pool["link"] = f"{link:.0f}GB/s"
    return {
        "kv_connector": "KVPoolConnector", "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"config": {"pool": {"buffers": "4GiB", "staging": "1GiB", **pool}, "device": devices}},
    }  # fmt: skip


def offloading(**extra) -> dict:
    return {"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
            "kv_connector_extra_config": {"block_size": 256, **extra}}  # fmt: skip


def systems(folder: pathlib.Path, memory_gib: int, disk_gib: int, link: float) -> dict[str, dict | None]:
    """name -> kv_transfer_config. link: to the GPU, in GB/s; 0: none."""
    memory = {"kind": "memory", "size": f"{memory_gib}GiB"}
    quarter = {"kind": "memory", "size": f"{memory_gib // 4}GiB"}
    capped = quarter | {"limit_read": "13GB/s"}  # as an SSD
    disk = {"kind": "file", "path": str(folder / "pool"), "size": f"{disk_gib}GiB"}
    tier = {"type": "fs", "root_dir": str(folder / "tier")}
    return {
        "none": None,
        "vllm-memory": offloading(cpu_bytes_to_use=memory_gib * GIB),
        "vllm-disk": offloading(cpu_bytes_to_use=4 * GIB, spec_name="TieringOffloadingSpec", secondary_tiers=[tier]),
        "lmcache-memory": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"},
        "kvpool-memory": kvpool([memory], link),
        "kvpool-both": kvpool([memory, disk], link),
        "kvpool-disk": kvpool([disk], link),
        "kvpool-spill": kvpool([memory | {"size": "9GiB"}, disk], link),  # 128K tokens of LLaMA-3.1-8B do not fit into memory
        "kvpool-capped": kvpool([quarter, quarter, capped, capped], link, placement="equal"),  # half of it on the two
    }


class Pages:
    """Sums of the pages that a request had when it ended."""

    def __init__(self, engine_core):
        self._manager = engine_core.scheduler.kv_cache_manager
        config = engine_core.scheduler.kv_cache_config
        layers = engine_core.vllm_config.compilation_config.static_forward_context
        self._groups = [(group.kv_cache_spec.block_size, [layers[name].kv_cache for name in group.layer_names])
                        for group in config.kv_cache_groups]  # fmt: skip
        self._freed: tuple[list[int], ...] = ()
        free = self._manager.free

        def watched(request):
            self._freed = tuple(list(ids) for ids in self._manager.get_block_ids(request.request_id))
            free(request)

        self._manager.free = watched

    def last(self) -> tuple[list[int], ...]:
        """The pages of the request that ended last, of each group."""
        return self._freed

    def sums(self, pages: tuple[list[int], ...]) -> list[dict]:
        """Of each group, page of the context -> [layers]."""
        import torch

        made = []
        for (_, layers), ids in zip(self._groups, pages):
            there = [(index, page) for index, page in enumerate(ids) if page != 0]
            sums = []
            for layer in layers:
                layer = layer[0] if isinstance(layer, list) else layer
                pages = torch.tensor([page for _, page in there], device=layer.device)
                sums.append(torch.cat([self._sum(layer[some]) for some in pages.split(1024)]).tolist())
            made.append({index: of_layers for (index, _), of_layers in zip(there, zip(*sums))})
        return made

    @staticmethod
    def _sum(pages):
        import torch

        words = pages.contiguous().view(torch.int32).flatten(1)
        weights = torch.arange(1, 2 * words.shape[1], 2, dtype=torch.int32, device=words.device) * 0x9E3779B
        return (words * weights).sum(dim=1, dtype=torch.int64)

    def wrong(self, first: list[dict], second: list[dict], tokens: int) -> tuple[int, int]:
        """In how many pages they differ, of how many that both have, of so many leading tokens."""
        equal = [
            sums == others[index]
            for (page_tokens, _), one, others in zip(self._groups, first, second)
            for index, sums in one.items()
            if index in others and (index + 1) * page_tokens <= tokens
        ]
        return equal.count(False), len(equal)


class Child:
    """One engine."""

    def __init__(self, options: argparse.Namespace):
        from vllm import LLM, SamplingParams

        folder = pathlib.Path(options.child)
        self.link_gbps = link_gbps()
        transfer = systems(folder, options.memory_gib, options.disk_gib, self.link_gbps)[options.system]
        more = {"kv_transfer_config": transfer} if transfer else {}
        self.llm = LLM(model=str(options.models / options.model), load_format="dummy", skip_tokenizer_init=True,
                       dtype=options.dtype, max_model_len=max(3000, *options.tokens) + 16,
                       max_num_batched_tokens=options.batched_tokens, gpu_memory_utilization=options.gpu_memory,
                       enforce_eager=options.eager, disable_log_stats=True, **more)  # fmt: skip
        self.sampling = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, max_tokens=1)
        vocabulary = self.llm.llm_engine.model_config.get_vocab_size()
        self.tokens = range(100, min(vocabulary, 100_000) - 1)
        self.pages = Pages(self.llm.llm_engine.engine_core.engine_core)

    def ask(self, prompt: list[int]) -> tuple[float, int, int]:
        """Seconds, the token, and how many tokens were not computed."""
        begin = time.perf_counter()
        [output] = self.llm.generate([{"prompt_token_ids": prompt}], self.sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return seconds, output.outputs[0].token_ids[0], output.num_cached_tokens

    def settle(self) -> None:
        """Until what was to be stored is."""
        connector = getattr(self.llm.llm_engine.engine_core.engine_core.scheduler, "connector", None)
        mover = getattr(getattr(getattr(connector, "_scheduler", None), "_engine", None), "mover", None)
        deadline = time.monotonic() + SETTLE_S
        if mover is None:
            time.sleep(3 if connector is not None else 0)
            self.ask([7] * 20)  # a step, in which others take note of what has ended
            return
        while mover.stats()["jobs_under_way"] > 0 and time.monotonic() < deadline:
            time.sleep(0.05)

    def prompt(self, length: int, seed: str) -> list[int]:
        own = random.Random(seed)
        return [own.choice(self.tokens) for _ in range(length)]

    def mixed(self, length: int, seed: int) -> float:
        """Seconds until a new prompt and four others, with 16 tokens each, are answered."""
        long = {"prompt_token_ids": self.prompt(length, f"mixed {seed}")}
        others = [{"prompt_token_ids": self.prompt(64, f"other {seed} {i}")} for i in range(4)]
        sampling = self.sampling.clone()
        sampling.max_tokens = 16
        begin = time.perf_counter()
        self.llm.generate([*others, long], sampling, use_tqdm=False)
        return time.perf_counter() - begin

    def measure(self, length: int, seed: int) -> dict:
        prompt = self.prompt(length, f"{length} {seed}")
        figures = {"tokens": length}
        for name in ("cold", "soon", "gpu", "again"):
            if name in ("gpu", "again"):
                self.settle()
            if name == "again":
                self.llm.reset_prefix_cache()
            figures[name + "_s"], token, figures[name + "_cached"] = self.ask(prompt)
            figures["same"] = token == figures.setdefault("token", token) and figures.get("same", True)
            if name == "cold":  # looked at when "soon" is over
                first = self.pages.last()
                continue
            if name == "soon":
                computed = self.pages.sums(first)
            sums = self.pages.sums(self.pages.last())
            figures[name + "_wrong_pages"], figures[name + "_pages"] = self.pages.wrong(computed, sums, figures[name + "_cached"])
        return figures


def link_gbps() -> float:
    """Of one copy to the GPU, from memory that is pinned; 0 where there is none."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    source, target = torch.empty(GIB, dtype=torch.uint8, pin_memory=True), torch.empty(GIB, dtype=torch.uint8, device="cuda")
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, GIB / (time.perf_counter() - begin) / 1e9)
    del target
    torch.cuda.empty_cache()
    return best


def run_child(options: argparse.Namespace) -> None:
    child = Child(options)
    child.ask([5] * 3000)  # the first step of an engine takes longer
    figures, mixed = [], []
    for seed in range(options.repeats):
        figures += [child.measure(length, seed) for length in options.tokens]
        if options.mixed:
            child.settle()
            mixed.append(child.mixed(max(options.tokens), seed))
    print(json.dumps({"link_gbps": child.link_gbps, "mixed_s": mixed, "figures": figures}), flush=True)
    os._exit(0)


def run_system(system: str, model: str, options: argparse.Namespace) -> dict | None:
    with tempfile.TemporaryDirectory(dir=options.path, prefix="ttft-") as folder:
        command = [sys.executable, __file__, "--child", folder, "--system", system, "--model", model, "--models", str(options.models),
                   "--tokens", ",".join(map(str, options.tokens)), "--repeats", str(options.repeats), "--dtype", options.dtype,
                   "--memory-gib", str(options.memory_gib), "--disk-gib", str(options.disk_gib),
                   "--gpu-memory", str(options.gpu_memory), "--batched-tokens", str(options.batched_tokens)]  # fmt: skip
        command += [f"--{name}" for name in ("eager", "mixed") if getattr(options, name)]
        lmcache = {"LMCACHE_LOCAL_CPU": "True", "LMCACHE_MAX_LOCAL_CPU_SIZE": str(options.memory_gib), "LMCACHE_CHUNK_SIZE": "256"}
        log = options.path / f"ttft-{model}-{system}.log"
        with open(log, "w", encoding="utf-8") as errors:
            try:
                done = subprocess.run(command, env=os.environ | ENVIRONMENT | lmcache, stdout=subprocess.PIPE, stderr=errors,
                                      check=False, timeout=options.timeout_s)  # fmt: skip
            except subprocess.TimeoutExpired:
                print(f"{model}, {system}: not done after {options.timeout_s:.0f} s, see {log}", flush=True)
                return None
        if done.returncode != 0:
            print(f"{model}, {system}: status {done.returncode}, see {log}", flush=True)
            return None
        return json.loads(done.stdout.splitlines()[-1])


def median(figures: list[dict], length: int, name: str) -> float:
    return statistics.median(figure[name] for figure in figures if figure["tokens"] == length)


def wrong_pages(figure: dict) -> int:
    return sum(figure[f"{name}_wrong_pages"] for name in ("soon", "gpu", "again"))


def show(model: str, system: str, found: dict, options: argparse.Namespace) -> None:
    for length in options.tokens:
        cold, soon, gpu, again = (median(found["figures"], length, f"{name}_s") for name in ("cold", "soon", "gpu", "again"))
        cached = median(found["figures"], length, "again_cached")
        wrong = sum(wrong_pages(figure) for figure in found["figures"] if figure["tokens"] == length)
        print(f"{model:14} {system:15} {length:7} tokens: cold {cold:7.3f} s, GPU's own {soon:6.3f} s at once and {gpu:6.3f} s, again {again:7.3f} s "
              f"({cached:.0f} not computed){f', {wrong} PAGES DIFFER' if wrong else ''}", flush=True)  # fmt: skip
    if found["mixed_s"]:
        print(f"{model:14} {system:15} {max(options.tokens):7} tokens, new, beside others: {statistics.median(found['mixed_s']):.3f} s", flush=True)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--path", type=pathlib.Path, default=pathlib.Path())
    parser.add_argument("--model", default="llama-3.1-8b")
    parser.add_argument("--tokens", type=numbers, default=[16384, 32768, 65536, 130944])
    parser.add_argument("--systems", default="none,vllm-memory,lmcache-memory,kvpool-memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--memory-gib", type=int, default=40, help="of host memory, for each system")
    parser.add_argument("--disk-gib", type=int, default=30)
    parser.add_argument("--gpu-memory", type=float, default=0.9)
    parser.add_argument("--batched-tokens", type=int, default=16384)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--mixed", action="store_true", help="measure a new prompt beside others, too")
    parser.add_argument("--timeout-s", type=float, default=900)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--system", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options)
    results, missing = [], False
    for turn in range(options.turns):
        order = options.systems.split(",")[:: -1 if turn % 2 else 1]
        for model in options.model.split(","):
            for system in order:
                found = run_system(system, model, options)
                missing = missing or found is None
                if found is None:
                    continue
                show(model, system, found, options)
                results.append({"model": model, "system": system, "turn": turn, **found})
                if options.json:
                    options.json.write_text(json.dumps(results))
    if missing:
        return 2
    figures = [figure for result in results for figure in result["figures"]]
    return 1 if any(not figure["same"] or wrong_pages(figure) for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
