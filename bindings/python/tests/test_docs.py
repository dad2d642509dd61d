"""The examples of docs/python.md and examples/plain.py, as they stand."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]


def run(program, folder):
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide(tmp_path):
    parts = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(parts) >= 6
    run("".join(parts), tmp_path)


def test_the_example(tmp_path):
    said = run((ROOT / "examples/plain.py").read_text(), tmp_path)
    assert "4 blocks stored" in said and "3 blocks are there" in said and "393216 bytes read from 2 devices" in said
