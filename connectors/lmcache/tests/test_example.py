"""examples/lmcache.sh, as it stands."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("lmcache", reason="lmcache is not installed")

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples"


def test_the_example(tmp_path):
    shutil.copy(EXAMPLES / "kvpool.toml", tmp_path)
    environment = {"PATH": f"{pathlib.Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run([EXAMPLES / "lmcache.sh", tmp_path / "kvpool.toml"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"Total success: +128\n", done.stdout)) == 2, done.stdout  # stored, and loaded and compared
