"""bench/ttft.py without an engine: what it makes of figures, and the page that it draws."""

import contextlib
import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "bench"), str(HERE)]
import ttft
import ttft_engine
from report_test import HOSTILE, WellFormed
from reporting import first_tokens


def figure(tokens=16384, again=0.1, cached=16128, **more):
    return {"tokens": tokens, "cold_s": 0.5, "again_s": again, "again_cached": cached, "gpu_s": 0.02, "again_cpu_s": 0.2,
            "again_kvpool_cpu_s": 0.05, "again_bytes": 2 * 10**9, "again_wrong_pages": 0, "again_same": True, **more}  # fmt: skip


def result(system="kvpool-memory", figures=(), mixed=(), model="m"):
    return {"model": model, "system": system, "link_gbps": 50.0, "figures": list(figures), "mixed": list(mixed)}


class Page(unittest.TestCase):
    def render(self, results):
        made = first_tokens.render(results)
        parser = WellFormed()
        parser.feed(made)
        self.assertEqual(parser.open, [])
        self.assertFalse(parser.tags & {"script", "img", "link", "iframe", "object"})
        self.assertNotRegex(made, r"\b(?:nan|inf|None)\b")
        return made

    def test_a_plot_a_model_and_a_line_a_system(self):
        lengths = (16384, 32768, 131072)
        results = [result(system, [figure(tokens, again=tokens / 1e5) for tokens in lengths], model=model)
                   for model in ("one", "two") for system in ttft_engine.systems(pathlib.Path(), 40, 30, 0)]  # fmt: skip
        made = self.render(results)
        self.assertEqual(made.count("<figure"), 2)
        for words, _ in first_tokens.SYSTEMS.values():
            self.assertIn(f">{words.replace(chr(39), '&#x27;')}</text>", made)
        self.assertIn("128k", made)

    def test_runs_of_a_system_are_joined(self):
        runs = [result(figures=[figure(again=0.1)]), result(figures=[figure(again=0.3), figure(again=0.2)])]
        point = first_tokens.gather(runs)["m"]["kvpool-memory"][16384]
        self.assertEqual((point.low, point.seconds, point.high), (0.1, 0.2, 0.3))
        self.assertIn("all verified", self.render([*runs, result("kvpool-verified", [figure()])]))

    def test_without_a_cache_again_is_computed_as_cold_is(self):
        point = first_tokens.gather([result("none", [figure(again=0.7, cached=0)])])["m"]["none"][16384]
        self.assertEqual((point.low, point.high, point.hit), (0.5, 0.7, True))

    def test_what_was_not_loaded_is_hollow(self):
        self.assertIn("hollow", self.render([result("kvpool-disk", [figure(cached=0)])]).split("</style>")[1])
        self.assertNotIn("hollow", self.render([result("kvpool-disk", [figure()])]).split("</style>")[1])

    def test_others_beside_a_new_prompt_are_compared(self):
        def beside(seconds, phase="cold"):
            return {"tokens": 131072, "phase": phase, "ttft_s": 10.0, "tpot_s": [seconds] * 30}

        made = self.render([result(mixed=[beside(1.03), beside(0.5, "again")]), result("none", mixed=[beside(1.0)])])
        self.assertIn("1.030", made)
        self.assertIn("<td>again</td>", made)
        self.assertNotIn("0.5000", made)  # nothing to compare it with

    def test_it_says_what_it_is_of(self):
        made = self.render([result(figures=[figure()]) | {"versions": {"vllm": "0.26.0", "device": "H<100>"}}])
        self.assertIn("device: H&lt;100&gt;, vllm: 0.26.0", made)
        self.assertIn("<td>kvpool, memory</td>", made)

    def test_wrong_pages_are_an_alarm(self):
        self.assertIn("3 pages came back wrong", self.render([result(figures=[figure(again_wrong_pages=3)])]))

    def test_whatever_comes_in_is_drawn_or_left_out(self):
        figures = ([{}, None, {"tokens": "x"}], [{"tokens": 5}], [figure(again=0)], [figure(again=float("nan"))])
        mixes = ([{}, {"tpot_s": [None]}], [{"tokens": [], "ttft_s": 1, "tpot_s": [1]}])
        for broken in ([], [None], [{}], [result(HOSTILE, [figure()], model=HOSTILE)],
                       *([result(figures=some)] for some in figures), *([result(mixed=some)] for some in mixes)):  # fmt: skip
            with self.subTest(broken):
                self.render(broken)


