#!/usr/bin/env python3
"""Turns kvpool's JSON results into one self-contained HTML page, and prints the same table.

    bench/report.py --probe probe.json --longdoc a.json --longdoc b.json --replay replay.json \\
                    --condition "machine=two cores" --output kvpool-report.html

Every input is optional, and so is every field in it. Exit status: 0 written; 1 the results hold wrong blocks (the
page is written all the same); 2 an input cannot be read or the page cannot be written.
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
    return parser.parse_args(arguments)


def print_tables(results):
    if results.cases:
        print(table.terminal_runs(results.cases), end="\n\n")
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
        results = data.gather(options.probe and data.load(options.probe), map(data.load, options.longdoc),
                              options.replay and data.load(options.replay), options.condition)
        written_at = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        pathlib.Path(options.output).write_text(page.render(results, written_at), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print_tables(results)
    return 1 if facts.wrong_blocks(results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
