"""The report renders whatever results there are, says only what they hold, and lets nothing out of them run."""

import contextlib
import copy
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
BENCH = HERE.parents[1] / "bench"
sys.path.insert(0, str(BENCH))
import report
from reporting import charts, data, facts, form, page, table

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u202e' + "x" * 300
VOID = {"meta", "img", "br", "input", "link"}


class WellFormed(html.parser.HTMLParser):
    """Fails on tags that do not nest, and collects those that a report must not have."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"</{tag}> closes nothing")


def load(name):
    return json.loads((HERE / "results" / name).read_text())


def fixture(longdoc=("longdoc-llama-3.1-8b.json", "longdoc-gpt-oss-20b.json", "longdoc-qwen3-30b-a3b.json")):
    return dict(probe=load("probe.json"), longdoc=[load(name) for name in longdoc], replay=load("replay.json"),
                conditions=[("machine", "an example")])


def run(system, **numbers):
    defaults = dict(model="m", tokens=1024, concurrency=1, seconds_min=0.9, seconds_p50=1.0, seconds_max=1.1,
                    gbps=2.0, limit_gbps=4.0, fraction_of_limit=0.5, ttft_s=1.2, wrong_blocks=0, devices=[])
    return {"system": system, **defaults, **numbers}


class Page(unittest.TestCase):
    def render(self, **results):
        text = page.render(data.gather(**results), "2026-01-01")
        parser = WellFormed()
        parser.feed(text)
        self.assertEqual(parser.open, [])
        self.assertFalse(parser.tags & {"script", "img", "link", "iframe", "object"})
        self.assertFalse([name for name, _ in parser.attributes if name.startswith("on") or name in ("src", "href")])
        self.assertNotRegex(text, r"https?://|url\(|@import")
        self.assertNotRegex(text, r"\b(?:nan|inf|None)\b")
        return text

    def test_everything(self):
        text = self.render(**fixture())
        for title in ("Time to first token", "Throughput", "Which device was busy when", "Where the bytes lay",
                      "Replay of a trace", "All figures", "Devices", "Conditions"):
            self.assertIn(f"<h2>{title}</h2>", text)
        # Two panels and a table row for each case; its numbers are those of the fixture.
        self.assertEqual(text.count("<h3>qwen3-30b-a3b, 16k tokens</h3>"), 4)
        ours = next(s for s in load("longdoc-llama-3.1-8b.json")["systems"]
                    if s["system"] == "pooled-direct" and s["tokens"] == 16384)
        self.assertIn(form.gbps(ours["gbps"]), text)
        self.assertIn("105\u202f710 of 288\u202f500 blocks", text)

    def test_each_part_may_be_missing(self):
        for part in ("probe", "longdoc", "replay", "conditions"):
            with self.subTest(part):
                results = fixture()
                del results[part]
                self.render(**results)
        self.assertNotIn("<h2>", self.render())

    def test_empty_lists_and_wrong_types(self):
        for systems in ([], None, "no", [1, None, []], [{}], [run("x", devices=None)], [run(None, gbps="fast")],
                        [run("pooled-direct", devices=[{}, 3], ttft_s=None, tokens=None, seconds_p50=-1)]):
            with self.subTest(systems=systems):
                self.render(longdoc=[{"systems": systems}])
        self.render(probe={"devices": {}}, longdoc=[{}], replay={"blocks": 0, "hit_blocks": 0, "seconds": "x"})
        self.render(longdoc=[{"systems": [run("pooled-direct", gbps=float("nan"), ttft_s=float("inf"))]}])

    def test_every_field_of_every_run_may_be_missing_or_zero(self):
        whole = load("longdoc-gpt-oss-20b.json")
        for key in whole["systems"][0]:
            for value in (None, 0, []):
                with self.subTest(key=key, value=value):
                    broken = copy.deepcopy(whole)
                    for system in broken["systems"]:
                        system[key] = value
                    self.render(longdoc=[broken])

    def test_hostile_names_stay_text(self):
        results = fixture()
        for result in results["longdoc"]:
            for system in result["systems"]:
                system["model"] = HOSTILE
                for device in system["devices"]:
                    device["name"] = HOSTILE
            result["systems"].append(run(HOSTILE))
            result["prefill_source"] = HOSTILE
        results["probe"]["conditions"] = HOSTILE
        results["replay"]["<b>_us_p50"] = 1
        results["conditions"] = [(HOSTILE, HOSTILE)]
        self.assertIn("&lt;script&gt;", self.render(**results))

    def test_busy_over_time_is_drawn_where_the_results_have_it(self):
        timed = load("longdoc-gpt-oss-20b.json")  # the other fixtures are of before there was such a thing
        lanes = sum(len(system["devices"]) for system in timed["systems"])
        self.assertEqual(self.render(**fixture()).count("<polygon"), lanes)
        self.assertIn("Which device was busy when", self.render(longdoc=[timed]))
        untimed = self.render(**fixture(["longdoc-qwen3-30b-a3b.json"]))
        self.assertNotIn("<polygon", untimed)
        self.assertIn("<h2>Which device was busy</h2>", untimed)

    def test_broken_busy_over_time(self):
        whole = load("longdoc-gpt-oss-20b.json")
        for bins in (None, [], "no", 3, [None], [1, "x"], [float("nan")], [-1], [7], [0] * 61, {"a": 1}):
            for span in (None, 0, -1, [], "1", 0.002):
                with self.subTest(bins=bins, span=span):
                    broken = copy.deepcopy(whole)
                    for index, system in enumerate(broken["systems"]):
                        system["busy_bin_s"] = span
                        for device in system["devices"][index % 2:]:
                            device["busy_over_time"] = bins
                    self.render(longdoc=[broken])

    def test_wrong_blocks_are_shouted(self):
        self.assertNotIn('class="alarm"', self.render(**fixture()))
        text = self.render(longdoc=[{"systems": [run("pooled-direct", wrong_blocks=3)]}])
        self.assertIn('<p class="alarm">3 blocks came back wrong', text)


class BusyOverTime(unittest.TestCase):
    class Colours:
        @staticmethod
        def css(name):
            return "d0"

    def case(self, *runs):
        return data.gather(longdoc=[{"systems": list(runs)}]).cases[0]

    def timed(self, system, bin_s, *lanes):
        devices = [dict(name=f"device{i}", busy_fraction=0.9, busy_over_time=lane) for i, lane in enumerate(lanes)]
        return run(system, busy_bin_s=bin_s, devices=devices)

    def polygons(self, drawing):
        """The corners of each area."""
        return [[tuple(map(float, corner.split(","))) for corner in points.split()]
                for points in re.findall(r'<polygon points="([^"]*)"', str(drawing))]

    def test_all_systems_share_one_axis_of_time(self):
        drawing = charts.busy(self.case(self.timed("tiered-files", 0.5, [1, 1, 0, 0], [0, 0, 1, 1]),
                                        self.timed("pooled-direct", 0.25, [1, 1, 1, 1], [1, 0.5, 1, 1])), self.Colours)
        areas = self.polygons(drawing)
        self.assertEqual(len(areas), 4)
        spans = [(min(x for x, _ in area), max(x for x, _ in area)) for area in areas]
        left, room = spans[0][0], spans[0][1] - spans[0][0]
        for (begin, end), part in zip(spans, (1, 1, 0.5, 0.5)):  # 2 s and 1 s
            self.assertAlmostEqual(begin, left, delta=0.1)
            self.assertAlmostEqual(end - begin, part * room, delta=0.1)
        # One after the other: the first lane's area has height in the first half of its time, the second's after.
        for area, busy_half in zip(areas[:2], (0, 1)):
            base = max(y for _, y in area)
            high = [x for x, y in area if y < base - 1]
            self.assertAlmostEqual(min(high), left + busy_half * room / 2, delta=0.1)
            self.assertAlmostEqual(max(high), left + (busy_half + 1) * room / 2, delta=0.1)
        half = sorted(y for _, y in areas[3])
        self.assertAlmostEqual(max(half) - min(half), charts.STRIP, delta=0.1)
        self.assertIn(f"2.00{form.THIN}s", str(drawing))

    def test_the_percentage_is_that_of_the_repeat_that_is_drawn(self):
        drawing = str(charts.busy(self.case(self.timed("pooled-direct", 1, [1, 0], [1, 0.5])), self.Colours))
        self.assertIn(f">50{form.THIN}%<", drawing)
        self.assertIn(f">75{form.THIN}%<", drawing)
        self.assertNotIn(f">90{form.THIN}%<", drawing)

    def test_a_run_without_it_is_left_out_beside_one_with_it(self):
        drawing = charts.busy(self.case(self.timed("pooled-direct", 1, [1, 0], [1, 0.5]),
                                        run("tiered-files", devices=[dict(name="a", busy_fraction=0.4)])), self.Colours)
        self.assertEqual(len(self.polygons(drawing)), 2)
        self.assertNotIn("tiered-files", str(drawing))

    def test_lanes_of_other_lengths_are_not_of_the_same_time(self):
        drawing = charts.busy(self.case(self.timed("pooled-direct", 1, [1, 0], [1, 0.5, 1, 1])), self.Colours)
        self.assertEqual(len(self.polygons(drawing)), 1)

    def test_older_results_have_fractions(self):
        drawing = charts.busy(self.case(run("tiered-files", devices=[dict(name="a", busy_fraction=0.4)])), self.Colours)
        self.assertEqual(self.polygons(drawing), [])
        self.assertIn(f">40{form.THIN}%<", str(drawing))
        self.assertIsNone(charts.busy(self.case(run("tiered-files", devices=[dict(name="a")])), self.Colours))

    def test_how_much_was_at_once_is_never_flattering(self):
        tiered = self.timed("tiered-files", 1, [1, 0.4, 0, 0], [0, 0.5, 1, 1])
        pooled = self.timed("pooled-direct", 1, [1, 1, 0.5, 1], [1, 1, 0.9, 1])
        least, most = facts.at_once(self.case(pooled).runs[0])
        self.assertAlmostEqual(least, 0.85)
        self.assertAlmostEqual(most, 0.875)
        self.assertEqual(facts.busy(self.case(tiered, pooled)), "pooled-direct had all devices at work at once for at "
                         f"least 85{form.THIN}% of the time, tiered-files for at most 10{form.THIN}%.")
        pooled["devices"].append(dict(name="c", busy_fraction=0.5))  # of which it is not known
        self.assertIsNone(facts.at_once(self.case(pooled).runs[0]))


class Facts(unittest.TestCase):
    def cases(self, *runs):
        return data.gather(longdoc=[{"systems": list(runs)}]).cases

    def test_a_lost_race_is_said(self):
        cases = self.cases(run("pooled-direct", ttft_s=2.0, seconds_min=1.9, seconds_max=2.1),
                           run("tiered-files", ttft_s=1.0))
        self.assertEqual(facts.ttft(cases), "pooled-direct was first in none of 1 cases. At m, 1k tokens it is slower "
                         "than the best of the others, tiered-files (2.0\u00d7 its time).")

    def test_a_win_within_the_noise_is_called_so(self):
        cases = self.cases(run("pooled-direct", ttft_s=1.0), run("tiered-files", ttft_s=1.1))
        self.assertIn("within the noise", facts.ttft(cases))
        cases = self.cases(run("pooled-direct", seconds_min=0.1, seconds_max=0.2, ttft_s=0.2), run("tiered-files"))
        self.assertNotIn("noise", facts.ttft(cases))
        self.assertIn("6.0\u00d7 as fast as today's way", facts.headline(data.gather(longdoc=[{"systems": [
            run("pooled-direct", seconds_min=0.1, seconds_max=0.2, ttft_s=0.2), run("tiered-files")]}])))

    def test_passthrough_speaks_for_the_pool_where_there_is_one(self):
        runs = [run("tiered-files", ttft_s=4.0, io_calls=176, device_s=0.5, cpu_system_s=0.25), run("pooled-direct", ttft_s=2.0),
                run("pooled-passthrough", ttft_s=1.0, fraction_of_limit=0.9)]
        cases = self.cases(*runs)
        self.assertTrue(facts.ttft(cases).startswith("pooled-passthrough was first in the one case. "))
        self.assertIn("pooled-passthrough reached 90", facts.throughput(cases))
        left_out = [{"system": "striped-direct", "because": "no such device"}]
        text = page.render(data.gather(longdoc=[{"systems": runs, "left_out": left_out}]), "2026-01-01")
        self.assertIn("the drives' own commands, every byte verified", text.replace("&#x27;", "'"))
        self.assertIn("striped-direct left out</td>", text)
        rows, _ = table.runs(cases)
        self.assertEqual([row[3] for row in rows], ["tiered-files", "pooled-direct", "pooled-passthrough"])
        cell = dict(zip(table.RUN_COLUMNS, rows[0]))
        self.assertEqual((cell["I/O calls"], cell["device time"], cell["kernel CPU"]),
                         ("176", f"0.500{form.THIN}s", f"0.250{form.THIN}s"))

    def test_planned_shares_come_from_the_run_or_else_from_the_profile(self):
        devices = [dict(name="a", share=0.7), dict(name="b", share=0.3)]
        probed = data.read_probe({"devices": [dict(name="a", read_bytes_per_second=3e9), dict(name="b", read_gbps=1)]})
        pooled, striped = self.cases(run("pooled-files", devices=devices), run("striped-direct", devices=devices))[0].runs
        self.assertEqual(facts.planned_shares(pooled, probed), {"a": 0.75, "b": 0.25})
        self.assertEqual(facts.planned_shares(striped, probed), {})
        devices[0]["planned_share"] = 0.6
        self.assertEqual(facts.planned_shares(self.cases(run("pooled-files", devices=devices))[0].runs[0], probed),
                         {"a": 0.6})

    def test_a_zero_in_a_profile_was_not_measured(self):
        device, = data.read_probe({"devices": [dict(name="a", read_bytes_per_second=2e9, together_bytes_per_second=0,
                                                    read_latency_ns=1500, write_latency_ns=0)]})
        self.assertEqual((device.read, device.together, device.read_latency_us, device.write_latency_us),
                         (2e9, None, 1.5, None))

    def test_replay_latencies_of_either_spelling(self):
        found = data.latencies({"retrieve_us_p50": 1500, "store_p99_ms": 2, "seconds": 3, "x_us_p50": "no"})
        self.assertEqual(found, {"retrieve": {"p50": 1.5}, "store": {"p99": 2.0}})
        self.assertIsNone(charts.latency({"retrieve": {"p50": 0}}))


class Forms(unittest.TestCase):
    def test_three_digits_and_a_unit(self):
        cases = [(form.seconds, 0.000864, "864 \u00b5s"), (form.seconds, 0.0732, "73.2 ms"),
                 (form.seconds, 2.6649, "2.66 s"), (form.seconds, 0, "0 s"), (form.seconds, 600, "10.0 min"),
                 (form.gbps, 3.3749, "3.37 GB/s"), (form.gbps, 1234.5, "1 234 GB/s"), (form.size, 3463905280, "3.46 GB"),
                 (form.size, 12, "12 B"), (form.percent, 0.917, "92 %"), (form.percent, 0.0314, "3.1 %"),
                 (form.tokens, 16384, "16k"), (form.tokens, 1000, "1 000"), (form.times, 3.96, "4.0\u00d7"),
                 (form.digits, 9.999, "10.0"), (form.seconds, None, form.DASH), (form.size, None, form.DASH)]
        for shape, value, words in cases:
            self.assertEqual(shape(value).replace(form.THIN, " "), words)

    def test_round_steps(self):
        self.assertEqual(form.round_steps(2.64), [0, 1.0, 2.0])
        self.assertEqual(form.round_steps(1), [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0])


class Command(unittest.TestCase):
    def call(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = report.main([str(argument) for argument in arguments])
            except SystemExit as end:
                status = end.code
        return status, out.getvalue(), err.getvalue()

    def refused(self, kind, result, *words):
        """Exit status 2, one line that names the file and has the words, and no page."""
        with tempfile.TemporaryDirectory() as folder:
            file, target = pathlib.Path(folder, "given.json"), pathlib.Path(folder, "r.html")
            file.write_text(result if isinstance(result, str) else json.dumps(result))
            status, out, err = self.call(f"--{kind}", file, "--output", target)
            self.assertEqual((status, out, err.count("\n"), target.exists()), (2, "", 1, False), err)
            for word in (str(file), *words):
                self.assertIn(word, err)

    def test_without_results_nothing_is_written(self):
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder, "r.html")
            status, _, err = self.call("--condition", "a=b", "--output", target)
            self.assertEqual((status, target.exists()), (2, False))
            self.assertIn("--longdoc", err)

    def test_only_an_earlier_page_is_written_over(self):
        with tempfile.TemporaryDirectory() as folder:
            probe, target = pathlib.Path(folder, "probe.json"), pathlib.Path(folder, "there")
            shutil.copy(HERE / "results/probe.json", probe)
            for content in ("[pool]\n", "<!DOCTYPE html><title>another page</title>", "about <title>kvpool report</title>"):
                target.write_text(content)
                status, _, err = self.call("--probe", probe, "--output", target)
                self.assertEqual((status, target.read_text()), (2, content))
                self.assertIn(str(target), err)
            target.write_text("")
            for _ in range(2):  # an empty file, then the page that was made of it
                self.assertEqual(self.call("--probe", probe, "--output", target)[0], 0)
                self.assertIn("<h1>kvpool report</h1>", target.read_text())
            self.assertEqual(self.call("--probe", probe, "--output", probe)[0], 2)
            self.assertEqual(json.loads(probe.read_text()), load("probe.json"))
            self.assertEqual(self.call("--probe", probe, "--output", folder)[0], 2)

    def test_another_kind_of_result_is_refused(self):
        for kind, wanted in (("probe", "devices is missing"), ("longdoc", "systems is missing"), ("replay", "requests is missing")):
            for name in ("probe.json", "longdoc-gpt-oss-20b.json", "replay.json"):
                if not name.startswith(kind):
                    with self.subTest(kind=kind, name=name):
                        self.refused(kind, load(name), wanted, "is wanted")

    def test_what_is_wrong_in_a_result_is_named(self):
        def broken(name, change):
            result = load(name)
            change(result)
            return result

        longdoc = "longdoc-gpt-oss-20b.json"
        for kind, name in (("probe", "probe.json"), ("longdoc", longdoc), ("replay", "replay.json")):
            self.refused(kind, broken(name, lambda result: result.update(schema_version=9)), "schema_version is 9: 1 is wanted")
            self.refused(kind, '{"schema_version": 1, "x": NaN}', "NaN")
            self.refused(kind, "[" * 100_000)
        self.refused("replay", json.dumps(load("replay.json") | {"blocks": 288}).replace(": 288,", ": 1e999,"), "blocks is inf")
        for value in ("x", -1, True, [], 10**400):
            self.refused("longdoc", broken(longdoc, lambda result, value=value: result["systems"][1].update(gbps=value)),
                         "systems[1].gbps is", "a number of 0 or more is wanted")  # fmt: skip
        self.refused("longdoc", broken(longdoc, lambda result: result["systems"][0].update(ttft_s="x")), "systems[0].ttft_s is 'x'")
        self.refused("longdoc", broken(longdoc, lambda result: result["systems"][0]["devices"][1].update(busy_over_time=[1, "x"])),
                     "systems[0].devices[1].busy_over_time is")  # fmt: skip
        for systems, said in (([], "empty"), ([3], "something else"), ({}, "something else"), (None, "something else")):
            self.refused("longdoc", {"schema_version": 1, "systems": systems}, f"systems is {said}: a list of objects is wanted")
        self.refused("probe", broken("probe.json", lambda result: result["devices"][0].update(read_bytes_per_second="fast")),
                     "devices[0].read_bytes_per_second is 'fast'")  # fmt: skip
        self.refused("replay", broken("replay.json", lambda result: result.update(hit_blocks="x")), "hit_blocks is 'x'")
        self.refused("replay", broken("replay.json", lambda result: result.update(store_ms_p50="x")), "store_ms_p50 is 'x'")

    def test_nulls_are_as_the_tools_write_them(self):
        with tempfile.TemporaryDirectory() as folder:
            replay, longdoc = pathlib.Path(folder, "a.json"), pathlib.Path(folder, "b.json")
            replay.write_text(json.dumps(load("replay.json") | {"store_ms_p50": None}))
            runs = load("longdoc-gpt-oss-20b.json")
            runs["systems"][0] |= {"device_s": None, "blocked_s": None, "io_calls": None}
            longdoc.write_text(json.dumps(runs))
            target = pathlib.Path(folder, "r.html")
            self.assertEqual(self.call("--replay", replay, "--longdoc", longdoc, "--output", target)[0], 0)

    def test_writes_the_page_and_prints_the_table(self):
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder) / "r.html"
            status, out, _ = self.call("--longdoc", HERE / "results/longdoc-llama-3.1-8b.json", "--output", target)
            self.assertEqual(status, 0)
            self.assertIn("kvpool report", target.read_text())
            self.assertEqual(len(re.findall(r"^llama-3.1-8b +16k ", out, re.MULTILINE)), 5)

    def test_bad_input_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            bad = pathlib.Path(folder) / "bad.json"
            for content in ("{", "[]", ""):
                bad.write_text(content)
                status, _, err = self.call("--replay", bad, "--output", pathlib.Path(folder) / "r.html")
                self.assertEqual(status, 2)
                self.assertIn("bad.json", err)
            self.assertEqual(self.call("--probe", "/nonexistent.json")[0], 2)

    def test_wrong_blocks_are_an_exit_status(self):
        with tempfile.TemporaryDirectory() as folder:
            result = pathlib.Path(folder) / "a.json"
            devices = [dict(name="a", bytes=1, share=1)]
            result.write_text(json.dumps({"schema_version": 1, "systems": [run("pooled-direct", wrong_blocks=1, devices=devices)]}))
            self.assertEqual(self.call("--longdoc", result, "--output", pathlib.Path(folder) / "r.html")[0], 1)


class WrongOptions(unittest.TestCase):
    """Of the other benches: said before anything is measured, in a line and with exit status 2."""

    def test_each_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            for line, named in ((f"bars.py --path {folder} --pairs 0", "--pairs: '0'"),
                                (f"bars.py --path {folder} --only x", "--only: x"),
                                (f"bars.py --path {folder}/no", "--path"), (f"bars.py --path {folder} --kvpool no", "--kvpool no"),
                                (f"lmcache_bars.py --path {folder}/no", "--path"), (f"lmcache_bars.py --path {folder} --kib x", "--kib"),
                                (f"lmcache_bars.py --path {folder} --kib 16388", "at most 16384"),
                                (f"lmcache_bars.py --path {folder} --adapters x", "--adapters: x"),
                                (f"lmcache_bars.py --path {folder} --memory --lmcache no", "no command no"),
                                (f"vllm_bars.py --path {folder}/no", "--path"), ("vllm_bars.py --rounds 0", "at least 1"),
                                ("python_overhead.py --x", "--x"), ("ttft_engine.py", "usage"),
                                ("ttft_engine.py {}", "usage")):  # fmt: skip
                with self.subTest(line):
                    done = subprocess.run([sys.executable, "-B", BENCH / line.split()[0], *line.split()[1:]],
                                          capture_output=True, text=True, check=False)  # fmt: skip
                    self.assertEqual((done.returncode, done.stdout), (2, ""))
                    self.assertIn(named, done.stderr.splitlines()[-1])
                    self.assertNotIn("Traceback", done.stderr)
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [])


class Demo(unittest.TestCase):
    """demo.sh with a kvpool that takes a trace whose first line is good."""

    KVPOOL = '#!/bin/sh\n[ "$1" != replay ] || exec grep -q good "$2"\necho tried >>calls\nexit 2\n'

    def setUp(self):
        own = tempfile.TemporaryDirectory()
        self.addCleanup(own.cleanup)
        self.root = pathlib.Path(own.name)
        self.results = self.root / "build/demo-results/probe.json"
        self.results.parent.mkdir(parents=True)
        (self.root / "bench").mkdir()
        shutil.copy(BENCH / "demo.sh", self.root / "bench")
        for name, content in (("kvpool", self.KVPOOL), ("good", "good\n"), ("bad", "bad\n")):
            (self.root / name).write_text(content)
        (self.root / "kvpool").chmod(0o755)
        (self.root / "bin").mkdir()
        for name, does in (("df", f"echo {64 << 30}"), ("awk", f"echo {64 << 20}"), ("cat", "exit 1")):  # a machine that has enough
            (self.root / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
            (self.root / "bin" / name).chmod(0o755)

    def run_it(self, trace):
        """What it says, and whether it came as far as to measure. It ends there, with 2 as ever."""
        self.results.parent.mkdir(exist_ok=True)
        self.results.write_text("earlier")
        environment = {"KVPOOL": str(self.root / "kvpool"), "PATH": f"{self.root}/bin:/usr/bin:/bin"}
        done = subprocess.run([self.root / "bench/demo.sh", trace], cwd=self.root, env=environment, capture_output=True,
                              text=True, check=False)  # fmt: skip
        self.assertEqual(done.returncode, 2)
        measured = (self.root / "calls").exists()
        self.assertEqual(self.results.read_text(), "" if measured else "earlier")
        return done.stderr, measured

    def test_a_trace_that_is_none_is_found_first_and_results_stay(self):
        for trace, said in (("/nope", "no trace at /nope"), (".", ". is no file"), ("bad", "cannot be replayed")):
            with self.subTest(trace):
                words, measured = self.run_it(trace)
                self.assertIn(said, words)
                self.assertFalse(measured)
        self.assertTrue(self.run_it("good")[1])

    def test_a_page_that_is_another_is_found_first(self):
        page_file = self.root / "kvpool-report.html"
        title = "<title>kvpool report</title>"
        for content, measured in (("mine", False), (title, False), (f"<!DOCTYPE html>{title}", True), ("", True)):
            with self.subTest(content):
                page_file.write_text(content)
                (self.root / "calls").unlink(missing_ok=True)
                self.assertEqual(self.run_it("good")[1], measured)
                self.assertEqual(page_file.read_text(), content)


class Tables(unittest.TestCase):
    def test_ours_are_marked(self):
        rows, ours = table.runs(data.gather(longdoc=[{"systems": [run("pooled-direct"), run("tiered-files")]}]).cases)
        self.assertEqual([row[3] for row in rows], ["tiered-files", "pooled-direct"])
        self.assertEqual(ours, {1})


if __name__ == "__main__":
    unittest.main()
