"""The command line: the binary in this package, wherever that was installed."""

import os
import pathlib
import signal
import sys


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores
    os.execv(pathlib.Path(__file__).with_name("bin") / "kvpool", sys.argv)
