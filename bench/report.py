#!/usr/bin/env python3
"""Turns kvpool's JSON results into one self-contained HTML page, and prints the same table.

    bench/report.py --probe probe.json --longdoc a.json --longdoc b.json --replay replay.json \\
                    --condition "machine=two cores" --output kvpool-report.html

One input at least. Of what lies at --output it writes over an earlier page alone. Exit status: 0 written; 1 the results
hold wrong blocks (the page is written all the same); 2 an input is not what it should be, or the page cannot be written.
"""

import argparse
import datetime
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from reporting import data, facts, page, table


def condition(words):
    name, separator, value = words.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"'{words}' is not NAME=TEXT")
    return name, value


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="kvpool's JSON results as one HTML page and a table")
    parser.add_argument("--probe", metavar="FILE", help="of kvpool probe --json")
    parser.add_argument("--longdoc", metavar="FILE", action="append", default=[],
                        help="of kvpool bench longdoc --json; may be repeated")
    parser.add_argument("--replay", metavar="FILE", help="of kvpool replay --json")
    parser.add_argument("--condition", metavar="NAME=TEXT", type=condition, action="append", default=[],
                        help="what a reader must know of the machine; may be repeated")
    parser.add_argument("--output", metavar="FILE", default="kvpool-report.html")
    options = parser.parse_args(arguments)
    if not (options.probe or options.longdoc or options.replay):
        parser.error("no results: --probe, --longdoc or --replay is wanted")
    return options


def print_tables(results):
    if results.cases:
        print(table.terminal_runs(results.cases))
        print(table.RUN_NOTE, end="\n\n")
    rows = table.replay(results.replay)
    if rows:
        print(table.plain(("replay", "figure"), rows), end="\n\n")
    columns, rows = table.latency(data.latencies(results.replay))
    if rows:
        print(table.plain(columns, rows), end="\n\n")
    print(facts.headline(results))
    everywhere = facts.ttft(results.cases)
    if everywhere:
        print(everywhere)


def main(arguments):
    options = parse_arguments(arguments)
    try:
        results = data.gather(options.probe and data.load(options.probe, data.check_probe),
                              [data.load(path, data.check_longdoc) for path in options.longdoc],
                              options.replay and data.load(options.replay, data.check_replay), options.condition)
        written_at = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        page.write(pathlib.Path(options.output), page.TITLE, page.render(results, written_at))
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print_tables(results)
    return 1 if facts.wrong_blocks(results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
