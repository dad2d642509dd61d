"""The plots. Each function takes results and returns one Drawing, or None where there is nothing to draw."""

import math

from . import facts, form
from .data import OURS
from .svg import Drawing, clip

WIDTH = 508
WIDE = 1064  # both as wide as the page shows them, so that all text has one size
LABEL = 124  # room for a system's name
VALUE = 126  # room for a value and a note behind the longest bar
ROW = 26
BAR = 14


def name_row(drawing, y, run):
    drawing.text(LABEL - 10, y + BAR - 3, clip(run.system, 18), "name ours" if run.system in OURS else "name", "end")


def bar_css(run):
    return "bar ours" if run.system in OURS else "bar"


def ttft(case):
    """One bar a system: loading, then the prefill of the question; a hair shows fastest and slowest repeat."""
    runs = [run for run in case.runs if run.ttft_s is not None]
    longest = max((max(run.ttft_s, (run.seconds_max or 0) + (run.prefill_s or 0)) for run in runs), default=0)
    if not longest:
        return None
    ours = case.ours
    drawing = Drawing(WIDTH, f"Time to first token, {form.case_name(case)}")
    scale = (WIDTH - LABEL - VALUE) / longest
    for row, run in enumerate(runs):
        y = row * ROW + 2
        name_row(drawing, y, run)
        load = run.ttft_s - (run.prefill_s or 0)
        tip = f"{run.system}: {form.seconds(load)} loading, {form.seconds(run.prefill_s)} prefill of the question"
        drawing.rect(LABEL, y, load * scale, BAR, bar_css(run), tip)
        drawing.rect(LABEL + load * scale, y, (run.prefill_s or 0) * scale, BAR, bar_css(run) + " pale", tip)
        end = run.ttft_s
        if run.seconds_min is not None and run.seconds_max is not None:
            low, high = run.seconds_min + (run.prefill_s or 0), run.seconds_max + (run.prefill_s or 0)
            drawing.line(LABEL + low * scale, y + BAR / 2, LABEL + high * scale, y + BAR / 2, "hair")
            end = max(end, high)
        x = LABEL + end * scale + 8
        drawing.text(x, y + BAR - 3, form.seconds(run.ttft_s), "value ours" if run is ours else "value")
        gain = facts.ratio(run.ttft_s, ours.ttft_s) if ours and run is not ours else None
        if gain:
            drawing.text(WIDTH, y + BAR - 3, form.times(gain), "note", "end")
    return drawing


def throughput(case):
    """One bar a system against the limit: what the devices deliver together, measured beside that system."""
    runs = [run for run in case.runs if run.gbps is not None]
    longest = max((max(run.gbps, run.limit_gbps or 0) for run in runs), default=0)
    if not longest:
        return None
    drawing = Drawing(WIDTH, f"Throughput, {form.case_name(case)}")
    scale = (WIDTH - LABEL - VALUE) / longest
    limits = [run.limit_gbps for run in runs if run.limit_gbps]
    top = 18 if limits else 2
    for row, run in enumerate(runs):
        y = row * ROW + top
        name_row(drawing, y, run)
        drawing.rect(LABEL, y, run.gbps * scale, BAR, bar_css(run), f"{run.system}: {form.gbps(run.gbps)}")
        if run.limit_gbps:
            x = LABEL + run.limit_gbps * scale
            drawing.line(x, y - 6, x, y + ROW - 6, "limit")
        end = LABEL + run.gbps * scale
        if run.limit_gbps and end + 72 > LABEL + run.limit_gbps * scale:  # no room before the limit's line
            end = max(end, LABEL + run.limit_gbps * scale)
        drawing.text(end + 8, y + BAR - 3, form.gbps(run.gbps), "value ours" if run.system in OURS else "value")
        if run.fraction_of_limit is not None:
            drawing.text(WIDTH, y + BAR - 3, form.percent(run.fraction_of_limit), "note", "end")
    if limits:
        x = LABEL + max(limits) * scale
        drawing.text(x, 8, f"limit {form.spread(min(limits), max(limits), form.gbps)}", "limit-name", "end")
    return drawing


STRIP, STRIP_LABEL = 15, LABEL + 84


def busy(case, colours):
    """Which device was busy when; of results that do not say that, what fraction of the time."""
    return busy_over_time(case, colours) or busy_fractions(case, colours)


def busy_over_time(case, colours):
    """A lane a device, a group a system, on one axis of time, so that one sees who worked while others did not."""
    runs = [run for run in case.runs if run.busy_span_s]
    if not runs:
        return None
    longest = max(run.busy_span_s for run in runs)

    def lane(drawing, run, device, y, room):
        bins, length = [min(1, fraction) for fraction in device.busy_over_time], room * run.busy_span_s / longest
        fraction = sum(bins) / len(bins)  # of the repeat that is drawn; busy_fraction is the median of all
        drawing.rect(STRIP_LABEL, y, length, STRIP, "track",
                     f"{run.system}, {device.name}: busy {form.percent(fraction)} of {form.seconds(run.busy_span_s)}")
        draw_over_time(drawing, bins, STRIP_LABEL, y, length, STRIP, colours.css(device.name))
        return length, fraction

    lanes = [(run, run.timed_devices) for run in runs]
    return strips(f"Busy devices over time, {form.case_name(case)}", lanes, lane, longest, form.seconds)


