"""One engine with one system below it, for bench/ttft.py, which starts it.

    ttft_engine.py OPTIONS     OPTIONS: a JSON object, those of bench/ttft.py and `system`, `folder`, `out`

Writes what it measures to the file `out`, a line of JSON each, so that nothing is lost where it is ended before its time.
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import time
import traceback

GIB = 1 << 30
SETTLE_S = 120
PHASES = ("cold", "soon", "again", "gpu")


def kvpool(devices: list[dict], link: float, **pool) -> dict:
    if link > 0:
        pool["link"] = f"{link:.0f}GB/s"
    return {
        "kv_connector": "KVPoolConnector", "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"config": {"pool": {"buffers": "4GiB", "staging": "1GiB", **pool}, "device": devices}},
    }  # fmt: skip


def offloading(folder: pathlib.Path, **extra) -> dict:
    return {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "engine_id": folder.name,
            "kv_connector_extra_config": {"block_size": 256, **extra}}  # fmt: skip


def systems(folder: pathlib.Path, memory_gib: int, disk_gib: int, link: float) -> dict[str, dict | None]:
    """name -> kv_transfer_config. link: to the GPU, in GB/s; 0: none."""
    memory = {"kind": "memory", "size": f"{memory_gib}GiB"}
    part = {"kind": "memory", "size": f"{min(9, memory_gib)}GiB"}  # less than 128K tokens of LLaMA-3.1-8B
    quarter = {"kind": "memory", "size": f"{memory_gib * 256}MiB"}
    capped = quarter | {"limit_read": "13GB/s"}  # as an SSD
    disk = {"kind": "file", "path": str(folder / "pool"), "size": f"{disk_gib}GiB"}
    # A prompt comes back through memory: where that does not hold all of it, vLLM 0.26 reads files and computes nevertheless.
    tiers = {"spec_name": "TieringOffloadingSpec", "secondary_tiers": [{"type": "fs", "root_dir": str(folder / "tier")}]}
    return {
        "none": None,
        "vllm-memory": offloading(folder, cpu_bytes_to_use=memory_gib * GIB),
        "vllm-disk": offloading(folder, cpu_bytes_to_use=memory_gib * GIB // 2, **tiers),
        "lmcache-memory": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"},
        "kvpool-memory": kvpool([memory], link),
        "kvpool-verified": kvpool([memory], link, verify="always"),
        "kvpool-both": kvpool([memory, disk], link),
        "kvpool-disk": kvpool([disk], link),
        "kvpool-spill": kvpool([part, disk], link),
        "kvpool-capped": kvpool([quarter, quarter, capped, capped], link, placement="equal"),  # half of it on the two
    }


def probe(command: str, folder: pathlib.Path, transfer: dict) -> None:
    """Measures the pool's devices, and has it use that; a pool's own look at its start is shorter than a disk's bursts."""
    import tomli_w

    extra = transfer["kv_connector_extra_config"]
    path = folder / "kvpool.toml"
    path.write_text(tomli_w.dumps(extra["config"]))
    subprocess.run([command, "probe", "--config", str(path), "--no-sweep"], check=True, stdout=sys.stderr)
    extra["config"] = str(path)


def room(tokens: int) -> int:
    """The longest context that the engine is to take, for prompts of as many tokens at most."""
    return max(3000, tokens) + 16


def reach(thing, path: str):
    """An attribute of an attribute, or None where there is none."""
    for name in path.split("."):
        thing = getattr(thing, name, None)
    return thing


def processor_s() -> tuple[float, float]:
    """Processor time of kvpool's own threads, and of the whole process."""
    own = 0.0
    for task in pathlib.Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("kvpool"):
            own += time.clock_gettime(~int(task.name) << 3 | 6)  # the thread's clock; `stat` has steps of 10 ms
    return own, time.process_time()


def versions() -> dict[str, str]:
    import torch
    import vllm

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"vllm": vllm.__version__, "torch": torch.__version__, "device": device}


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


