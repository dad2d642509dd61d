"""The command line that comes with the package."""

import pathlib
import signal
import subprocess
import sysconfig

import kvpool

COMMAND = pathlib.Path(sysconfig.get_path("scripts")) / "kvpool"


def test_it_is_the_package_s_own():
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kvpool {kvpool.__version__}\n"


def test_whoever_reads_it_may_stop_early():
    with subprocess.Popen([COMMAND, "--version"], stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait() == -signal.SIGPIPE
