"""Reads the JSON of `kvpool probe`, `bench longdoc` and `replay`. load() refuses what is not of that kind; a field that is
missing or null becomes None and shows as a dash: a report of half the results is better than none."""

import json
import re
import sys
from dataclasses import dataclass, field

SYSTEMS = ("tiered-files", "pooled-files", "tiered-direct", "striped-direct", "pooled-direct", "tiered-passthrough",
           "pooled-passthrough")
OURS = ("pooled-passthrough", "pooled-direct")  # the first that a case has speaks for the pool
TODAY = "tiered-files"


def number(value):
    """A finite, non-negative number, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max
    return value if good else None


def text(value):
    return value if isinstance(value, str) else "" if value is None else str(value)


def items(value):
    """The objects of a list, whatever else it holds."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


@dataclass
class Device:
    """One device's part in a run. Shares and fractions are 0 to 1; busy_over_time has one fraction a bin of the
    median repeat, in order of time."""

    name: str
    bytes: float | None
    share: float | None
    planned_share: float | None
    busy_fraction: float | None
    busy_over_time: list


@dataclass
class Run:
    """One system at one model, context and concurrency. Seconds are one repeat's retrieves."""

    system: str
    model: str
    tokens: float | None
    concurrency: float | None
    numbers: dict
    devices: list = field(default_factory=list)

    def __getattr__(self, name):  # seconds_p50, gbps, ... : None where the result has no such number
        if name.startswith("_"):
            raise AttributeError(name)
        return self.numbers.get(name)

    @property
    def prefill_s(self):
        """What the time to first token holds besides loading, as the result states it."""
        if self.ttft_s is None or self.seconds_p50 is None:
            return None
        return max(0.0, self.ttft_s - self.seconds_p50)

    @property
    def timed_devices(self):
        """Those of which it is known when they were busy, all with the same bins."""
        bins = max((len(device.busy_over_time) for device in self.devices), default=0)
        return [device for device in self.devices if bins and len(device.busy_over_time) == bins]

    @property
    def busy_span_s(self):
        """The time that busy_over_time covers; of older results a repeat of one question, about."""
        bins = max((len(device.busy_over_time) for device in self.timed_devices), default=0)
        return bins and ((self.busy_bin_s or 0) * bins or self.seconds_p50) or None


@dataclass
class Case:
    """All systems' runs at one model, context and concurrency, in the order of SYSTEMS."""

    model: str
    tokens: float | None
    concurrency: float | None
    runs: list

    def run(self, system):
        return next((run for run in self.runs if run.system == system), None)

    @property
    def ours(self):
        return next((run for system in OURS if (run := self.run(system))), None)


RUN_NUMBERS = ("seconds_min", "seconds_p50", "seconds_max", "gbps", "limit_gbps", "fraction_of_limit", "ttft_s",
               "cpu_user_s", "cpu_system_s", "blocked_s", "io_calls", "device_s", "spilled_bytes", "wrong_blocks", "busy_bin_s")
REPLAY_NUMBERS = ("hit_tokens", "stored_blocks", "rejected_blocks", "evicted_blocks", "bytes_read", "bytes_written", "failed_requests")


def read_device(entry):
    bins = entry.get("busy_over_time")
    bins = [number(value) for value in bins] if isinstance(bins, list) else []
    return Device(text(entry.get("name")), number(entry.get("bytes")), number(entry.get("share")),
                  number(entry.get("planned_share")), number(entry.get("busy_fraction")),
                  [] if None in bins else bins)


def read_run(entry):
    return Run(text(entry.get("system")), text(entry.get("model")), number(entry.get("tokens")),
               number(entry.get("concurrency")), {key: number(entry.get(key)) for key in RUN_NUMBERS},
               [read_device(device) for device in items(entry.get("devices"))])


def rank(system):
    """Ours last, where the eye ends; systems unknown to this page before it."""
    return SYSTEMS.index(system) if system in SYSTEMS else len(SYSTEMS) - 1.5


def read_cases(results):
    """Cases by model in the order of first appearance, then by context and concurrency."""
    runs = [read_run(entry) for result in results for entry in items(result.get("systems"))]
    models = list(dict.fromkeys(run.model for run in runs))
    cases = {}
    for run in runs:
        key = (models.index(run.model), run.tokens or 0, run.concurrency or 0)
        cases.setdefault(key, Case(run.model, run.tokens, run.concurrency, [])).runs.append(run)
    for case in cases.values():
        case.runs.sort(key=lambda run: rank(run.system))
    return [cases[key] for key in sorted(cases)]


@dataclass
class ProbedDevice:
    """Bytes a second and microseconds, of one device alone; together: reading while all others read."""

    name: str
    read: float | None
    write: float | None
    together: float | None
    read_latency_us: float | None
    write_latency_us: float | None


