"""The page of bench/ttft.py: time to first token over the length of the context, one plot a model, both axes logarithmic."""

import itertools
import math
import pathlib
import statistics
from html import escape

from . import form
from .data import items, number, text
from .page import html_table, section
from .svg import Drawing, clip

GPU = "GPU's own cache"  # drawn as if it were a system
# name: (words, colour and dashes)
SYSTEMS = {
    "none": ("no cache: computed", "ink"),
    "vllm-disk": ("vLLM, files", "s5 dashed"),
    "vllm-memory": ("vLLM, host memory", "s5"),
    "lmcache-memory": ("LMCache, host memory", "s3"),
    "kvpool-disk": ("kvpool, disk", "s0"),
    "kvpool-spill": ("kvpool, memory, the rest on disk", "s2 dashed"),
    "kvpool-both": ("kvpool, memory and disk", "s2"),
    "kvpool-capped": ("kvpool, half on two of 13 GB/s", "s4"),
    "kvpool-verified": ("kvpool, memory, all verified", "ours dashed"),
    "kvpool-memory": ("kvpool, memory", "ours"),
    GPU: (GPU, "soft dashed"),
}
WIDTH, HEIGHT, LEFT, RIGHT, ROW = 1064, 440, 64, 250, 17
MARKS = (1, 2, 5)
TITLE = "kvpool: time to first token"


def called(system):
    return SYSTEMS.get(system, (system,))[0]


class Point:
    """What one system gave at one length. seconds, low, high: of what is drawn; None where it was not measured."""

    def __init__(self, system, figures):
        self.figures = figures
        phases = {"none": ("cold", "again"), GPU: ("gpu",)}.get(system, ("again",))  # without a cache both are computed
        found = [value for figure in figures for phase in phases if (value := number(figure.get(f"{phase}_s")))]
        self.seconds, self.low, self.high = (statistics.median(found), min(found), max(found)) if found else (None, None, None)
        self.hit = phases != ("again",) or any(number(figure.get("again_cached")) for figure in figures)

    def median(self, name, per=None):
        """Of one figure, or of what it is for each of another one."""
        known = [number(figure.get(name)) / (number(figure.get(per)) or 1) for figure in self.figures
                 if number(figure.get(name)) is not None and (per is None or number(figure.get(per)))]
        return statistics.median(known) if known else None


def gather(results):
    """model -> system -> tokens -> Point; results of the same system are joined."""
    joined = {}
    for result in items(results):
        of_model = joined.setdefault(text(result.get("model")), {})
        for figure in items(result.get("figures")):
            for system in (text(result.get("system")), GPU) if number(figure.get("tokens")) else ():
                of_model.setdefault(system, {}).setdefault(figure["tokens"], []).append(figure)
    place = lambda system: list(SYSTEMS).index(system) if system in SYSTEMS else len(SYSTEMS)
    return {model: {system: {tokens: Point(system, figures) for tokens, figures in sorted(systems[system].items())}
                    for system in sorted(systems, key=place)} for model, systems in joined.items()}


def chart(model, systems):
    lines = {system: {tokens: point for tokens, point in points.items() if point.seconds} for system, points in systems.items()}
    lines = {system: points for system, points in lines.items() if points}
    if not lines:
        return None
    lengths = sorted({tokens for points in lines.values() for tokens in points})
    seconds = [bound for points in lines.values() for point in points.values() for bound in (point.low, point.high)]
    low, high = math.log(min(seconds) / 1.2), math.log(max(seconds) * 1.2)
    room, bottom = WIDTH - LEFT - RIGHT, HEIGHT - 40
    span = math.log(lengths[-1] / lengths[0]) or 1
    across = lambda tokens: LEFT + 12 + (room - 24) * math.log(tokens / lengths[0]) / span
    up = lambda value: bottom - (bottom - 8) * (math.log(value) - low) / (high - low)
    drawing = Drawing(WIDTH, f"Time to first token over the context's length, {model}")
    for power in range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1):
        for value in (mark * 10.0**power for mark in MARKS):
            if low <= math.log(value) <= high:
                drawing.line(LEFT, up(value), LEFT + room, up(value), "grid")
                drawing.text(LEFT - 8, up(value) + 4, f"{value:g}{form.THIN}s", "note", "end")
    for tokens in lengths:
        drawing.line(across(tokens), bottom, across(tokens), bottom + 5, "axis")
        drawing.text(across(tokens), bottom + 20, form.tokens(tokens), "note", "middle")
    for system, points in lines.items():
        draw_line(drawing, system, points, across, up)
    names(drawing, lines, across, up)
    return drawing


def draw_line(drawing, system, points, across, up):
    words, css = SYSTEMS.get(system, (system, "s1"))
    places = [(across(tokens), up(point.seconds)) for tokens, point in points.items()]
    for (x1, y1), (x2, y2) in itertools.pairwise(places):
        drawing.line(x1, y1, x2, y2, f"curve {css}")
    for (x, y), (tokens, point) in zip(places, points.items()):
        drawing.line(x, up(point.low), x, up(point.high), f"curve {css.split()[0]}")
        tip = f"{words}, {form.tokens(tokens)} tokens: {form.seconds(point.seconds)}, " \
              f"{form.seconds(point.low)} to {form.seconds(point.high)}{'' if point.hit else ', computed: no hit'}"
        drawing.circle(x, y, 4, f"curve {css.split()[0]}{'' if point.hit else ' hollow'}", tip)


