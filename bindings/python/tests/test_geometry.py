"""Geometries of the models that kvpool is for, and of what a config.json may hold besides."""

import json

import kvpool
import pytest

LLAMA = {"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "hidden_size": 4096, "torch_dtype": "bfloat16"}
GPT_OSS = {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8,
           "hidden_size": 2880, "head_dim": 64, "sliding_window": 128,
           "layer_types": ["sliding_attention", "full_attention"] * 12, "torch_dtype": "bfloat16"}


def test_llama_is_131072_bytes_a_token(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    for config in (LLAMA, tmp_path, tmp_path / "config.json"):
        geometry = kvpool.Geometry.from_hf(config)
        assert geometry.segment_bytes == [1 << 20] * 32
        assert geometry.block_bytes == 256 * 131072
        assert not geometry.window and not geometry.flat
    assert kvpool.Geometry.from_hf(LLAMA, tensor_parallel=4).segment_bytes == [1 << 18] * 32
    assert kvpool.Geometry.from_hf(LLAMA, tensor_parallel=16).segment_bytes == [1 << 17] * 32
    assert kvpool.Geometry.from_hf(LLAMA, dtype="float8_e4m3fn").segment_bytes == [1 << 19] * 32


def test_gpt_oss_keeps_windows_of_128_tokens():
    geometry = kvpool.Geometry.from_hf(GPT_OSS)
    assert geometry.segment_bytes == [128 * 2048, 256 * 2048] * 12
    assert list(geometry.window) == [True, False] * 12
    small = kvpool.Geometry.from_hf(GPT_OSS, block_tokens=128)
    assert not small.window and small.segment_bytes == [128 * 2048] * 24


def test_other_shapes():
    latent = {"num_hidden_layers": 2, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_attention_heads": 8}
    assert kvpool.Geometry.from_hf(latent).segment_bytes == [256 * 576 * 2] * 2
    assert kvpool.Geometry.from_hf({"text_config": LLAMA}).segment_bytes == [1 << 20] * 32
    qwen = {**LLAMA, "sliding_window": 4096, "use_sliding_window": False}
    assert not kvpool.Geometry.from_hf(qwen).window


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": "32"}, "num_hidden_layers"),
        ({"torch_dtype": "int3"}, "int3"),
        ({"sliding_window": 128}, "layer_types"),
        ({"sliding_window": 128, "layer_types": ["linear_attention"] * 32}, "layer_types"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_what_is_missing_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        kvpool.Geometry.from_hf({**LLAMA, **change})


def test_heads_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match="8 KV heads"):
        kvpool.Geometry.from_hf(LLAMA, tensor_parallel=3)
