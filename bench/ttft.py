#!/usr/bin/env python3
"""Time to first token with vLLM: computing a context, and having it back from vLLM's own tiers, LMCache's, or kvpool's.

    bench/ttft.py --models FOLDER --path FOLDER [--model llama-3.1-8b,...] [--tokens 16384,32768,65536,130944]
                  [--systems none,vllm-memory,kvpool-memory,...] [--repeats 5] [--json FILE]
    bench/ttft.py --plot PAGE.html FILE...       the figures of earlier runs, joined

FOLDER of --models has a folder with a config.json for each model; weights are random. Each system is a process of its
own, since vLLM keeps one connector in it; --turns 2 runs them all again in the other order. In a process each length is
asked in turn, so that a slow minute meets all of them: a prompt that is new ("cold"), the same prompt at once, while it is
still being stored ("soon"), with the GPU's own cache emptied when it has been ("again"), then from that cache ("gpu").
What the link gives is measured first, by copies of 1 GiB of pinned memory, and told to kvpool.

What saves time: --documents 1 computes one prompt of each length, in the first repeat, and asks for it again in all of them;
--phases leaves out what is not wanted beside "cold". Before "again" vLLM's file tier has its memory emptied, too.

--mixed adds a prompt of the longest length that comes while four requests are answered, new and again: its time to first
token, and the time that each token of the others takes meanwhile (TPOT).

Of random weights one token says little about the context, so the pages themselves are compared, those that were computed
with those that came back: a sum of each page in each layer (not those of --mixed, and of sliding windows those alone that lie
at the same tokens).

Prints the medians of a system when it has ended; --json has every figure, and a log in the folder of --path says what it
does meanwhile. Processor time is that of the threads named kvpool-*, and of the whole process,
while a prompt is asked again; in cores, over the time to first token, and over the bytes' time on the link.
Exit status: 0 measured; 1 a page or a token differed; 2 a system could not run, which is named, or an option is wrong.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import ttft_engine
from arguments import folder, names, number, numbers, words
from reporting import first_tokens, page

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONHASHSEED": "0",
}  # fmt: skip
CHECKED = ("soon", "again", "gpu")


def run_system(system: str, model: str, turn: int, options: argparse.Namespace) -> tuple[dict, bool]:
    """What was measured, and whether that is all."""
    name = f"{model}, {system}"
    log = options.path / f"ttft-{model}-{system}{f'-{turn + 1}' if turn else ''}.log"
    print(f"{name}: starts, see {log}", file=sys.stderr, flush=True)
    lmcache = {"LMCACHE_LOCAL_CPU": "True", "LMCACHE_MAX_LOCAL_CPU_SIZE": str(options.memory_gib), "LMCACHE_CHUNK_SIZE": "256"}
    with tempfile.TemporaryDirectory(dir=options.path, prefix="ttft-") as folder, open(log, "w", encoding="utf-8") as output:
        out = pathlib.Path(folder) / "figures"
        given = vars(options) | {"system": system, "model": model, "folder": folder, "out": out}
        command = [sys.executable, ttft_engine.__file__, json.dumps(given, default=str)]
        try:
            status = subprocess.run(command, env=os.environ | ENVIRONMENT | lmcache, stdout=output, stderr=output, check=False,
                                    timeout=options.timeout_s).returncode  # fmt: skip
            ended = how_it_ended(status, log)
        except subprocess.TimeoutExpired:
            ended = f"not done after {options.timeout_s:.0f} s"
        finally:
            for left in pathlib.Path("/dev/shm").glob(f"vllm_offload_{pathlib.Path(folder).name}*"):
                left.unlink()  # what vLLM's file tier leaves behind
        if ended:
            print(f"{name}: {ended}; see {log}", flush=True)
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    found = {kinds: [line[kind] for line in lines if kind in line] for kind, kinds in (("figure", "figures"), ("mixed", "mixed"))}
    return (lines[0] if lines else {}) | found, not ended


def how_it_ended(status: int, log: pathlib.Path) -> str:
    """Nothing where it ended well."""
    if status < 0:
        killed = " (the kernel kills what takes too much memory)" if status == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-status).name}{killed}"
    if status == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if "Error" in line or "kvpool:" in line), "")
    return f"status {status}{f': {last[:300]}' if last else ''}"


def median(figures: list[dict], name: str) -> float | None:
    known = [figure[name] for figure in figures if name in figure]
    return statistics.median(known) if known else None


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def cores(figures: list[dict], link_gbps: float) -> str:
    """While prompts were asked again: of the process, and of kvpool's threads, of these also at the link's rate."""
    again = [figure for figure in figures if "again_s" in figure]

    def of(cpu: str, seconds) -> str:
        return f"{statistics.median(figure[cpu] / seconds(figure) for figure in again):.2f}"

    said = f"; {of('again_cpu_s', lambda figure: figure['again_s'])} cores"
    if all(figure["again_bytes"] for figure in again):
        said += f", of them kvpool's {of('again_kvpool_cpu_s', lambda figure: figure['again_s'])}"
        if link_gbps:
            said += f" ({of('again_kvpool_cpu_s', lambda figure: figure['again_bytes'] / link_gbps / 1e9)} at the link's rate)"
    return said


def hit(figures: list[dict], name: str = "again_cached") -> str:
    cached = [figure[name] for figure in figures if name in figure]
    hits = sum(tokens > 0 for tokens in cached)
    if hits == 0:
        return "no hit"
    return f"{statistics.median(cached):.0f} not computed" + (f", hit in {hits} of {len(cached)}" if hits < len(cached) else "")


def wrong(figures: list[dict]) -> tuple[int, int]:
    """Pages and tokens that are not the computed ones."""
    pages = sum(figure.get(f"{phase}_wrong_pages", 0) for figure in figures for phase in CHECKED)
    return pages, sum(not figure.get(f"{phase}_same", True) for figure in figures for phase in CHECKED)


def show(model: str, system: str, found: dict, options: argparse.Namespace) -> None:
    for length in options.tokens:
        figures = [figure for figure in found["figures"] if figure["tokens"] == length]
        said = []
        for phase, called in (("cold", "cold"), ("soon", "at once"), ("gpu", "GPU's own"), ("again", "again")):
            seconds = median(figures, f"{phase}_s")
            if seconds is not None:
                said.append(f"{called} {seconds:.3f} s")
                if phase == "again":
                    said[-1] += f" ({hit(figures)}{cores(figures, found['link_gbps'])})"
        said += [f"{count} {what} DIFFER" for count, what in zip(wrong(figures), ("PAGES", "TOKENS")) if count]
        print(f"{model:14} {system:15} {length:7} tokens: {', '.join(said)}", flush=True)
    for phase in ("cold", "again"):
        mixed = [mixed for mixed in found["mixed"] if mixed["phase"] == phase]
        if mixed:
            between = [seconds for one in mixed for seconds in one["tpot_s"]]
            others = (f"{statistics.median(between):.4f} s, p99 {percentile(between, 99):.4f} s, longest {max(between):.4f} s "
                      f"({len(between)} tokens)")  # fmt: skip
            first = f"{median(mixed, 'ttft_s'):.3f} s ({hit(mixed, 'cached')})"
            print(
                f"{model:14} {system:15} {max(options.tokens):7} tokens beside others, {phase}: {first}; the others' TPOT {others}",
                flush=True,
            )


def run_all(options: argparse.Namespace) -> tuple[list[dict], bool]:
    results, missing = [], False
    for turn in range(options.turns):
        order = options.systems[:: -1 if turn % 2 else 1]
        for model in options.model:
            for system in order:
                found, whole = run_system(system, model, turn, options)
                missing = missing or not whole
                if not found["figures"] and not found["mixed"]:
                    continue
                show(model, system, found, options)
                settings = {name: value for name, value in vars(options).items() if name not in ("results", "plot", "json")}
                results.append({"model": model, "system": system, "turn": turn, "options": settings, **found})
                if options.json:
                    options.json.write_text(json.dumps(results, default=str))
    return results, missing


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage="%(prog)s --models FOLDER --path FOLDER [options], or --plot PAGE.html FILE...",
                                     description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("results", nargs="*", type=pathlib.Path, help="JSON files of earlier runs, for --plot")
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--path", type=folder, help="a folder for logs, and for the pools of systems with disks")
    parser.add_argument("--model", type=words, default=["llama-3.1-8b"])
    parser.add_argument("--tokens", type=numbers, metavar="N,N", default=[16384, 32768, 65536, 130944])
    known = list(ttft_engine.systems(pathlib.Path(), 40, 30, 0))
    parser.add_argument("--systems", type=names(known), default=["none", "vllm-memory", "lmcache-memory", "kvpool-memory"],
                        help=", ".join(known))  # fmt: skip
    parser.add_argument("--repeats", type=number, default=5)
    parser.add_argument("--turns", type=number, default=1)
    parser.add_argument("--documents", type=number, help="of each length; a new one each repeat")
    parser.add_argument("--phases", type=names(CHECKED, least=0), default=list(CHECKED), help="beside cold; an empty word: none")
    parser.add_argument("--mixed", action="store_true",
                        help="measure the longest prompt beside others, too: new and, where --phases has it, again")  # fmt: skip
    parser.add_argument("--memory-gib", type=number, default=40, help="of host memory, for each system; kvpool takes 5 more "
                        "to pass pages through, and on a CPU vLLM's own cache is in host memory, too: VLLM_CPU_KVCACHE_SPACE")  # fmt: skip
    parser.add_argument("--probe", metavar="KVPOOL", help="the command kvpool, to measure disks with before the pool is made")
    parser.add_argument("--disk-gib", type=number, default=30)
    parser.add_argument("--gpu-memory", type=float, default=0.9)
    parser.add_argument("--batched-tokens", type=number, default=16384)
    parser.add_argument("--block-size", type=number, help="of the engine's pages, in tokens; else vLLM's own choice")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float", "float16", "float32", "half"), default="bfloat16")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--timeout-s", type=float, default=900, help="for each system; what it has measured by then counts")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    options = parser.parse_args()
    fault = wrong_options(options)
    if fault:
        parser.error(fault)
    options.documents = options.documents or options.repeats
    return options


def wrong_options(options: argparse.Namespace) -> str:
    """What is wrong, before an engine is started for minutes; nothing where all is right."""
    for name, earlier_one in (("json", earlier), ("plot", lambda file: page.check_place(file, first_tokens.TITLE))):
        file = getattr(options, name)
        fault = wrong_place(file, earlier_one, options.results) if file else ""
        if fault:
            return f"--{name} {file}: {fault}"
    if not options.models:
        return "" if options.plot and options.results else "--models to measure, or --plot and the JSON files of earlier runs"
    if not options.path:
        return "--path: a folder for logs is wanted"
    if not options.model:
        return "--model: none is named"
    for model in options.model:
        fault = wrong_model(options.models / model, max(options.tokens)) if "/" not in model else "a name is wanted, no path"
        if fault:
            return f"--model {model}: {fault}"
    if not options.timeout_s > 0:  # nor is NaN
        return f"--timeout-s {options.timeout_s:g}: more than 0 is wanted"
    if not 0 < options.gpu_memory <= 1:
        return f"--gpu-memory {options.gpu_memory:g}: a fraction is wanted, more than 0 and at most 1"
    if options.probe and shutil.which(options.probe) is None:
        return f"--probe {options.probe}: no such command"
    if importlib.util.find_spec("vllm") is None:
        return f"{sys.executable} has no vLLM: run this with a Python that has"
    return ""


def wrong_place(file: pathlib.Path, check, results: list[pathlib.Path]) -> str:
    """Why this cannot be written; check: raises where what is there is not an earlier one."""
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    if not file.exists():
        return "" if os.access(file.parent, os.W_OK) else f"{file.parent} may not be written to"
    if file.is_dir() or not os.access(file, os.W_OK):
        return "a folder" if file.is_dir() else "it may not be written to"
    if any(result.exists() and result.samefile(file) for result in results):
        return "it is one of the results to be read"
    try:
        if file.is_file() and file.stat().st_size:
            check(file)
    except ValueError as error:
        return f"not written over, since it is no earlier one: {error}"
    except OSError as error:
        return str(error)
    return ""


def wrong_model(model: pathlib.Path, tokens: int) -> str:
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{model} has no config.json"
    except (OSError, ValueError) as error:
        return f"{model}/config.json: {error}"
    if not isinstance(config, dict):
        return f"{model}/config.json: not a JSON object"
    of_text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    longest, room = of_text.get("max_position_embeddings"), ttft_engine.room(tokens)
    scaling = str(of_text.get("rope_scaling") or of_text.get("rope_parameters"))
    scales = "'factor'" in scaling and "'llama3'" not in scaling  # vLLM then takes more, how much depends on its version
    if isinstance(longest, int) and longest < room and not scales and "VLLM_ALLOW_LONG_MAX_MODEL_LEN" not in os.environ:
        return f"--tokens {tokens}: {room} are wanted with what is added, the model takes {longest} (max_position_embeddings)"
    return ""


def earlier(file: pathlib.Path) -> list[dict]:
    """What --json of an earlier run wrote. Raises ValueError with the file's name where it is something else."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    runs = results if isinstance(results, list) else [None]
    lists = [one.get(name) if isinstance(one, dict) else None for one in runs for name in ("figures", "mixed")]
    if not all(isinstance(some, list) and all(isinstance(entry, dict) for entry in some) for some in lists):
        raise ValueError(f"{file}: not a result of bench/ttft.py")
    return results


def main() -> int:
    options = parse_arguments()
    try:
        before = [result for file in options.results for result in earlier(file)]
    except ValueError as error:
        print(f"ttft: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the engine and removes its folder
    try:
        results, missing = run_all(options) if options.models else ([], False)
        results += before
        if not results:
            print("ttft: there is no result", file=sys.stderr)
            return 2
        if options.plot:
            page.write(options.plot, first_tokens.TITLE, first_tokens.render(results))
    except OSError as error:
        print(f"ttft: {error}", file=sys.stderr)
        return 2
    if missing:
        return 2
    pages, tokens = wrong([figure for result in results for figure in result["figures"]])
    if pages or tokens:
        print(f"ttft: {pages} pages and {tokens} tokens DIFFER from the computed ones", file=sys.stderr)
    return 1 if pages or tokens else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
