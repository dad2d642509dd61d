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


def test_the_type_of_a_part_may_stand_beside_it():
    inner = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    for name in ("dtype", "torch_dtype"):
        geometry = kvpool.Geometry.from_hf({"text_config": inner, name: "float32"})
        assert geometry.segment_bytes == [1 << 21] * 32 and geometry.name == "llama-float32-256"
    assert kvpool.Geometry.from_hf({"text_config": LLAMA, "dtype": "float32"}).segment_bytes == [1 << 20] * 32


def test_names_of_gpt_2():
    gpt2 = {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768}
    assert kvpool.Geometry.from_hf(gpt2).segment_bytes == [256 * 2 * 768 * 2] * 12
    assert kvpool.Geometry.from_hf({**gpt2, "multi_query": True}).segment_bytes == [256 * 2 * 64 * 2] * 12


WINDOW = {**LLAMA, "num_hidden_layers": 6, "sliding_window": 128}


@pytest.mark.parametrize(
    ("change", "sliding"),
    [
        ({"model_type": "mistral"}, [0, 1, 2, 3, 4, 5]),
        ({"model_type": "mistral", "sliding_window": 256}, []),
        ({"model_type": "mistral", "sliding_window": 4096}, []),
        ({"model_type": "mistral", "sliding_window": None}, []),
        ({"sliding_window_pattern": 3}, [0, 1, 3, 4]),
        ({"sliding_window_pattern": 1}, []),
        ({"use_sliding_window": False, "max_window_layers": 4}, []),
        ({"use_sliding_window": False, "sliding_window": -1}, []),
        ({"use_sliding_window": True, "max_window_layers": 4}, [4, 5]),
        ({"use_sliding_window": True, "max_window_layers": 0}, [0, 1, 2, 3, 4, 5]),
        ({"max_window_layers": 4}, []),
        ({"layer_types": ["sliding_attention", "full_attention"] * 3, "sliding_window_pattern": "LG"}, [0, 2, 4]),
        ({"layer_types": ["chunked_attention", "full_attention"] * 3}, []),
        ({"model_type": "of tomorrow"}, []),
    ],
)
def test_layers_with_a_window_are_those_that_the_model_has(change, sliding):
    geometry = kvpool.Geometry.from_hf({**WINDOW, **change})
    assert [i for i, window in enumerate(geometry.window) if window] == sliding
    assert geometry.segment_bytes == [(128 if i in sliding else 256) * 4096 for i in range(6)]


COUNT = "a whole number from 1 to 4294967295 is wanted"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": None}, f"num_hidden_layers is missing or None; {COUNT}"),
        ({"num_hidden_layers": "32"}, f"num_hidden_layers is '32'; {COUNT}"),
        ({"num_hidden_layers": True}, f"num_hidden_layers is True; {COUNT}"),
        ({"num_attention_heads": -32}, f"num_attention_heads is -32; {COUNT}"),
        ({"num_key_value_heads": -8}, f"num_key_value_heads is -8; {COUNT}"),
        ({"num_key_value_heads": 0}, f"num_key_value_heads is 0; {COUNT}"),
        ({"head_dim": "128"}, f"head_dim is '128'; {COUNT}"),
        ({"head_dim": 128.0}, f"head_dim is 128.0; {COUNT}"),
        ({"head_dim": 1 << 40}, f"head_dim is 1099511627776; {COUNT}"),
        ({"hidden_size": None}, f"hidden_size is missing or None; {COUNT}"),
        ({"hidden_size": 100}, "hidden_size is 100; a multiple of the 32 heads, or a head_dim, is wanted"),
        ({"kv_lora_rank": 512}, f"qk_rope_head_dim is missing or None; {COUNT}"),
        ({"torch_dtype": "int3"}, "torch_dtype is 'int3'; one of float32, "),
        ({"model_type": "mistral", "sliding_window": -1}, f"sliding_window is -1; {COUNT}"),
        ({"sliding_window": 128, "sliding_window_pattern": 0}, f"sliding_window_pattern is 0; {COUNT}"),
        ({"layer_types": ["linear_attention"] * 32}, "for each of 32 layers one of full_attention, "),
        ({"layer_types": ["full_attention"]}, "layer_types is ['full_attention']; for each of 32 layers"),
        ({"layer_types": 32}, "layer_types is 32; for each of 32 layers"),
        ({"attn_layer_period": 8}, "attn_layer_period is 8; a model whose layers all are attention is wanted"),
        ({"text_config": [1]}, "text_config is [1]; an object is wanted"),
        ({"text_config": {"n_layer": 0}}, f"text_config: n_layer is 0; {COUNT}"),
    ],
)
def test_what_is_wrong_with_a_config_is_said_in_a_line(change, words, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, **change}))
    for config, source in (({**LLAMA, **change}, ""), (path, str(path))):
        with pytest.raises(kvpool.InvalidArgument) as caught:
            kvpool.Geometry.from_hf(config)
        said = str(caught.value)
        assert words in said and "\n" not in said
        assert source in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "its content is [1]; a JSON object is wanted"),
        (b'{"a": ', "it is no JSON: "),
        (b"\xff", "it is no JSON: "),
    ],
)
def test_a_file_that_is_no_config_is_named(content, words, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(kvpool.InvalidArgument) as caught:
        kvpool.Geometry.from_hf(tmp_path)
    assert f"{path}: {words}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"block_tokens": 0}, f"block_tokens is 0; {COUNT}"),
        ({"block_tokens": "256"}, f"block_tokens is '256'; {COUNT}"),
        ({"tensor_parallel": 0}, f"tensor_parallel is 0; {COUNT}"),
        ({"tensor_parallel": -2}, f"tensor_parallel is -2; {COUNT}"),
        ({"dtype": "int3"}, "dtype is 'int3'; one of float32, "),
        ({"name": "a\0b"}, "name holds a zero byte"),
        ({"config": None}, "config is missing or None; the path of a config.json, its folder or a dict is wanted"),
        ({"config": [LLAMA]}, "; the path of a config.json, its folder or a dict is wanted"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said_in_a_line(arguments, words):
    with pytest.raises(kvpool.InvalidArgument) as caught:
        kvpool.Geometry.from_hf(**{"config": LLAMA, **arguments})
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, 1, [1]), "name is missing or None"),
        (("a", -1, [1]), f"block_tokens is -1; {COUNT}"),
        (("a", 1, []), "segment_bytes is []; a list with the bytes of one segment or more is wanted"),
        (("a", 1, 4096), "segment_bytes is 4096; a list with the bytes of one segment or more is wanted"),
        (("a", 1, [1, -1]), f"segment_bytes[1] is -1; {COUNT}"),
        (("a", 1, [1], [0]), "window is [0]; True or False for each segment is wanted"),
        (("a", 1, [1 << 40]), f"segment_bytes[0] is 1099511627776; {COUNT}"),
    ],
)
def test_a_geometry_is_of_numbers(arguments, words):
    with pytest.raises(kvpool.InvalidArgument) as caught:
        kvpool.Geometry(*arguments)
    assert words in str(caught.value)


def test_heads_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match="8 KV heads"):
        kvpool.Geometry.from_hf(LLAMA, tensor_parallel=3)
