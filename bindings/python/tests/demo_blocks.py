"""Blocks of a made-up model, to store in a pool."""

import kvpool

SEGMENT_BYTES = [65536, 5000, 65536]
BLOCK_BYTES = sum(SEGMENT_BYTES)


def config_of(path, buffers="1MiB", device_size="8MiB"):
    """Memory and a file."""
    return {
        "pool": {"buffers": buffers, "staging": "4MiB"},
        "device": [{"kind": "memory", "size": device_size}, {"kind": "file", "path": str(path), "size": device_size}],
    }


def keys_of(count, start=0):
    return [kvpool.key(b"%d" % (start + i)) for i in range(count)]


def payload(blocks, seed=1):
    return bytes((i * 31 + i // 251 + seed) % 256 for i in range(BLOCK_BYTES)) * blocks
