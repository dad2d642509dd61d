"""examples/ of vLLM, as a user runs them."""

import os
import pathlib
import subprocess
import sys

import tiny_models

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
ENVIRONMENT = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def test_the_second_question_finds_the_document(tmp_path):
    model = tiny_models.write(tiny_models.LLAMA, tmp_path / "model")
    run = subprocess.run([sys.executable, str(EXAMPLES / "vllm_offline.py"), model], cwd=tmp_path, env=ENVIRONMENT,
                         capture_output=True, text=True, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert "0 of 2051 tokens were there" in run.stdout, run.stdout
    assert run.stdout.count("2048 of 2051 tokens were there") == 2, run.stdout
    assert "the same question has the same answer" in run.stdout


def test_without_a_model_it_says_how_it_is_used():
    run = subprocess.run([sys.executable, str(EXAMPLES / "vllm_offline.py")], env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode != 0 and "MODEL [CONFIG]" in run.stderr
