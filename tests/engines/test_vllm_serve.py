"""The same through vLLM's server and a client of OpenAI's API."""

import contextlib
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import tiny_models

openai = pytest.importorskip("openai")

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples/vllm_serve.sh"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(folder: pathlib.Path, connector: dict | None = None, example_config: pathlib.Path | None = None):
    """A client of a server that runs, and the file with what it says. example_config: started by the example's script."""
    model = pathlib.Path(tiny_models.write(tiny_models.LLAMA, folder / "model"))
    tiny_models.write_tokenizer(model)
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    if example_config:
        command = ["bash", str(EXAMPLE), str(model), str(example_config)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "4096",
               "--gpu-memory-utilization", "0.5", "--no-enable-prefix-caching"]  # fmt: skip
    if connector:
        command += ["--kv-transfer-config", json.dumps(connector)]
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0", "VLLM_NO_USAGE_STATS": "1", "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    log = folder / "server.log"
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-4000:]
            with contextlib.suppress(openai.APIConnectionError, openai.InternalServerError):
                client.models.list()
                break
            time.sleep(1)
        yield client, log
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("the server does not end") from None


def text(words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(3, 1000)}" for _ in range(words))


def ask(client, prompt: str):
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=6, temperature=0, logprobs=1,
                                       extra_body={"ignore_eos": True})  # fmt: skip
    return answer.choices[0].text, answer.usage


def metric(client, name: str) -> float:
    text = urllib.request.urlopen(str(client.base_url).replace("/v1/", "/metrics"), timeout=30).read().decode()
    [line] = [line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
    return float(line.split()[-1])


def test_the_example_s_server_has_a_pool(tmp_path):
    config = tmp_path / "kvpool.toml"
    config.write_text('[pool]\nbuffers = "32MiB"\nstaging = "16MiB"\n[[device]]\nkind = "memory"\nsize = "64MiB"\n')
    with server(tmp_path, example_config=config) as (client, _):
        ask(client, text(700, 1))
        ask(client, text(10, 2))
        time.sleep(1)
        ask(client, text(10, 3))  # a step, in which what has been stored is counted
        assert metric(client, "kvpool_stored_blocks_total") >= 2  # and what the server has asked at its start


def test_a_server_takes_prefixes_from_the_pool(tmp_path):
    connector = {
        "kv_connector": "KVPoolConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"config": str(tmp_path / "kvpool.toml"), "recompute": False},
    }
    (tmp_path / "kvpool.toml").write_text(
        '[pool]\nbuffers = "32MiB"\nstaging = "16MiB"\n[[device]]\nkind = "memory"\nsize = "16MiB"\n'
        f'[[device]]\nkind = "file"\npath = "{tmp_path}/pool"\nsize = "128MiB"\n'
    )
    prompts = [text(words, seed) for seed, words in enumerate((100, 700, 1500, 3000))]
    with server(tmp_path, connector) as (client, log):
        cold = [ask(client, prompt) for prompt in prompts]
        time.sleep(1)
        warm = [ask(client, prompt) for prompt in prompts]
        assert [answer for answer, _ in warm] == [answer for answer, _ in cold]
        blocks = sum((usage.prompt_tokens - 1) // 256 for _, usage in warm)
        assert blocks > 15 and metric(client, "kvpool_loaded_blocks_total") == blocks
        assert "kvpool" in log.read_text()
