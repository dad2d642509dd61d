#!/usr/bin/env python3
"""The shared library shows the functions of kvpool.h, all of them, and nothing else.

Usage: exports_test.py LIBRARY HEADER
"""

import pathlib
import re
import shutil
import subprocess
import sys

SKIPPED = 77


def main(library, header):
    if shutil.which("nm") is None:
        print("SKIP: nm is not installed")
        return SKIPPED
    listed = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True)
    shown = {line.split()[-1] for line in listed.stdout.splitlines() if line.strip()}
    text = re.sub(r"/\*.*?\*/", "", pathlib.Path(header).read_text(encoding="utf-8"), flags=re.DOTALL)
    declared = set(re.findall(r"KVPOOL_API[^;(]*?\b(kvpool_\w+)\s*\(", text))
    for name in sorted(shown - declared):
        print(f"{library} shows {name}, which {header} does not declare")
    for name in sorted(declared - shown):
        print(f"{header} declares {name}, which {library} does not show")
    print(f"{len(shown)} symbols, {len(declared)} declared")
    return 0 if declared and shown == declared else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
