"""The page: one file, nothing loaded from anywhere, no script."""

import pathlib
from html import escape

from . import charts, facts, form, table
from .data import TODAY, items, latencies, text
from .svg import DeviceColours

TITLE = "kvpool report"
SYSTEM_WORDS = {
    "tiered-files": "today's offloading: memory first, then one file a chunk, buffered, four workers",
    "pooled-files": "spread over all devices by bandwidth, files read through the kernel's cache",
    "tiered-direct": "one device after the other, direct I/O in deep queues",
    "striped-direct": "equal shares, direct I/O in deep queues: what RAID 0 gives",
    "pooled-direct": "kvpool: spread by bandwidth, direct I/O in deep queues, every byte verified",
    "tiered-passthrough": "one device after the other, the drives' own commands in deep queues",
    "pooled-passthrough": "kvpool: spread by bandwidth, the drives' own commands, every byte verified",
}


def check_place(path, title):
    """Raises FileExistsError where a file lies that is neither empty nor an earlier page of that title."""
    if not path.is_file():
        return  # open() says what is wrong with a folder
    with open(path, "rb") as file:
        begin = file.read(1000)
    if begin and not (begin.startswith(b"<!DOCTYPE html>") and f"<title>{title}</title>".encode() in begin):
        raise FileExistsError(f"{path}: not written over, since it is no earlier page '{title}'")


def write(path, title, html):
    check_place(path, title)
    path.write_bytes(html.encode("utf-8", "replace"))


def section(title, say, how, *content):
    """A heading, what is seen, how to read it, and the plots; nothing at all without content."""
    body = "".join(str(part) for part in content if part)
    if not body:
        return ""
    say = f'<p class="say">{escape(say)}</p>' if say else ""
    how = f'<p class="how">{escape(how)}</p>' if how else ""
    return f"<section><h2>{escape(title)}</h2>{say}{how}{body}</section>"


def panels(cases, draw):
    """One small plot a case."""
    drawn = [(case, drawing) for case in cases if (drawing := draw(case))]
    figures = [f"<figure><h3>{escape(form.case_name(case))}</h3>{drawing}</figure>" for case, drawing in drawn]
    return f'<div class="panels">{"".join(figures)}</div>' if figures else ""


def wide(cases, draw, keys=""):
    """The headline's case in full width; the others folded away below it."""
    chosen = facts.headline_case(cases)
    first = chosen and draw(chosen)
    if not first:
        return ""
    html = f'<figure class="wide"><h3>{escape(form.case_name(chosen))}</h3>{first}{keys}</figure>'
    rest = [(case, drawing) for case in cases if case is not chosen and (drawing := draw(case))]
    if rest:
        html += "<details><summary>The other cases</summary>" + "".join(
            f'<figure class="wide"><h3>{escape(form.case_name(case))}</h3>{drawing}</figure>'
            for case, drawing in rest) + "</details>"
    return html


def device_keys(colours):
    swatch = '<svg viewBox="0 0 12 12" aria-hidden="true"><rect width="12" height="12" rx="2" class="{}"/></svg>'
    names = "".join(f"<li>{swatch.format(colours.css(name))}{escape(name)}</li>" for name in colours.names)
    return f'<ul class="keys">{names}</ul>' if names else ""


def tile(name, value, note):
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"


def tiles(results):
    """The four numbers that matter, each with what it is to be compared with."""
    found, case = [], facts.headline_case(results.cases)
    ours = case and case.ours
    if ours:
        today = case.run(TODAY)
        note = f"{today.system}: {form.seconds(today.ttft_s)}" if today and today.ttft_s else form.case_name(case)
        found.append(tile("Time to first token", form.seconds(ours.ttft_s), note))
        found.append(tile("Read from the pool", form.gbps(ours.gbps),
                          f"{form.percent(ours.fraction_of_limit)} of the limit, {form.gbps(ours.limit_gbps)}"))
    blocks, hits = results.replay.get("blocks"), results.replay.get("hit_blocks")
    if blocks and hits is not None:
        found.append(tile("Replay: found in the pool", form.percent(hits / blocks),
                          f"{form.count(hits)} of {form.count(blocks)} blocks"))
    wrong = facts.wrong_blocks(results)
    if wrong is not None:
        found.append(tile("Wrong blocks", form.count(wrong), "over all runs on this page"))
    return f'<dl class="tiles">{"".join(found)}</dl>' if found else ""


