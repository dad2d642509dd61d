"""Blocks of a made-up model, to store in a pool."""

import kvpool

SEGMENT_BYTES = [65536, 5000, 65536]
BLOCK_BYTES = sum(SEGMENT_BYTES)


def keys_of(count, start=0):
    return [kvpool.key(b"%d" % (start + i)) for i in range(count)]


def payload(blocks, seed=1):
    return bytes((i * 31 + i // 251 + seed) % 256 for i in range(BLOCK_BYTES)) * blocks