class Engine:
    def __init__(self, options: argparse.Namespace):
        from vllm import LLM, SamplingParams

        self.options = options
        self.link_gbps = link_gbps()
        folder = pathlib.Path(options.folder)
        transfer = systems(folder, options.memory_gib, options.disk_gib, self.link_gbps)[options.system]
        if options.probe and options.system in ("kvpool-both", "kvpool-disk", "kvpool-spill"):
            probe(options.probe, folder, transfer)
        more = {"kv_transfer_config": transfer} if transfer else {}
        if options.block_size:
            more["block_size"] = options.block_size
        self.llm = LLM(model=str(pathlib.Path(options.models) / options.model), load_format="dummy", skip_tokenizer_init=True,
                       dtype=options.dtype, max_model_len=room(max(options.tokens)),
                       max_num_batched_tokens=options.batched_tokens, gpu_memory_utilization=options.gpu_memory,
                       enforce_eager=options.eager, disable_log_stats=True, **more)  # fmt: skip
        self.sampling = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, max_tokens=1)
        core = self.llm.llm_engine.engine_core.engine_core
        self.tokens = range(100, min(self.llm.llm_engine.model_config.get_vocab_size(), 100_000) - 1)
        self.pages = Pages(core)
        self.connector = core.scheduler.connector
        self.mover = reach(self.connector, "_scheduler._engine.mover")  # kvpool's
        self.known: dict[tuple[int, int], tuple[int, list[dict]]] = {}  # of each document its token and the sums of its pages

    def ask(self, prompt: list[int]) -> dict:
        """Seconds, the token, how many tokens were not computed, and processor time meanwhile."""
        own, whole = processor_s()
        begin = time.perf_counter()
        [output] = self.llm.generate([{"prompt_token_ids": prompt}], self.sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        own_after, whole_after = processor_s()
        return {"s": seconds, "token": output.outputs[0].token_ids[0], "cached": output.num_cached_tokens,
                "kvpool_cpu_s": own_after - own, "cpu_s": whole_after - whole}  # fmt: skip

    def settle(self) -> None:
        """Until what was to be stored is."""
        self._until(lambda: not self._stores())

    def empty(self) -> None:
        """The GPU's own cache; and the memory that vLLM's file tier goes through, which would answer in its place."""
        self._until(self.llm.reset_prefix_cache)
        memory = reach(self.connector, "connector_scheduler.manager.primary_tier")
        if memory is not None:
            memory.reset_cache()

    def _until(self, done) -> None:
        deadline = time.monotonic() + SETTLE_S
        self.llm.llm_engine.step()  # in steps vLLM's own connectors begin stores, and take note of what has ended
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"still storing, or pages are in use, after {SETTLE_S} s")
            time.sleep(0.01)
            self.llm.llm_engine.step()

    def _stores(self) -> bool:
        if self.mover is not None:
            return self.mover.stats()["jobs_under_way"] > 0
        if self.connector is None:
            return False
        if reach(self.connector, "connector_scheduler") is None:
            time.sleep(1)  # LMCache says nothing
        return self.connector.has_pending_push_work()

    def prompt(self, length: int, seed: str) -> list[int]:
        own = random.Random(seed)
        return [own.choice(self.tokens) for _ in range(length)]

    def loaded_bytes(self) -> int:
        return self.mover.stats()["loaded_bytes"] if self.mover is not None else 0

    def measure(self, length: int, repeat: int) -> dict:
        document = repeat % self.options.documents
        prompt = self.prompt(length, f"{length} {document}")
        phases = [phase for phase in PHASES if phase == "cold" or phase in self.options.phases]
        if repeat >= self.options.documents:  # it is known already
            phases = [phase for phase in phases if phase in ("again", "gpu")]
        figure, whole = {"tokens": length, "repeat": repeat, "document": document}, length
        for phase in phases:
            if phase in ("again", "gpu"):
                self.settle()
            if phase == "again":
                self.empty()
            loaded = self.loaded_bytes()
            asked = self.ask(prompt)
            figure |= {f"{phase}_{name}": value for name, value in asked.items()}
            pages = self.pages.last()
            if phase == "cold":
                of_cold = pages
            if phase == ("soon" if "soon" in phases else "cold"):  # between the two nothing is done
                self.known[length, document] = asked["token"], self.pages.sums(of_cold)
            if phase != "cold":
                whole = min(whole, asked["cached"])  # the rest was computed in another batch, not the same to the last bit
                token, sums = self.known[length, document]
                wrong, all_pages = self.pages.wrong(sums, self.pages.sums(pages), whole)
                figure |= {f"{phase}_wrong_pages": wrong, f"{phase}_pages": all_pages, f"{phase}_same": asked["token"] == token}
            if phase == "again":
                self.settle()
                figure["again_bytes"] = self.loaded_bytes() - loaded
        return figure

    def mixed(self, length: int, seed: str) -> list[dict]:
        """A prompt that comes while four others are being answered, new and, if the options want it, again: its time to the first
        token, and how long each token took that the others got meanwhile."""
        prompt, found = self.prompt(length, f"new {seed}"), []
        for phase in ("cold", "again") if self.options.system != "none" and "again" in self.options.phases else ("cold",):
            self.settle()
            self.empty()
            found.append({"tokens": length, "phase": phase} | self.beside_others(prompt, f"{phase} {seed}"))
        self.settle()
        return found

    def beside_others(self, prompt: list[int], seed: str) -> dict:
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        others, new = [f"other {seed} {i}" for i in range(4)], f"new {seed}"
        prompts = {name: self.prompt(64, name) for name in others} | {new: prompt}
        times: dict[str, list[float]] = {name: [] for name in prompts}
        cached: dict[str, int] = {}

        def add(name: str, answer: int) -> None:
            sampling = self.sampling.clone()
            sampling.max_tokens, sampling.output_kind = answer, RequestOutputKind.CUMULATIVE  # each token at once
            engine.add_request(name, {"type": "token", "prompt_token_ids": prompts[name]}, sampling)

        def step() -> None:
            for output in engine.step():
                times[output.request_id].append(time.perf_counter())
                cached[output.request_id] = output.num_cached_tokens

        for name in others:
            add(name, 2000)
        while min(len(times[name]) for name in others) < 8:
            step()
        begin = time.perf_counter()
        add(new, 1)
        while not times[new]:
            step()
        engine.abort_request(others)
        while engine.has_unfinished_requests():
            engine.step()
        between = [later - earlier for name in others for earlier, later in itertools.pairwise(times[name]) if later > begin]
        return {"ttft_s": times[new][0] - begin, "cached": cached[new], "tpot_s": between}


