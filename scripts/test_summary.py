#!/usr/bin/env python3
"""Sums up ctest results: what passed, what failed, every skipped test with its reason, and last why tests failed.

A skipped test is counted apart from the passed ones, be it a whole ctest test (exit status 77) or one
GoogleTest case (GTEST_SKIP, whose binary exits 0). A test whose program is missing has failed.
Usage: test_summary.py NAME=FILE...    FILE is what ctest --output-junit wrote.
Exit status: 1 if a file is missing or holds a failure; 2 if none is given.
"""

import argparse
import re
import sys
import xml.etree.ElementTree

SKIPPED_CASE = re.compile(r"^\[  SKIPPED \] (.+?) \(\d+ ms\)$")
PASSED_CASES = re.compile(r"^\[  PASSED  \] (\d+) tests?\.$")
# GoogleTest's report of one assertion, the name of the test that it failed, and what a sanitizer found.
REPORT = re.compile(
    r"^.+: Failure\n(?:(?!\[ ).*\n)*|^\[  FAILED  \] .* ms\)\n|^(?:==\d+==ERROR: |SUMMARY: |.*: runtime error: ).*\n", re.MULTILINE
)
REPORT_LINES_MAX = 60
LAST_LINES = 10


def skipped_cases(output):
    """Yields (case, reason) for every GoogleTest case that called GTEST_SKIP. The reason follows 'Skipped'."""
    lines, reason = output.splitlines(), ""
    for previous, line in zip([""] + lines, lines):
        if previous.endswith(": Skipped"):
            reason = line.strip()
        elif match := SKIPPED_CASE.match(line):
            yield match[1], reason
            reason = ""


def skip_reason(output):
    """The line by which a test that exits 77 says why."""
    return next((line[4:].strip(" :") for line in output.splitlines() if line.startswith("SKIP")), "")


def why_it_failed(output, said_ctest):
    """What was reported, and the last words."""
    reports = "".join(REPORT.findall(output)).splitlines()
    last = output.splitlines()[-LAST_LINES:] or ["it printed nothing: a crash, or its time was up"]
    return ([said_ctest] if said_ctest else []) + reports[:REPORT_LINES_MAX] + last


def parse(junit_text):
    """Returns (passed tests, [(failed name, why)], passed GoogleTest cases, [(skipped name, reason)])."""
    passed, failed, cases, skipped = 0, [], 0, []
    for test in xml.etree.ElementTree.fromstring(junit_text).iter("testcase"):
        name, output = test.get("name"), test.findtext("system-out") or ""
        skip = test.find("skipped")
        if skip is not None and skip.get("message", "").startswith("SKIP_"):
            skipped.append((name, skip_reason(output)))
        elif test.get("status") != "run":
            failure = test.find("failure")
            failed.append((name, why_it_failed(output, failure.get("message") if failure is not None else "")))
        else:
            passed += 1
            cases += sum(int(m[1]) for line in output.splitlines() if (m := PASSED_CASES.match(line)))
            skipped += [(f"{name}: {case}", reason) for case, reason in skipped_cases(output)]
    return passed, failed, cases, skipped


def named_file(text):
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FILE")
    return name, path


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="NAME=FILE", nargs="+", type=named_file)
    status = 0
    reports = []
    for preset, path in parser.parse_args(arguments).results:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                passed, failed, cases, skipped = parse(file.read())
        except (OSError, xml.etree.ElementTree.ParseError) as error:
            print(f"  {preset:8} no results: {error}")
            status = 1
            continue
        print(f"  {preset:8} {passed} tests passed ({cases} cases), {len(failed)} failed, {len(skipped)} skipped")
        for name, why in failed:
            print(f"           FAILED {name}")
            reports.append((f"{preset}: {name}", why))
        for name, reason in skipped:
            print(f"           SKIP {name}" + (f": {reason}" if reason else ""))
    for name, why in reports:
        print(f"  {name} failed:")
        print("\n".join(f"    {line}" for line in why))
    return 1 if reports else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
