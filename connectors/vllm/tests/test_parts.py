"""Settings, layouts and the prefill model, without an engine."""

import random
from types import SimpleNamespace

import pytest
from kvpool.vllm import layout, prefill
from kvpool.vllm.settings import Settings

# ---- settings ----


def test_settings_have_defaults():
    settings = Settings.read({"config": "kvpool.toml"})
    assert settings.block_tokens == 0 and settings.recompute and settings.match_wait_ms == 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, "'config' is missing"),
        ({"config": "a", "confg": 1}, "'confg' is unknown"),
        (None, "kv_connector_extra_config is missing"),
        ({"config": 3}, "'config' cannot be 3, it is the path of a kvpool.toml, or its content"),
        ({"config": "a", "block_tokens": -1}, "'block_tokens' cannot be -1"),
        ({"config": "a", "block_tokens": 256.0}, "'block_tokens' cannot be 256.0, it is a whole number, 0 or more"),
        ({"config": "a", "block_tokens": 2**40}, "'block_tokens' cannot be"),
        ({"config": "a", "block_tokens": True}, "'block_tokens' cannot be True"),
        ({"config": "a", "recompute": 1}, "'recompute' cannot be 1"),
        ({"config": "a", "sync_load_budget_ms": "2ms"}, "'sync_load_budget_ms' cannot be '2ms'"),
        ({"config": "a", "load_timeout_s": float("inf")}, "'load_timeout_s' cannot be inf"),
    ],
)
def test_a_wrong_setting_is_named(extra, words):
    with pytest.raises(ValueError, match=words):
        Settings.read(extra)


# ---- layouts ----


class FullAttentionSpec(SimpleNamespace):
    pass


class SlidingWindowSpec(SimpleNamespace):
    pass


class MambaSpec(SimpleNamespace):
    pass


def group(spec, *layers):
    return SimpleNamespace(kv_cache_spec=spec, layer_names=list(layers))


def test_a_block_is_256_tokens_where_pages_fit():
    made = layout.plan([group(FullAttentionSpec(block_size=16), "a")], 16)
    assert made.block_tokens == 256 and made.pages_of_block == 16
    assert layout.plan([group(FullAttentionSpec(block_size=96), "a")], 96).block_tokens == 288
    assert layout.plan([group(FullAttentionSpec(block_size=512), "a")], 512).block_tokens == 512
    with pytest.raises(ValueError, match="multiple of 96"):
        layout.plan([group(FullAttentionSpec(block_size=96), "a")], 96, 256)


def test_gpt_oss_keeps_eight_pages_of_a_window():
    made = layout.plan(
        [group(SlidingWindowSpec(block_size=16, sliding_window=128), "a"), group(FullAttentionSpec(block_size=16), "b")], 16
    )
    window, full = made.groups
    assert (window.pages, window.window, full.pages, full.window) == (8, True, 16, False)
    assert made.first_page(window, 0) == 8 and made.first_page(window, 2) == 40 and made.first_page(full, 2) == 32


def test_a_window_beyond_a_block_keeps_all_pages_of_all_blocks():
    [only] = layout.plan([group(SlidingWindowSpec(block_size=16, sliding_window=1024), "a")], 16).groups
    assert only.pages == 16 and not only.window and only.sliding_tokens == 1024


def test_layers_of_an_unknown_kind_are_refused():
    with pytest.raises(layout.Unsupported, match="MambaSpec"):
        layout.plan([group(MambaSpec(block_size=16), "m")], 16)


def test_a_block_s_key_is_the_hash_at_its_end():
    made = layout.plan([group(FullAttentionSpec(block_size=128), "a")], 128)
    hashes = [bytes([i]) * 32 for i in range(5)]
    assert made.blocks_hashed(hashes) == 2
    assert layout.each_key(made.keys(hashes, 0, 2)) == [bytes([1]) * 16, bytes([3]) * 16]
    assert made.keys(hashes, 1, 2) == made.keys(hashes, 1, 9) == bytes([3]) * 16 and made.keys(hashes, 2, 9) == b""
    short = [b"%d" % i for i in range(6)]
    assert len(made.keys(short, 0, 3)) == 48 and made.keys(short, 1, 3) == made.keys(short, 0, 3)[16:]
    assert len(set(layout.each_key(made.keys(short, 0, 3)))) == 3


# ---- prefill ----


def trained(linear, quadratic, noise=0.0, steps=100):
    model, rng = prefill.PrefillModel(), random.Random(1)
    for _ in range(steps):
        tokens, context = rng.randrange(16, 2000), rng.randrange(0, 100_000)
        pairs = prefill.pairs_of(context, tokens)
        model.observe(tokens, pairs, (linear * tokens + quadratic * pairs) * (1 + rng.uniform(-noise, noise)))
    return model


def test_the_model_finds_both_parts():
    model = trained(2e-5, 1e-10)
    assert model.seconds(50_000, 1000) == pytest.approx(2e-5 * 1000 + 1e-10 * prefill.pairs_of(50_000, 1000), rel=1e-6)
    noisy = trained(2e-5, 1e-10, noise=0.2, steps=1000)
    assert noisy.seconds(50_000, 1000) == pytest.approx(2e-5 * 1000 + 1e-10 * prefill.pairs_of(50_000, 1000), rel=0.1)


def test_the_model_is_never_negative():
    for linear, quadratic in ((2e-5, 0.0), (0.0, 1e-10)):
        model = trained(linear, quadratic, noise=0.5, steps=30)
        assert model.seconds(0, 1) >= 0 and model.seconds(100_000, 10_000) >= 0
    only = prefill.PrefillModel()
    only.observe(100, prefill.pairs_of(0, 100), 0.01)
    assert only.seconds(0, 100) == pytest.approx(0.01)


def test_decode_steps_teach_nothing():
    model = prefill.PrefillModel()
    model.observe(4, 1000.0, 0.05)
    assert not model.known and model.seconds(0, 1) == float("inf")


def test_what_is_computed_sooner_is_not_loaded():
    model = trained(2e-5, 0.0)  # 256 tokens: 5.12 ms
    assert prefill.worth_loading(model, 0.050, 0, 20, 256, 256) == 20
    assert prefill.worth_loading(model, 0.200, 0, 20, 256, 256) == 0
    assert prefill.worth_loading(prefill.PrefillModel(), 1e9, 0, 20, 256, 256) == 20  # nothing is known yet
    assert prefill.worth_loading(model, 0.0, 0, 0, 256, 256) == 0
    # One token of the first block is missing: it is not worth a block's load.
    assert prefill.worth_loading(model, 0.005, 255, 1, 256, 1) == 0