def rate(entry, name):
    """Bytes a second, from a field in bytes a second or in GB/s. A profile says 0 for what was not measured."""
    value = number(entry.get(f"{name}_bytes_per_second"))
    gbps = number(entry.get(f"{name}_gbps"))
    return value or (gbps and gbps * 1e9) or None


def latency_us(entry, name):
    scales = (("us", 1), ("ns", 1e-3), ("ms", 1e3), ("s", 1e6))
    values = ((number(entry.get(f"{name}_{unit}")), scale) for unit, scale in scales)
    return next((value * scale for value, scale in values if value), None)


def read_probe(result):
    return [ProbedDevice(text(entry.get("name")), rate(entry, "read"), rate(entry, "write"), rate(entry, "together"),
                         latency_us(entry, "read_latency"), latency_us(entry, "write_latency"))
            for entry in items(result.get("devices"))]


UNIT_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "ns": 1e-6}
LATENCY_KEYS = (re.compile(r"^(?P<what>\w+?)_(?P<unit>ns|us|ms|s)_(?P<stat>min|mean|p\d+|max)$"),
                re.compile(r"^(?P<what>\w+?)_(?P<stat>min|mean|p\d+|max)_(?P<unit>ns|us|ms|s)$"))


def latencies(result):
    """{what: {"p50": milliseconds, ...}} of every field named like retrieve_us_p50."""
    found = {}
    for key, value in result.items():
        match = next((match for pattern in LATENCY_KEYS if (match := pattern.match(key))), None)
        if match and number(value) is not None:
            found.setdefault(match["what"], {})[match["stat"]] = value * UNIT_MS[match["unit"]]
    return found


@dataclass
class Results:
    """Everything that a report is made of; each part may be empty."""

    probe: dict
    devices: list
    longdoc: list
    cases: list
    replay: dict  # its numbers alone
    conditions: list  # (name, text)


TEXT, NUMBER, NUMBERS = "a text", "a number of 0 or more", "a list of numbers of 0 or more"
HOLDS = {TEXT: lambda value: isinstance(value, str), NUMBER: lambda value: number(value) is not None,
         NUMBERS: lambda value: isinstance(value, list) and all(number(one) is not None for one in value)}


def want(members, what, entry, place=""):
    """Raises ValueError where a member that is there is something else; null is nothing."""
    for name in members:
        value = entry.get(name)
        if value is not None and not HOLDS[what](value):
            raise ValueError(f"{place}{name} is {repr(value)[:40]}: {what} is wanted")


def entries(entry, name, place=""):
    """(object, its place) for each of a list; raises ValueError where it is none, or empty."""
    listed = entry.get(name)
    if not items(listed) or len(items(listed)) != len(listed):
        what = "missing" if name not in entry else "empty" if listed == [] else "something else"
        raise ValueError(f"{place}{name} is {what}: a list of objects is wanted")
    return [(item, f"{place}{name}[{index}].") for index, item in enumerate(listed)]


def check_probe(result):
    for device, place in entries(result, "devices"):
        want(("name",), TEXT, device, place)
        want(("read_bytes_per_second", "write_bytes_per_second", "together_bytes_per_second", "read_latency_ns", "write_latency_ns"),
             NUMBER, device, place)


def check_longdoc(result):
    for run, place in entries(result, "systems"):
        want(("system", "model"), TEXT, run, place)
        want(("tokens", "concurrency", *RUN_NUMBERS), NUMBER, run, place)
        for device, of_device in entries(run, "devices", place) if run.get("devices") else ():
            want(("name",), TEXT, device, of_device)
            want(("bytes", "share", "planned_share", "busy_fraction"), NUMBER, device, of_device)
            want(("busy_over_time",), NUMBERS, device, of_device)


def check_replay(result):
    if "requests" not in result:
        raise ValueError("requests is missing: a number of 0 or more is wanted")
    want(("requests", "blocks", "hit_blocks", "wrong_blocks", "seconds", *REPLAY_NUMBERS), NUMBER, result)
    want([key for key in result if any(pattern.match(key) for pattern in LATENCY_KEYS)], NUMBER, result)


def no_number(name):
    raise ValueError(f"{name} is no number in JSON")


def load(path, check):
    """One result file. Raises ValueError with the path, and the member that is not what it should be."""
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file, parse_constant=no_number)
        if not isinstance(result, dict):
            raise ValueError("not a JSON object")
        if number(result.get("schema_version", 1)) != 1:
            raise ValueError(f"schema_version is {repr(result['schema_version'])[:40]}: 1 is wanted")
        check(result)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    return result


def gather(probe=None, longdoc=(), replay=None, conditions=()):
    probe, longdoc = probe or {}, list(longdoc)
    replay = {key: value for key, value in (replay or {}).items() if number(value) is not None}
    return Results(probe, read_probe(probe), longdoc, read_cases(longdoc), replay, list(conditions))
