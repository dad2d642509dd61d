"""A client of kvpool.lmcache.Adapter, as LMCache is one."""

import select
import time

from kvpool.lmcache import Adapter

KIB, MIB = 1 << 10, 1 << 20
PATIENCE_S = 30


def config_of(path, size="256MiB", **pool):
    return {
        "pool": {"buffers": 0, "staging": "8MiB", **pool},
        "device": [{"kind": "file", "path": str(path), "size": size}],
    }


class Client:
    """An adapter, and the completions that were taken from it."""

    def __init__(self, config, **more):
        self.adapter = Adapter(config, **more)
        self.poller = select.poll()
        self.poller.register(self.adapter.event_fd(), select.POLLIN)
        self.completions = {}

    def take(self):
        for number, ok, error, found in self.adapter.drain_completions():
            assert number not in self.completions
            self.completions[number] = (ok, error, found)

    def wait(self, number):
        until = time.monotonic() + PATIENCE_S
        while number not in self.completions:
            assert time.monotonic() < until
            if self.poller.poll(1000):
                self.take()
        return self.completions.pop(number)

    def set(self, keys, values):
        return self.wait(self.adapter.submit_batch_set(keys, values))

    def get(self, keys, lengths):
        buffers = [bytearray(b"\xee" * length) for length in lengths]
        ok, error, found = self.wait(self.adapter.submit_batch_get(keys, [memoryview(b) for b in buffers]))
        assert ok, error
        return [bytes(buffer) if there else None for there, buffer in zip(found, buffers)]

    def exists(self, keys):
        ok, error, found = self.wait(self.adapter.submit_batch_exists(keys))
        assert ok, error
        return found

    def delete(self, keys):
        ok, error, found = self.wait(self.adapter.submit_batch_delete(keys))
        assert ok, error
        return found


def keys_of(count, name="key"):
    return [f"model@01000100@0@{name}{i:08x}" for i in range(count)]