def html_table(columns, rows, ours=(), firsts=()):
    if not rows:
        return ""
    numeric = [all(str(row[i])[:1].isdigit() or row[i] == form.DASH for row in rows) for i in range(len(columns))]
    css = [' class="n"' if right else "" for right in numeric]
    head = "".join(f"<th{css[i]}>{escape(column)}</th>" for i, column in enumerate(columns))
    body = ""
    for index, row in enumerate(rows):
        names = " ".join(name for name, on in (("ours", index in ours), ("first", index in firsts)) if on)
        cells = "".join(f"<td{css[i]}>{escape(str(cell))}</td>" for i, cell in enumerate(row))
        body += f'<tr class="{names}">{cells}</tr>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def run_table(cases):
    rows, ours = table.runs(cases)
    firsts = {index for index in range(1, len(rows)) if rows[index][:3] != rows[index - 1][:3]}
    return html_table(table.RUN_COLUMNS, rows, ours, firsts)


def conditions(results):
    """What was measured, where, when; then what the systems are."""
    rows = list(results.conditions)
    for name, result in [("probe", results.probe), *[("bench longdoc", result) for result in results.longdoc]]:
        for key in ("measured_at", "conditions", "prefill_source"):
            if text(result.get(key)):
                rows.append((f"{name}, {key.replace('_', ' ')}", text(result[key])))
        rows += [(f"{text(out.get('system'))} left out", text(out.get("because"))) for out in items(result.get("left_out"))]
    rows = list(dict.fromkeys((text(name), text(value)) for name, value in rows))
    seen = {run.system for case in results.cases for run in case.runs}
    rows += [(system, words) for system, words in SYSTEM_WORDS.items() if system in seen]
    cells = "".join(f'<tr><td>{escape(name)}</td><td class="wrap">{escape(value)}</td></tr>' for name, value in rows)
    return f'<div class="scroll"><table><tbody>{cells}</tbody></table></div>' if rows else ""


def sections(results):
    cases, colours = results.cases, DeviceColours(results.cases, results.devices)
    spans = latencies(results.replay)
    hits, latency = charts.hits(results.replay), charts.latency(spans)
    yield section("Time to first token", facts.ttft(cases),
                  "Seconds; shorter is better; each panel has its own scale. Full colour: loading the document's KV "
                  "cache; pale: prefill of the question. The line shows the fastest and the slowest repeat; on the "
                  "right, the multiple of the pool's time.", panels(cases, charts.ttft))
    yield section("Throughput", facts.throughput(cases),
                  "GB/s (10\u2079 bytes a second) delivered to the consumer. The upright line is the limit: the sum of "
                  "the devices, measured together; on the right, the fraction of it that was reached.",
                  panels(cases, charts.throughput))
    over_time = any(device.busy_over_time for case in cases for run in case.runs for device in run.devices)
    how = "A device is busy while at least one request to it is under way; memory, while its bytes are copied. The " \
          "percentage is of the run's time."
    how += " Along the axis: the time since the first request of the median repeat; height: the part of each of " \
           "its equal pieces in which the device was busy." * over_time
    yield section("Which device was busy when" if over_time else "Which device was busy", facts.busy(facts.headline_case(cases)), how,
                  wide(cases, lambda case: charts.busy(case, colours), device_keys(colours)))
    yield section("Where the bytes lay", facts.shares(facts.headline_case(cases), results.devices),
                  "Share of the bytes that each device delivered. A notch marks the border as planned, in proportion "
                  "to the measured bandwidths.",
                  wide(cases, lambda case: charts.shares(case, colours, results.devices)))
    yield section("Replay of a trace", facts.replay(results.replay), "", hits and f'<figure class="wide">{hits}</figure>',
                  latency and f'<figure class="wide"><h3>Latency of requests, logarithmic</h3>{latency}</figure>',
                  html_table(*table.latency(spans)), html_table(("replay", "figure"), table.replay(results.replay)))
    yield section("All figures", "", table.RUN_NOTE + " Loading: median repeat. Bytes in decimal units. "
                  "CPU: user and kernel, all threads. In I/O calls: time inside I/O system calls, waits included, over all "
                  "threads. Device time: in which a storage device had something to do.", run_table(cases))
    yield section("Devices", "", "Each alone, then reading while all others read.",
                  html_table(table.PROBE_COLUMNS, table.probe(results.devices)))
    yield section("Conditions", "", "", conditions(results))


def render(results, written_at):
    wrong = facts.wrong_blocks(results)
    alarm = f'<p class="alarm">{form.count(wrong)} blocks came back wrong. Nothing else here matters until that is ' \
            "understood.</p>" if wrong else ""
    css = (pathlib.Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{TITLE}</title>'
            f"<style>{css}</style></head><body><main><header><h1>{TITLE}</h1>"
            f'<p class="lead">{escape(facts.headline(results))}</p></header>{alarm}{tiles(results)}'
            f'{"".join(sections(results))}<footer>Written {escape(written_at)} by bench/report.py from the JSON '
            "results of kvpool.</footer></main></body></html>\n")
