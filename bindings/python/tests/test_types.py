"""What a type checker is told: the stub of the native module, and a program of docs/python.md against it."""

import pathlib
import re
import subprocess
import sys

import kvpool
import pytest

ROOT = pathlib.Path(__file__).parents[3]
STUB = pathlib.Path(kvpool.__file__).with_name("_native.pyi")


@pytest.mark.parametrize(
    "line",
    [
        r"def __await__\(self\) -> (collections\.abc\.)?Generator\[(typing\.)?Any, None, Result\]: \.\.\.",
        r"def pin\(self\) -> Pin \| None: \.\.\.",
        r"def status\(self\) -> (kvpool\.errors\.)?Status: \.\.\.",
        r"def region\(self\) -> .*uint8.*: \.\.\.",
        r"def stats\(self\) -> dict\[str, int \| float\]: \.\.\.",
        r"def device_stats\(self\) -> list\[dict\[str, (typing\.)?Any\]\]: \.\.\.",
    ],
)
def test_the_stub_has_the_type(line):
    assert re.search(rf"^    {line}$", STUB.read_text(), re.MULTILINE)


def test_the_guide_s_example_is_well_typed(tmp_path):
    pytest.importorskip("mypy")
    guide = (ROOT / "docs/python.md").read_text()
    example = re.search(r"^async def read\(.*?(?=^assert)", guide, re.DOTALL | re.MULTILINE)
    program = tmp_path / "example.py"
    program.write_text(f"import kvpool\n\n{example[0]}\nwrong: int = kvpool.Status.OK.name\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", program]
    done = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    # The one that is there on purpose: the package's types are found.
    assert re.findall(r"error: .*", done.stdout) == [
        'error: Incompatible types in assignment (expression has type "str", variable has type "int")  [assignment]'
    ], done.stdout + done.stderr
