#!/usr/bin/env python3
"""The figures that real devices must reach, each as a ratio against a reference in the same run.

    bench/bars.py --path FOLDER [--pairs 5] [--only file,capped,together]

  file      one file device against fio (io_uring, O_DIRECT, 1 MiB, queue depth 32) on a file beside it: reads, writes,
            and processor time per GB/s read, with and without verification
  capped    three file devices capped at 600, 300 and 150 MB/s: the fraction of the caps' sum, and of `equal` placement
  together  memory and a file against the sum of each alone

kvpool's and fio's runs alternate, and a ratio is the median over the pairs: a disk's own noise can be twofold within
minutes. Needs fio, 8 GiB of disk in FOLDER and 4 GiB of memory; removes its files. fio takes huge pages where the
machine has free ones (sudo sysctl vm.nr_hugepages=64), which the report names shmhuge; in small pages, mmap, it is
slower, and no reference for the bar.

Exit status: 0 measured, whatever the figures; 1 a block came back wrong; 2 something could not run.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from arguments import folder, names, number

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIO_SECONDS = 2
CAPS_MB = (600, 300, 150)


class Failed(Exception):
    pass


def run_json(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 1:
        raise Failed(f"a block came back wrong: {' '.join(command)}")
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: status {done.returncode}\n{done.stderr.strip()}")
    return json.loads(done.stdout)


class Bench:
    def __init__(self, kvpool, folder):
        self.kvpool = kvpool
        self.folder = folder
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next(int(line.split()[1]) for line in lines if line.startswith("HugePages_Free"))
        self.iomem = "shmhuge" if free >= 33 else "mmap"

    def run(self, command, devices, *options):
        arguments = [argument for device in devices for argument in ("--device", device)]
        return run_json([self.kvpool, *command, *arguments, *options, "--json"])

    def longdoc(self, devices, *options):
        return self.run(("bench", "longdoc"), devices, *options)["systems"]

    def pooled(self, devices, *options):
        return self.longdoc(devices, "--systems", "pooled-direct", *options)[0]

    def probe(self, devices):
        return self.run(("probe",), devices, "--seconds", str(FIO_SECONDS), "--no-sweep")["devices"][0]

    def file(self, name, size, more=""):
        return f"file,path={self.folder / name},size={size}{more}"

    def fio(self, direction, *options):
        """GB/s."""
        result = run_json(["fio", "--name=reference", f"--filename={self.folder / 'fio'}", "--size=4g", "--bs=1m",
                           "--direct=1", "--ioengine=io_uring", "--iodepth=32", f"--iomem={self.iomem}",
                           f"--rw={direction}", f"--runtime={FIO_SECONDS}", "--time_based", "--output-format=json", *options])
        return result["jobs"][0][direction]["bw_bytes"] / 1e9


def core_percent_per_gbps(row, repeat_bytes):
    """Of one core, for each 10^9 bytes a second read: processor seconds over 10^9 bytes."""
    return 100 * (row["cpu_user_s"] + row["cpu_system_s"]) / (repeat_bytes / 1e9)


def spread(values, form):
    return f"{form.format(statistics.median(values))}  ({form.format(min(values))} to {form.format(max(values))})"


def report(title, columns):
    print(title)
    for name, values, form in columns:
        print(f"  {name:<42}{spread(values, form)}")
    sys.stdout.flush()


def bar_file(bench, pairs):
    # Both files are written once before: a preallocated file's first pass also pays for turning its extents into
    # written ones.
    device = [bench.file("pool", "7GiB")]
    bench.fio("write")
    bench.probe(device)
    reads, writes, stores, ratios_read, ratios_write, ratios_store, cpu, cpu_verified = [[] for _ in range(8)]
    ratios_registered = []
    for _ in range(pairs):
        for verify, into in (("never", cpu), ("storage", cpu_verified)):
            row = bench.pooled(device, "--verify", verify)
            into.append(core_percent_per_gbps(row, sum(d["bytes"] for d in row["devices"])))
            fio_read = bench.fio("read")
            fio_registered = bench.fio("read", "--fixedbufs", "--registerfiles")
            write = bench.probe(device)["write_bytes_per_second"] / 1e9
            fio_write = bench.fio("write")
            reads.append(row["gbps"])
            writes.append(write)
            stores.append(row["store_gbps"])
            ratios_read.append(row["gbps"] / fio_read)
            ratios_registered.append(row["gbps"] / fio_registered)
            ratios_write.append(write / fio_write)
            ratios_store.append(row["store_gbps"] / fio_write)
    report(f"one file device, LLaMA-3.1-8B, 16k tokens; fio with --iomem={bench.iomem}", [
        ("read, GB/s", reads, "{:.2f}"),
        ("read, of fio's", ratios_read, "{:.3f}"),
        ("read, of fio's with registered buffers", ratios_registered, "{:.3f}"),
        ("written by kvpool probe, GB/s", writes, "{:.2f}"),
        ("written by kvpool probe, of fio's", ratios_write, "{:.3f}"),
        ("stored, payload made meanwhile, GB/s", stores, "{:.2f}"),
        ("stored, of fio's writes", ratios_store, "{:.3f}"),
        ("% of a core per GB/s read, not verified", cpu, "{:.1f}"),
        ("% of a core per GB/s read, verified", cpu_verified, "{:.1f}"),
    ])


def bar_capped(bench, pairs):
    devices = [bench.file(f"pool{rate}", "2GiB", f",limit_read={rate}MB/s,limit_write={rate}MB/s") for rate in CAPS_MB]
    fractions = {"pooled-direct": [], "striped-direct": []}
    spilled = []
    for _ in range(pairs):
        for row in bench.longdoc(devices, "--tokens", "4k", "--systems", ",".join(fractions)):
            fractions[row["system"]].append(row["gbps"] * 1000 / sum(CAPS_MB))
            spilled.append(row["spilled_bytes"])
    report(f"file devices capped at {', '.join(map(str, CAPS_MB))} MB/s, LLaMA-3.1-8B, 4k tokens", [
        ("pooled-direct, of the caps' sum", fractions["pooled-direct"], "{:.3f}"),
        ("equal placement, of the caps' sum", fractions["striped-direct"], "{:.3f}"),
        ("bytes spilled", spilled, "{:.0f}"),
    ])


def bar_together(bench, pairs):
    memory, file = "memory,size=2560MiB", bench.file("pool", "3GiB")
    for verify in ("storage", "never"):
        figures = {"memory alone": [], "file alone": [], "together": []}
        ratios, limits = [], []
        for _ in range(pairs):
            for name, devices in zip(figures, ([memory], [file], [memory, file])):
                row = bench.pooled(devices, "--documents", "1", "--repeat", "6", "--verify", verify)
                figures[name].append(row["gbps"])
            ratios.append(figures["together"][-1] / (figures["memory alone"][-1] + figures["file alone"][-1]))
            limits.append(row["fraction_of_limit"])
        report(f"memory and a file, LLaMA-3.1-8B, 16k tokens, --verify {verify}", [
            *((f"{name}, GB/s", values, "{:.2f}") for name, values in figures.items()),
            ("together, of the sum of each alone", ratios, "{:.3f}"),
            ("together, of what both deliver at once", limits, "{:.3f}"),
        ])


BARS = {"file": bar_file, "capped": bar_capped, "together": bar_together}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", required=True, type=folder, help="a folder on the disk to measure")
    parser.add_argument("--pairs", type=number, default=5)
    parser.add_argument("--only", type=names(BARS), default=list(BARS), help=f"of {', '.join(BARS)}; a list is cut at commas")
    parser.add_argument("--kvpool", default=str(ROOT / "build/release/kvpool"))
    options = parser.parse_args(arguments)
    if shutil.which(options.kvpool) is None:
        parser.error(f"--kvpool {options.kvpool}: no such command (make builds it)")
    if shutil.which("fio") is None:
        parser.error("fio is not installed (apt-get install fio)")
    try:
        with tempfile.TemporaryDirectory(prefix="kvpool-bars-", dir=options.path) as own:
            bench = Bench(options.kvpool, pathlib.Path(own).resolve())
            for name in options.only:
                BARS[name](bench, options.pairs)
    except (Failed, OSError) as error:
        print(f"bars: {error}", file=sys.stderr)
        return 1 if "came back wrong" in str(error) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