def busy_fractions(case, colours):
    lanes = [(run, [device for device in run.devices if device.busy_fraction is not None]) for run in case.runs]
    lanes = [(run, devices) for run, devices in lanes if devices]

    def lane(drawing, run, device, y, room):
        drawing.rect(STRIP_LABEL, y, room, STRIP, "track")
        drawing.rect(STRIP_LABEL, y, room * min(1, device.busy_fraction), STRIP, colours.css(device.name),
                     f"{run.system}, {device.name}: busy {form.percent(device.busy_fraction)}")
        return room, device.busy_fraction

    return strips(f"Busy devices, {form.case_name(case)}", lanes, lane, 1, form.percent) if lanes else None


def strips(title, lanes, draw_lane, longest, mark_form):
    """The frame of both: names, the lanes with their fractions behind them, an axis from 0 to `longest`."""
    drawing, room, y = Drawing(WIDE, title), WIDE - STRIP_LABEL - 70, 4
    for run, devices in lanes:
        drawing.text(LABEL - 10, y + 12, clip(run.system, 18), "name ours" if run.system in OURS else "name", "end")
        for device in devices:
            drawing.text(STRIP_LABEL - 8, y + 12, clip(device.name, 12), "note", "end")
            length, fraction = draw_lane(drawing, run, device, y, room)
            drawing.text(STRIP_LABEL + length + 8, y + 12, form.percent(fraction), "value")
            y += STRIP + 4
        y += 10
    for mark in form.round_steps(longest):
        x = STRIP_LABEL + room * mark / longest
        drawing.line(x, y - 6, x, y - 2, "axis")
        drawing.text(x, y + 10, mark_form(mark), "note", "middle")
    return drawing


def draw_over_time(drawing, bins, x, y, width, height, css):
    step = width / len(bins)
    points = []
    for index, fraction in enumerate(bins):
        top = y + height * (1 - fraction)
        points += [(x + index * step, top), (x + (index + 1) * step, top)]
    drawing.area(points, y + height, css)


def shares(case, colours, probed):
    """Where each system's bytes came from; a notch marks where the plan puts the border."""
    runs = [run for run in case.runs if any(device.share for device in run.devices)]
    if not runs:
        return None
    width, row = WIDE, 38
    drawing = Drawing(width, f"Shares of the devices, {form.case_name(case)}")
    room, top = width - LABEL, 8
    for index, run in enumerate(runs):
        y, x, border = top + index * row, LABEL, LABEL
        drawing.text(LABEL - 10, y + 15, clip(run.system, 18), "name ours" if run.system in OURS else "name", "end")
        planned = facts.planned_shares(run, probed)
        for device in run.devices:
            length = room * min(1, device.share or 0)
            tip = f"{run.system}, {device.name}: {form.percent(device.share)} of the bytes, {form.size(device.bytes)}"
            if device.name in planned:
                tip += f"; planned {form.percent(planned[device.name])}"
            drawing.rect(x, y, max(0, length - 1.5), 22, colours.css(device.name), tip)
            if length > 130:
                words = f"{clip(device.name, 12)} {form.percent(device.share)}"
                drawing.text(x + 8, y + 15, words, "on-" + colours.css(device.name))
            elif length > 40:
                drawing.text(x + 6, y + 15, form.percent(device.share), "on-" + colours.css(device.name))
            x += length
        for name in [device.name for device in run.devices][:-1]:
            if name in planned:
                border += room * planned[name]
                drawing.line(border, y - 7, border, y - 1, "plan")
                drawing.line(border, y + 23, border, y + 29, "plan")
    return drawing


def hits(result):
    """All blocks asked for: found in the pool, stored, found no room."""
    parts = [("found in the pool", result.get("hit_blocks"), "bar ours"),
             ("computed and stored", result.get("stored_blocks"), "bar"),
             ("no room", result.get("rejected_blocks"), "bad")]
    parts = [(name, value, css) for name, value, css in parts if isinstance(value, (int, float)) and value > 0]
    total = sum(value for _, value, _ in parts)
    if not total:
        return None
    width = WIDE
    drawing, x = Drawing(width, "Blocks of the replayed trace"), 0
    for name, value, css in parts:
        length = width * value / total
        drawing.rect(x, 0, max(1.5, length - 1.5), 22, css, f"{name}: {form.count(value)}")
        if length > 150:
            drawing.text(x, 38, f"{name} {form.percent(value / total)}", "name-left")
        x += length
    return drawing


def latency(groups):
    """Percentiles on a logarithmic axis, a row a kind of request."""
    groups = {what: {stat: value for stat, value in stats.items() if value > 0} for what, stats in groups.items()}
    groups = {what: stats for what, stats in groups.items() if stats}
    if not groups:
        return None
    values = [value for stats in groups.values() for value in stats.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    high = max(high, low + 1)
    width, label, row = WIDE, 150, 44
    drawing = Drawing(width, "Latencies")
    room, bottom = width - label - 40, len(groups) * row + 6
    for power in range(low, high + 1):
        x = label + room * (power - low) / (high - low)
        drawing.line(x, 4, x, bottom, "grid")
        drawing.text(x, bottom + 14, form.seconds(10.0 ** power / 1e3), "note", "middle")
    for index, (what, stats) in enumerate(groups.items()):
        y = index * row + 26
        drawing.text(label - 12, y + 4, clip(what.replace("_", " "), 20), "name", "end")
        order = sorted(stats, key=lambda stat: stats[stat])
        place = {stat: label + room * (math.log10(stats[stat]) - low) / (high - low) for stat in order}
        drawing.line(place[order[0]], y, place[order[-1]], y, "axis")
        last = -1e9
        for stat in order:
            drawing.circle(place[stat], y, 4.5, "dot", f"{stat} {form.seconds(stats[stat] / 1e3)}")
            if place[stat] - last > 34:  # labels must not run into each other; the tip still has the number
                drawing.text(place[stat], y - 9, stat, "note", "middle")
                last = place[stat]
    return drawing