def run(options: argparse.Namespace) -> None:
    with open(options.out, "w", encoding="utf-8") as out:

        def write(**what) -> None:
            print(json.dumps(what), file=out, flush=True)

        begin = time.monotonic()
        engine = Engine(options)
        engine.ask([5] * 3000)  # the first step of an engine takes longer
        write(link_gbps=engine.link_gbps, start_s=time.monotonic() - begin, versions=versions())
        for repeat in range(options.repeats):
            for length in options.tokens:
                print(f"repeat {repeat + 1} of {options.repeats}: {length} tokens", flush=True)
                write(figure=engine.measure(length, repeat))
        if options.mixed:
            engine.mixed(3000, "warm")
            for repeat in range(options.repeats):
                print(f"repeat {repeat + 1} of {options.repeats}: beside others", flush=True)
                for mixed in engine.mixed(max(options.tokens), str(repeat)):
                    write(mixed=mixed)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    try:
        [text] = arguments
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict) or not given.keys() >= {"system", "folder", "out"}:
        print("usage: ttft_engine.py OPTIONS; bench/ttft.py starts it, which is what to run", file=sys.stderr)
        sys.exit(2)
    return argparse.Namespace(**given)


if __name__ == "__main__":
    options = parse_arguments(sys.argv[1:])
    status = 1
    try:
        run(options)
        status = 0
    finally:
        if status:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)  # whatever an engine's threads still do
