#!/usr/bin/env python3
"""What LMCache reaches on a file through kvpool, as ratios against fio and LMCache's own adapters in the same run.

    bench/lmcache_bars.py --path FOLDER [--runs 5] [--kib 1024,4096] [--adapters kvpool,raw_block,fs_native]
    bench/lmcache_bars.py --path FOLDER --memory

`lmcache bench l2` stores and loads values, 16 submissions in flight, around the page cache; fio (io_uring, O_DIRECT,
1 MiB, queue depth 32, huge pages) reads and writes for two seconds each. All of them take turns, the adapters in an order
that is drawn anew, and a ratio is to fio's figure of the same turn: a disk's own noise can be twofold within minutes.
Every key must have been stored and loaded. Not counted are the first turn, in which files are new to the file system
(fs_native's are in every turn) and what comes back from kvpool is compared, and the first round of each run, in which
memory is new.

With --memory kvpool's pool is of memory, and the reference is a copy of as many bytes by one thread in huge pages; kvpool
copies with as many threads as it takes by itself.

Needs lmcache with the adapters that are asked for, fio, 12 GiB of disk in FOLDER, 3 GiB of memory; removes its files.
fio takes huge pages where the machine has free ones, else transparent ones. Exit status: 0 measured, whatever the
figures; 1 a key was not stored or loaded, or came back wrong; 2 something could not run.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from arguments import folder, names, number, numbers

ADAPTERS = ("kvpool", "raw_block", "fs_native")
IN_FLIGHT = 16
ROUNDS = 6
ROUND_BYTES = 256 << 20
POOL_BYTES = 4 << 30
HEADER_BYTES = 4096  # of a raw_block slot


class Failed(Exception):
    pass


class Wrong(Exception):
    pass


def with_huge_pages():
    """All sides alike: what they allocate is in huge pages, where the kernel gives those to whoever asks."""
    return {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def free_huge_pages():
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("HugePages_Free"))


def copy_bytes_per_second():
    """By one thread, both buffers in use for a while."""
    source, target = bytearray(ROUND_BYTES), memoryview(bytearray(ROUND_BYTES))
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        target[:] = source
        seconds.append(time.perf_counter() - start)
    return ROUND_BYTES * (ROUNDS - 1) / sum(seconds[1:])


class Bench:
    def __init__(self, folder, lmcache):
        self.folder = folder
        self.lmcache = lmcache
        self.iomem = "shmhuge" if free_huge_pages() >= 33 else "malloc"

    def fio(self, direction):
        """Bytes a second."""
        command = ["fio", "--name=reference", f"--filename={self.folder / 'fio'}", f"--size={ROUNDS * ROUND_BYTES}",
                   "--bs=1m", "--direct=1", "--ioengine=io_uring", "--iodepth=32", f"--iomem={self.iomem}",
                   "--fixedbufs", "--registerfiles", "--time_based", "--runtime=2", "--buffer_pattern=0x5a",
                   f"--rw={direction}", "--output-format=json"]
        return json.loads(run(command, env=with_huge_pages()))["jobs"][0][direction]["bw_bytes"]

    def reference(self):
        load = self.fio("read")  # not behind its own writes, which the disk may still be busy with
        return {"load": load, "store": self.fio("write")}

    def memory_reference(self):
        copy = [sys.executable, "-c", "import lmcache_bars; print(lmcache_bars.copy_bytes_per_second())"]
        return dict.fromkeys(("store", "load"), float(run(copy, cwd=pathlib.Path(__file__).parent, env=with_huge_pages())))

    def adapter(self, name, value_bytes):
        file = str(self.folder / name)
        if name == "kvpool":
            return self.plugin({"kind": "file", "path": file, "size": POOL_BYTES})
        if name == "memory":
            return self.plugin({"kind": "memory", "size": POOL_BYTES})
        if name == "raw_block":
            with open(file, "ab") as made:
                os.posix_fallocate(made.fileno(), 0, POOL_BYTES)
            return {"type": "raw_block", "device_path": file, "slot_bytes": value_bytes + HEADER_BYTES,
                    "capacity_bytes": POOL_BYTES, "load_checkpoint_on_init": False, "io_engine": "io_uring",
                    "iouring_queue_depth": 32, "num_store_workers": IN_FLIGHT, "num_load_workers": IN_FLIGHT}
        os.mkdir(file)
        return {"type": "fs_native", "base_path": file, "num_workers": 32, "use_odirect": True}

    @staticmethod
    def plugin(device):
        return {"type": "native_plugin", "module_path": "kvpool.lmcache", "class_name": "Adapter",
                "adapter_params": {"config": {"pool": {"buffers": 0}, "device": [device]}}}

    def measure(self, name, kib, verify):
        """{"store": bytes a second, "load": the same}"""
        spec = json.dumps(self.adapter(name, kib << 10))
        report = self.folder / "report.json"
        keys = ROUND_BYTES // IN_FLIGHT // (kib << 10)
        try:
            run([self.lmcache, "bench", "l2", "--l2-adapter", spec, "--num-keys", str(keys), "--in-flight", str(IN_FLIGHT),
                 "--data-size-kb", str(kib), "--l1-align-bytes", "4096", "--rounds", str(ROUNDS), "--warmup-rounds", "1",
                 "--no-skip-verify" if verify else "--skip-verify", "--format", "json", "--output", str(report)], env=with_huge_pages())
            sections = json.loads(report.read_text())["metrics"].values()
        finally:
            if (self.folder / name).is_dir():
                shutil.rmtree(self.folder / name)
        figures = {}
        for section in sections:
            operation = section.get("operation", "").lower()
            if operation not in ("store", "load"):
                continue
            if section["total_success"] != section["total_keys"] or section["rounds_timed_out"] > 0:
                raise Wrong(f"{name}: {section['total_success']} of {section['total_keys']} keys, {operation}")
            figures[operation] = ROUND_BYTES / section["duration_avg_ms"] * 1e3
        return figures


def spread(values):
    return f"{statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]"


def report(kib, references, measured):
    for operation in ("store", "load"):
        of_reference = [figures[operation] for figures in references]
        print(f"{kib:5} KiB {operation:5}  reference {statistics.median(of_reference) / 1e9:.2f} GB/s")
        for name, runs in measured.items():
            figures = [figure[operation] for figure in runs]
            ratios = [figure / reference for figure, reference in zip(figures, of_reference)]
            print(f"  {name:10} {statistics.median(figures) / 1e9:6.2f} GB/s, of the reference {spread(ratios)}")
    sys.stdout.flush()


def measure_all(bench, options):
    adapters = ["memory"] if options.memory else options.adapters
    if not options.memory:
        print(f"fio's memory: {'huge pages' if bench.iomem == 'shmhuge' else 'transparent huge pages'}")
    for kib in options.kib:
        references, measured = [], {name: [] for name in adapters}
        for turn in range(options.runs + 1):
            references.append(bench.memory_reference() if options.memory else bench.reference())
            for name in random.sample(adapters, len(adapters)):  # what comes after fio's writes finds the disk busier
                measured[name].append(bench.measure(name, kib, turn == 0 and name in ("kvpool", "memory")))
        report(kib, references[1:], {name: figures[1:] for name, figures in measured.items()})


def main():
    # The harness empties its buffers with PyTorch, whose threads otherwise go on spinning on a core while values are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=folder, required=True)
    parser.add_argument("--runs", type=number, default=5)
    parser.add_argument("--kib", type=numbers, default=[1024, 4096])
    parser.add_argument("--adapters", type=names(ADAPTERS), default=list(ADAPTERS), help=", ".join(ADAPTERS))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--lmcache", default="lmcache", help="the command")
    options = parser.parse_args()
    if max(options.kib) << 10 > ROUND_BYTES // IN_FLIGHT:
        parser.error(f"--kib {max(options.kib)}: at most {ROUND_BYTES // IN_FLIGHT >> 10}")
    for command in (options.lmcache, *(["fio"] if not options.memory else [])):
        if shutil.which(command) is None:
            parser.error(f"there is no command {command}")
    try:
        with tempfile.TemporaryDirectory(prefix="lmcache-bars-", dir=options.path, ignore_cleanup_errors=True) as own:
            measure_all(Bench(pathlib.Path(own), options.lmcache), options)
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        return 1
    except (Failed, OSError) as failure:
        print(failure, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
