"""The command line: the binary in this package, wherever that was installed."""

import os
import pathlib
import signal
import sys


def main() -> None:
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    os.execv(pathlib.Path(__file__).with_name("bin") / "kvpool", sys.argv)
