"""The tables, once as lists of rows; the terminal and the page print the same ones."""

from . import form
from .data import OURS

RUN_NOTE = ("TTFT: what was loaded here, and the prefill of a question as an H100 takes it (34 ms or more, docs/benchmarks.md). "
            "GB/s, limit and of limit are medians, each of its own.")
RUN_COLUMNS = ("model", "tokens", "at once", "system", "TTFT", "loading", "min \u2013 max", "GB/s", "limit",
               "of limit", "CPU", "kernel CPU", "in I/O calls", "I/O calls", "device time", "spilled", "wrong")
TERMINAL_COLUMNS = tuple(RUN_COLUMNS.index(name) for name in
                         ("model", "tokens", "system", "TTFT", "GB/s", "limit", "of limit", "CPU", "wrong"))
PROBE_COLUMNS = ("device", "read", "write", "read, all at once", "read latency", "write latency")


def run_row(run):
    spread = form.DASH if run.seconds_min is None or run.seconds_max is None else \
        f"{form.seconds(run.seconds_min)} \u2013 {form.seconds(run.seconds_max)}"
    cpu = None if run.cpu_user_s is None or run.cpu_system_s is None else run.cpu_user_s + run.cpu_system_s
    plain = lambda value: form.DASH if value is None else form.digits(value)  # the column names the unit
    return (run.model or form.DASH, form.tokens(run.tokens), form.count(run.concurrency), run.system or form.DASH,
            form.seconds(run.ttft_s), form.seconds(run.seconds_p50), spread, plain(run.gbps), plain(run.limit_gbps),
            form.percent(run.fraction_of_limit), form.seconds(cpu), form.seconds(run.cpu_system_s),
            form.seconds(run.blocked_s), form.count(run.io_calls), form.seconds(run.device_s),
            form.size(run.spilled_bytes), form.count(run.wrong_blocks))


def runs(cases):
    """Rows and the numbers of those that are ours; a new case begins where model, tokens or concurrency change."""
    rows = [(run_row(run), run.system in OURS) for case in cases for run in case.runs]
    return [row for row, _ in rows], {index for index, (_, ours) in enumerate(rows) if ours}


def probe(devices):
    microseconds = lambda value: form.seconds(None if value is None else value / 1e6)
    return [(device.name or form.DASH, form.rate(device.read), form.rate(device.write), form.rate(device.together),
             microseconds(device.read_latency_us), microseconds(device.write_latency_us)) for device in devices]


REPLAY_FORMS = (("requests", "requests", form.count), ("blocks", "blocks asked for", form.count),
                ("hit_blocks", "found in the pool", form.count), ("hit_tokens", "tokens found", form.count),
                ("stored_blocks", "stored", form.count), ("rejected_blocks", "found no room", form.count),
                ("evicted_blocks", "evicted", form.count), ("bytes_read", "read", form.size),
                ("bytes_written", "written", form.size), ("seconds", "time taken", form.seconds),
                ("wrong_blocks", "wrong", form.count))


def replay(result):
    return [(words, shape(result[key])) for key, words, shape in REPLAY_FORMS if key in result]


STATS = ("min", "mean", "p50", "p90", "p95", "p99", "p999", "max")


def latency(groups):
    """Columns and rows of {what: {stat: milliseconds}}; only the percentiles that some row has."""
    stats = [stat for stat in STATS if any(stat in group for group in groups.values())]
    rows = [(what.replace("_", " "), *(form.seconds(group[stat] / 1e3 if stat in group else None) for stat in stats))
            for what, group in groups.items()]
    return ("latency", *stats), rows


def terminal_runs(cases):
    """The columns of the run table that fit a terminal."""
    pick = lambda row: tuple(row[index] for index in TERMINAL_COLUMNS)
    return plain(pick(RUN_COLUMNS), [pick(row) for row in runs(cases)[0]])


def plain(columns, rows):
    """For a terminal: first columns to the left, numbers to the right."""
    table = [columns, *rows]
    widths = [max(len(str(row[i])) for row in table) for i in range(len(columns))]
    numeric = [all(str(row[i])[:1].isdigit() or row[i] == form.DASH for row in rows) for i in range(len(columns))]
    lines = ["  ".join(str(cell).rjust(width) if right else str(cell).ljust(width)
                       for cell, width, right in zip(row, widths, numeric)).rstrip() for row in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
