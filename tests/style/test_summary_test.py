"""The summary of make test never counts a skipped or missing test as passed; and what the scripts say of wrong arguments."""

import contextlib
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import test_summary

RESULTS = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="x" tests="6">
  <testcase name="good" status="run"><system-out>[  PASSED  ] 12 tests.</system-out></testcase>
  <testcase name="partly" status="run"><system-out>[ RUN      ] A.One
/src/a_test.cpp:2: Skipped
no huge pages
[  SKIPPED ] A.One (0 ms)
[ RUN      ] X/P.Two/0
/src/a_test.cpp:5: Skipped

[  SKIPPED ] X/P.Two/0 (0 ms)
[  PASSED  ] 1 test.
[  SKIPPED ] 2 tests, listed below:
[  SKIPPED ] A.One
[  SKIPPED ] X/P.Two/0
</system-out></testcase>
  <testcase name="hardware" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/>
    <system-out>SKIP: no such device
</system-out></testcase>
  <testcase name="missing" status="notrun"><skipped message="Unable to find executable"/></testcase>
  <testcase name="crashed" status="fail"><failure message=""/><system-out></system-out></testcase>
  <testcase name="unsound" status="fail"><failure message="Required regular expression not found"/><system-out>
==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x1
  Shadow bytes
  Shadow bytes
==7==ABORTING
</system-out></testcase>
  <testcase name="threw" status="fail"><failure message=""/><system-out>[ RUN      ] A.Five
unknown file: Failure
C++ exception with description "no value" thrown in the test body.

[  FAILED  ] A.Five (1 ms)
</system-out></testcase>
  <testcase name="bad" status="fail"><failure message=""/><system-out>[ RUN      ] A.Three
/src/a_test.cpp:9: Failure
Expected: one
[  FAILED  ] A.Three (1 ms)
[ RUN      ] A.Four
said by A.Four
[       OK ] A.Four (1 ms)
[  FAILED  ] 1 test, listed below:
</system-out></testcase>
</testsuite>
"""


class Summary(unittest.TestCase):
    def test_each_test_is_counted_once_and_where_it_belongs(self):
        passed, failed, cases, skipped = test_summary.parse(RESULTS)
        self.assertEqual((passed, [name for name, _ in failed], cases), (2, ["missing", "crashed", "unsound", "threw", "bad"], 13))
        why = dict(failed)
        self.assertEqual(why["crashed"], ["it printed nothing: a crash, or its time was up"])
        self.assertEqual(why["unsound"][0], "Required regular expression not found")
        self.assertIn("heap-use-after-free", why["unsound"][1])
        self.assertIn('C++ exception with description "no value"', why["threw"][1])
        self.assertEqual(why["bad"][:3], ["/src/a_test.cpp:9: Failure", "Expected: one", "[  FAILED  ] A.Three (1 ms)"])
        self.assertEqual(why["bad"][-2:], ["[       OK ] A.Four (1 ms)", "[  FAILED  ] 1 test, listed below:"])
        self.assertEqual(skipped, [("partly: A.One", "no huge pages"), ("partly: X/P.Two/0", ""),
                                   ("hardware", "no such device")])

    def test_exit_status(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
            path = pathlib.Path(folder) / "tests.xml"
            self.assertEqual(test_summary.main([f"release={path}"]), 1)
            for text, status in ((RESULTS, 1), ("<not xml", 1), ("<testsuite/>", 0)):
                path.write_text(text)
                self.assertEqual(test_summary.main([f"release={path}"]), status)
        self.assertIn("SKIP hardware: no such device", out.getvalue())
        self.assertIn("  release: bad failed:\n    /src/a_test.cpp:9: Failure\n", out.getvalue())

class Arguments(unittest.TestCase):
    def test_what_a_script_does_not_know_is_refused_in_a_line(self):
        for line, named in (("scripts/build.sh", "PRESET is one of release "), ("scripts/build.sh nope", "is one of release "),
                            ("scripts/build.sh --configure-only", "PRESET"), ("scripts/fuzz.sh", "SECONDS"),
                            ("scripts/fuzz.sh 0", "SECONDS"),
                            ("scripts/packages.sh nope", "one of bench engines format fuzz lint vm"),
                            ("scripts/packages.sh vm lint", "usage"), ("scripts/test.sh --help", "usage"), ("scripts/lint.sh x", "usage"),
                            ("scripts/wheel.sh --help", "usage"), ("examples/vllm_serve.sh", "usage"),
                            ("examples/vllm_serve.sh --help", "usage"), ("examples/vllm_serve.sh model /nope", "/nope"),
                            ("examples/lmcache.sh /nope", "/nope"), ("examples/lmcache.sh", "no command lmcache")):  # fmt: skip
            with self.subTest(line):
                path = f"{pathlib.Path(shutil.which('cmake')).parent}:/usr/bin:/bin"
                script, *arguments = line.split()
                done = subprocess.run(["/bin/bash", ROOT / script, *arguments], env={"PATH": path}, capture_output=True,
                                      text=True, check=False)  # fmt: skip
                self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)
                self.assertIn(named, done.stderr)
        self.assertFalse((ROOT / "build/nope").exists())

    def test_the_targets_of_the_makefile_are_known(self):
        called = [line.split()[-1] for line in (ROOT / "Makefile").read_text().splitlines() if "scripts/packages.sh " in line]
        self.assertIn("vm", called)
        for target in called:
            done = subprocess.run([ROOT / "scripts/packages.sh", target], env={"PATH": "/usr/bin:/bin", "KVPOOL_SKIP_PACKAGES": "1"},
                                  capture_output=True, text=True, check=False)  # fmt: skip
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_a_summary_of_nothing_is_none(self):
        for given in ([], ["release"], ["release="]):
            with self.subTest(given), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as end:
                test_summary.main(given)
            self.assertEqual(end.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