def command(*arguments):
    """The exit status, and what it says of errors."""
    with mock.patch.object(sys, "argv", ["ttft.py", *arguments]), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return ttft.main(), said.getvalue()
        except SystemExit as end:
            return end.code, said.getvalue()


class Command(unittest.TestCase):
    def test_hits_are_told_from_what_was_computed(self):
        self.assertEqual(ttft.hit([figure(cached=0)]), "no hit")
        self.assertEqual(ttft.hit([figure(), figure()]), "16128 not computed")
        self.assertEqual(ttft.hit([figure(), figure(), figure(cached=0)]), "16128 not computed, hit in 2 of 3")

    def test_cores(self):
        self.assertEqual(ttft.cores([figure()], 50), "; 2.00 cores, of them kvpool's 0.50 (1.25 at the link's rate)")
        self.assertEqual(ttft.cores([figure(again_bytes=0)], 50), "; 2.00 cores")

    def test_plots_are_made_of_files(self):
        with tempfile.TemporaryDirectory() as folder:
            page, files = pathlib.Path(folder) / "p.html", [pathlib.Path(folder) / name for name in ("a.json", "b.json")]
            for file, system, wrong in zip(files, ("none", "kvpool-memory"), (0, 1)):
                file.write_text(json.dumps([result(system, [figure(again_wrong_pages=wrong)])]))
            for given, status in ((files[:1], 0), (files, 1)):
                self.assertEqual(command("--plot", str(page), *map(str, given))[0], status)
            self.assertIn("kvpool, memory", page.read_text())

    def test_what_is_no_result_is_named_and_nothing_is_drawn(self):
        with tempfile.TemporaryDirectory() as folder:
            page, file = pathlib.Path(folder) / "p.html", pathlib.Path(folder) / "r.json"
            for content in (b"{", b"", b"\xff\x00", b'{"a": 1}', b'[{"model": "m"}]', b"[3]", b'[{"model": "m", "mixed": [], "figures": [3]}]', None):
                file.unlink(missing_ok=True)
                if content is not None:
                    file.write_bytes(content)
                status, said = command("--plot", str(page), str(file))
                self.assertEqual((status, said.count("\n")), (2, 1), said)
                self.assertIn(str(file), said)
            file.write_text("[]")
            self.assertEqual(command("--plot", str(page), str(file)), (2, "ttft: there is no result\n"))
            self.assertFalse(page.exists())

    def test_wrong_options_end_it_before_an_engine_starts(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, config in (("m", '{"max_position_embeddings": 131072}'), ("cut", '{"a": '), ("list", "[]"),
                                 ("long", '{"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "yarn", "factor": 32}}')):
                pathlib.Path(folder, name).mkdir()
                pathlib.Path(folder, name, "config.json").write_text(config)
            other = pathlib.Path(folder, "other")
            other.write_text("mine")
            right = {"--models": folder, "--path": folder, "--model": "m", "--systems": "none"}
            wrong = [("--path", f"{folder}/no"), ("--path", str(other)), ("--model", "../m"), ("--model", "no"), ("--model", "cut"),
                     ("--model", "list"), ("--model", ","), ("--systems", ""), ("--repeats", "0"), ("--turns", "x"),
                     ("--tokens", "5,-1"), ("--tokens", "5,131072"), ("--json", f"{folder}/no/r.json"), ("--json", folder),
                     ("--json", str(other)), ("--plot", folder), ("--plot", str(other)), ("--timeout-s", "-1"),
                     ("--timeout-s", "nan"), ("--gpu-memory", "nan"), ("--gpu-memory", "90"), ("--dtype", "x"),
                     ("--probe", "/nope"), ("--memory-gib", "1.5")]  # fmt: skip
            for name, value in wrong:
                with self.subTest(name, value=value), mock.patch.object(importlib.util, "find_spec"), \
                        mock.patch.object(subprocess, "run", side_effect=AssertionError("started")):  # fmt: skip
                    status, said = command(*(f"{key}={text}" for key, text in (right | {name: value}).items()))
                    self.assertEqual(status, 2)
                    self.assertIn(name, said.splitlines()[-1])
            self.assertEqual(other.read_text(), "mine")
            for more in ({}, {"--model": "long"}, {"--tokens": "131056"}):  # none of which is wrong
                with mock.patch.object(importlib.util, "find_spec", return_value=None):
                    self.assertIn("has no vLLM", command(*(f"{key}={text}" for key, text in (right | more).items()))[1])

    def test_what_is_read_is_not_written_over(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "r.json")
            file.write_text(json.dumps([result("none", [figure()])]))
            for name in ("--plot", "--json"):
                status, said = command("--plot", f"{folder}/p.html", name, str(file), str(file))
                self.assertEqual((status, json.loads(file.read_text())[0]["system"]), (2, "none"))
                self.assertIn(f"{name} {file}: it is one of the results", said)

    def test_a_page_that_cannot_be_written_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "r.json")
            file.write_text(json.dumps([result("none", [figure()])]))
            status, said = command("--plot", "/dev/full", str(file))
            self.assertEqual((status, said.count("\n")), (2, 1), said)

    def test_what_was_measured_before_the_end_counts(self):
        def too_long(*arguments, timeout, **more):
            subprocess_run(*arguments, **more)
            raise subprocess.TimeoutExpired("engine", timeout)

        subprocess_run = subprocess.run
        with tempfile.TemporaryDirectory() as folder:
            engine, results = pathlib.Path(folder, "engine.py"), pathlib.Path(folder, "r.json")
            engine.write_text("import json, sys\nout = open(json.loads(sys.argv[1])['out'], 'w')\n"
                              f"for line in ({{'link_gbps': 50.0}}, {{'figure': {figure()!r}}}):\n"
                              "    print(json.dumps(line), file=out)\nout.close()\nprint('E: DeviceError')\nsys.exit(3)\n")  # fmt: skip
            arguments = ["--models", folder, "--path", folder, "--model", "m", "--systems", "none", "--tokens", "16384",
                         "--json", str(results)]  # fmt: skip
            pathlib.Path(folder, "m").mkdir()
            pathlib.Path(folder, "m", "config.json").write_text("{}")
            for run, ended in ((subprocess_run, "status 3: E: DeviceError"), (too_long, "not done after 900 s")):
                with mock.patch.object(ttft_engine, "__file__", str(engine)), mock.patch.object(subprocess, "run", run), \
                        mock.patch.object(importlib.util, "find_spec"), contextlib.redirect_stdout(io.StringIO()) as out:  # fmt: skip
                    self.assertEqual(command(*arguments)[0], 2)
                self.assertIn(f"m, none: {ended}; see", out.getvalue())
                self.assertIn("again 0.100 s (16128 not computed", out.getvalue())
                self.assertEqual(len(json.loads(results.read_text())[0]["figures"]), 1)


class ProcessorTime(unittest.TestCase):
    def test_threads_are_counted_by_their_name(self):
        known, done = threading.Event(), threading.Event()

        def work():
            pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("kvpool-test")
            while time.thread_time() < 0.02:
                pass
            known.set()
            done.wait()

        before, _ = ttft_engine.processor_s()
        thread = threading.Thread(target=work)
        thread.start()
        known.wait()
        own, whole = ttft_engine.processor_s()
        done.set()
        thread.join()
        self.assertEqual(before, 0)
        self.assertGreaterEqual(own, 0.02)
        self.assertGreaterEqual(whole, own)


if __name__ == "__main__":
    unittest.main()
