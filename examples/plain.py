"""A pool from Python: store the KV of a document, find it again by its prefix, read it back.

    python examples/plain.py            in a folder with room for kvpool.data
"""

import asyncio
import hashlib

import kvpool

CONFIG = {
    "pool": {"buffers": "16MiB", "staging": "16MiB"},
    "device": [
        {"kind": "memory", "size": "64MiB"},
        {"kind": "file", "path": "kvpool.data", "size": "64MiB"},
    ],
}
# Two layers of 64 KiB for 256 tokens; of a real model: kvpool.Geometry.from_hf("path/to/config.json").
GEOMETRY = kvpool.Geometry("demo", block_tokens=256, segment_bytes=[65536, 65536])


def keys_of(tokens: list[int]) -> list[bytes]:
    """A key for each block, which covers all tokens up to its end: equal prefixes have equal keys."""
    chain, keys = hashlib.sha256(), []
    for at in range(0, len(tokens) - GEOMETRY.block_tokens + 1, GEOMETRY.block_tokens):
        chain.update(repr(tokens[at : at + GEOMETRY.block_tokens]).encode())
        keys.append(chain.digest()[:16])
    return keys


async def main() -> None:
    with kvpool.Pool(CONFIG) as pool:
        ns = pool.namespace(GEOMETRY)
        consumer = pool.consumer()

        document = list(range(1024))
        kv = bytes(range(256)) * (4 * GEOMETRY.block_bytes // 256)
        stored = await consumer.store(ns, keys_of(document), kv)
        print(f"{stored.blocks} blocks stored")

        question = document[:768] + [7] * 500
        found = await consumer.match(ns, keys_of(question))
        print(f"{found.blocks} blocks are there, about {found.estimate_s * 1e3:.1f} ms away")

        back = bytearray(found.blocks * GEOMETRY.block_bytes)
        read = await consumer.retrieve(ns, found.pin, back)
        assert read.ok and back == kv[: len(back)]
        print(f"{read.bytes} bytes read from {len(pool.device_stats())} devices at once")


asyncio.run(main())