def names(drawing, lines, across, up):
    """At the right, in the order of the lines' ends, apart from each other."""
    ends = sorted((up(list(points.values())[-1].seconds), system, list(points)[-1]) for system, points in lines.items())
    ys = [y for y, _, _ in ends]
    for index in range(1, len(ys)):
        ys[index] = max(ys[index], ys[index - 1] + ROW)
    over = max(0, ys[-1] - (HEIGHT - 44))
    for index in range(len(ys) - 1, -1, -1):  # those that were pushed out of the plot come back up
        ys[index] = min(ys[index], ys[index + 1] - ROW if index + 1 < len(ys) else ys[index] - over)
    x = WIDTH - RIGHT + 20
    for y, (end, system, tokens) in zip(ys, ends):
        words, css = SYSTEMS.get(system, (system, "s1"))
        drawing.line(across(tokens) + 7, end, x - 4, y, "grid")
        drawing.line(x, y, x + 18, y, f"curve {css}")
        drawing.text(x + 24, y + 4, clip(words, 32), "name ours" if system.startswith("kvpool") else "name")


def figures_table(found):
    columns = ("model", "tokens", "system", "cold", "again", "min \u2013 max", "GPU's own", "not computed", "cores", "kvpool's",
               "wrong pages")
    rows = []
    for model, systems in found.items():
        for system, points in systems.items():
            for tokens, point in points.items() if system != GPU else ():
                spread = f"{form.seconds(point.low)} \u2013 {form.seconds(point.high)}" if point.seconds else form.DASH
                cores = [point.median(name, "again_s") for name in ("again_cpu_s", "again_kvpool_cpu_s")]
                rows.append((model, form.count(tokens), called(system), form.seconds(point.median("cold_s")), form.seconds(point.seconds),
                             spread, form.seconds(point.median("gpu_s")), form.count(point.median("again_cached")),
                             *(form.DASH if value is None else form.digits(value) for value in cores),
                             form.count(wrong_pages(point.figures))))
    return html_table(columns, rows, {index for index, row in enumerate(rows) if row[2].startswith("kvpool")})


def wrong_pages(figures):
    return sum(number(figure.get(f"{phase}_wrong_pages")) or 0 for figure in figures for phase in ("soon", "again", "gpu"))


def mixed_table(results):
    """One row a system, for a new prompt and for one that comes again; the others' times are joined over all repeats."""
    joined = {}
    for result in items(results):
        for mixed in items(result.get("mixed")):
            times, first = mixed.get("tpot_s"), number(mixed.get("ttft_s"))
            if first and isinstance(times, list) and (times := sorted(value for value in times if number(value))):
                name = (text(result.get("model")), number(mixed.get("tokens")), text(mixed.get("phase")),
                        text(result.get("system")))  # fmt: skip
                row = joined.setdefault(name, ([], []))
                row[0].append(first)
                row[1].extend(times)
    rows = []
    for (model, tokens, phase, system), (first, times) in joined.items():
        times.sort()
        alone = joined.get((model, tokens, phase, "none"), (None, None))[1]
        ratio = form.DASH if not alone else form.digits(statistics.median(times) / statistics.median(alone), 4)
        rows.append((model, form.count(tokens), phase, called(system), form.seconds(statistics.median(first)),
                     form.seconds(statistics.median(times)), form.seconds(times[min(len(times) - 1, len(times) * 99 // 100)]),
                     ratio, form.count(len(times))))
    return html_table(("model", "tokens", "asked", "system", "TTFT", "TPOT of the others", "p99", "to no cache", "their tokens"), rows)


def machines(results):
    """What the figures are of, as far as the results say."""
    told = [result["versions"] for result in items(results) if isinstance(result.get("versions"), dict)]
    return "; ".join(sorted({", ".join(f"{text(name)}: {text(one[name])}" for name in sorted(one, key=text)) for one in told}))


def render(results):
    found = gather(results)
    wrong = sum(wrong_pages(items(result.get("figures"))) for result in items(results))
    alarm = f'<p class="alarm">{form.count(wrong)} pages came back wrong. Nothing else here matters until that is understood.</p>'
    plots = "".join(f'<figure class="wide"><h3>{escape(model)}</h3>{drawn}</figure>' for model, systems in found.items()
                    if (drawn := chart(model, systems)))
    css = (pathlib.Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    body = section("Time to first token of a context that comes again", "",
                   "Seconds over tokens, both logarithmic; medians, upright lines from the fastest to the slowest repeat. "
                   "Hollow: nothing was loaded, since that would have taken longer, or nothing was there.", plots)
    body += section("A prompt beside others that are answered", "", "TTFT: of that prompt. TPOT: what each token of "
                    "the others took, from when it came until its first token.", mixed_table(results))
    body += section("All figures", "", "Cores: processor time over the time to first token, again; of the process, and of "
                    "kvpool's own threads.", figures_table(found))
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{TITLE}</title><style>{css}</style></head>'
            f"<body><main><header><h1>{TITLE}</h1></header>{alarm if wrong else ''}{body}"
            f"<footer>Written by bench/ttft.py. {escape(machines(results))}</footer></main></body></html>\n")
