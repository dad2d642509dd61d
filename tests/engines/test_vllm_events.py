"""KV events: what others, such as routers, are told of the pool's blocks."""

import time
import types

import engine as engines
import msgspec
import pytest
import torch
import zmq
from engine import prompt, spoil
from kvpool.vllm import kv_events, layout
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheGroupSpec, SlidingWindowSpec

PAGE_TOKENS = 128


class Listener:
    """What a subscriber believes that the engine has, by medium."""

    def __init__(self, endpoint):
        self.socket = zmq.Context.instance().socket(zmq.SUB)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(endpoint)
        self.decode = msgspec.msgpack.Decoder(KVEventBatch).decode
        self.has = {}  # medium -> {hash: event}

    def take(self):
        """The events that are there now; nothing for a while is their end."""
        events = []
        while self.socket.poll(500):
            events += self.decode(self.socket.recv_multipart()[-1]).events
        for event in events:
            if isinstance(event, AllBlocksCleared):
                self.has.clear()
                continue
            has = self.has.setdefault(event.medium, {})
            for one in event.block_hashes:
                assert (one in has) == isinstance(event, BlockRemoved), f"{event} is told twice, or of nothing"
                if isinstance(event, BlockStored):
                    has[one] = event
                else:
                    del has[one]
        return events


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    endpoint = f"ipc://{folder}/events"
    made = engines.Engine(
        folder,
        kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", endpoint=endpoint),
        num_gpu_blocks_override=20,  # of 128 tokens: a long prompt pushes out what was there
        max_model_len=2304,
    )
    made.listener = Listener(endpoint)
    time.sleep(0.5)  # a subscriber that is late misses what is published before
    return made


def ask(engine, one):
    """Asks, and lets the engine go on until it has nothing more to do."""
    [answer] = engine.ask([one])
    deadline = time.monotonic() + 30
    while engine.core.scheduler.has_requests():
        assert time.monotonic() < deadline
        engine.step()
    return answer


def push_out(engine):
    """Everything that vLLM's own cache has, without emptying it: that would be told as AllBlocksCleared."""
    ask(engine, prompt(2200, time.monotonic_ns()))
    engine.settle()


def in_pool(engine):
    return {one: event for medium, has in engine.listener.has.items() if medium != "GPU" for one, event in has.items()}


def test_the_pool_s_blocks_have_the_hashes_of_the_engine_s_pages(engine):
    one = prompt(1000, 1)
    ask(engine, one)
    engine.listener.take()
    assert set(engine.listener.has) == {"GPU", "FS"} or set(engine.listener.has) == {"GPU", "STORAGE"}
    of_gpu = engine.listener.has["GPU"]
    assert len(of_gpu) == 1000 // PAGE_TOKENS and len(in_pool(engine)) == 6
    for number, event in enumerate({id(event): event for event in in_pool(engine).values()}.values()):
        assert event.token_ids == one["prompt_token_ids"][number * 256 : (number + 1) * 256]
        assert event.block_size == PAGE_TOKENS and len(event.block_hashes) == 2 and event.lora_name is None
        for position, page in enumerate(event.block_hashes):  # the engine said the same of its own
            theirs = of_gpu[page]
            at = theirs.block_hashes.index(page)
            assert theirs.token_ids[at * PAGE_TOKENS : (at + 1) * PAGE_TOKENS] == event.token_ids[position * 128 : (position + 1) * 128]
            assert theirs.group_idx == event.group_idx and theirs.block_size == event.block_size
            before = theirs.block_hashes[at - 1] if at else theirs.parent_block_hash
            assert (event.block_hashes[position - 1] if position else event.parent_block_hash) == before
            assert event.extra_keys is None or event.extra_keys[position] == (theirs.extra_keys or [None] * (at + 1))[at]


def test_what_is_found_is_not_told_again(engine):
    one = prompt(2000, 2)
    ask(engine, one)
    engine.listener.take()
    push_out(engine)
    engine.listener.take()
    assert ask(engine, one).cached_tokens == 1792
    assert {event.medium for event in engine.listener.take()} == {"GPU"}


def test_what_could_not_be_loaded_is_taken_back_and_stored_again(engine):
    one = prompt(2000, 3)
    ask(engine, one)
    push_out(engine)
    engine.listener.take()
    before = set(in_pool(engine))
    spoil(engine.pool_path)
    ask(engine, one)
    assert engine.pool.stats()["checksum_errors"] > 0
    events = [event for event in engine.listener.take() if event.medium != "GPU"]
    removed = [event.block_hashes for event in events if isinstance(event, BlockRemoved)]
    stored = [event.block_hashes for event in events if isinstance(event, BlockStored)]
    assert removed and stored == removed and set(in_pool(engine)) == before


def test_all_is_cleared_with_the_pool(engine):
    assert in_pool(engine)
    assert engine.llm.reset_prefix_cache(reset_connector=True)
    ask(engine, prompt(10, 5))
    assert any(isinstance(event, AllBlocksCleared) for event in engine.listener.take())
    assert not in_pool(engine)
    engine.assert_nothing_is_left()


def test_of_a_window_only_what_is_kept_is_announced():
    """Two groups, as GPT-OSS has them: pages of 16 tokens, in blocks of 256."""
    size = {"block_size": 16, "num_kv_heads": 2, "head_size": 64, "dtype": torch.float32}
    groups = [
        KVCacheGroupSpec(["l0"], SlidingWindowSpec(**size, sliding_window=128)),
        KVCacheGroupSpec(["l1"], FullAttentionSpec(**size)),
    ]
    request = types.SimpleNamespace(
        block_hashes=[number.to_bytes(32, "big") for number in range(1, 33)], all_token_ids=list(range(512)),
        mm_features=[], lora_request=None, cache_salt="salt", prompt_embeds=None,
    )  # fmt: skip
    made = kv_events.KVEvents(layout.plan(groups, 16), groups, "CPU")
    for block, salted in ((0, "salt"), (1, None)):
        window, full = made.block(request, block).stored
        end = (block + 1) * 16
        assert window.block_hashes == list(range(end - 7, end + 1)) and window.parent_block_hash == end - 8
        assert window.token_ids == list(range((end - 8) * 16, end * 16)) and window.kv_cache_spec_sliding_window == 128
        assert full.block_hashes == list(range(end - 15, end + 1)) and full.parent_block_hash == (end - 16 or None)
        assert full.token_ids == list(range((end - 16) * 16, end * 16)) and full.kv_cache_spec_kind == "full_attention"
        assert full.extra_keys == [(salted,) if salted else None] + [None] * 15 and window.extra_keys == [None] * 8
        removed = made.block(request, block).removed
        assert [(event.group_idx, event.block_hashes) for event in removed] == [(0, window.block_hashes), (1, full.block_hashes)]
