"""Requests as awaitables: one reader of an event loop for each consumer that has some awaited.

A loop that was closed is not held by anything here: readers know their loop and their futures weakly.
"""

import asyncio
import functools
import io
import os
import weakref

from kvpool.errors import Closed

# What another thread took from the consumer meanwhile is found after that time at the latest.
_LOOK_AGAIN_S = 0.05


class _Reader:
    """The requests of one consumer that are awaited in one loop. Thread: the loop's."""

    def __init__(self, loop, consumer):
        self.loop = weakref.ref(loop)
        self.consumer = consumer
        self.awaited = []  # (request, future, weakly)
        self.timer = None
        self.descriptor = None

    def add(self, request):
        future = self.loop().create_future()
        if not self.awaited:
            # Its own: the consumer's may be closed, and its number somebody else's, before this reader goes.
            self.descriptor = io.FileIO(os.dup(self.consumer.fileno()), closefd=True)
            self.loop().add_reader(self.descriptor, self.look)
        self.awaited.append((request, weakref.ref(future)))
        future.add_done_callback(functools.partial(self._ended, request))
        self.look()
        return future

    def _ended(self, request, future):
        if future.cancelled():
            self.look()  # first: the loop may not come here again
            request.cancel()

    def look(self):
        try:
            while self._take() and not self.consumer.arm():
                pass
        except Closed:  # by another thread; its requests end with that
            pass
        if self.timer:
            self.timer.cancel()
            self.timer = None
        if self.awaited:
            self.timer = self.loop().call_later(_LOOK_AGAIN_S, self.look)

    def _take(self):
        """Whether any is still under way."""
        if not self.awaited:
            return False
        if not self.consumer.closed:
            self.consumer.poll()
        left = []
        for request, reference in self.awaited:
            future = reference()
            if future is None or future.done():
                continue
            if not request.done():
                left.append((request, reference))
                continue
            try:
                future.set_result(request.result())
            except Exception as error:  # the awaiting task's, whatever it is
                future.set_exception(error)
        self.awaited = left
        if not left:
            self._end()
        return bool(left)

    def _end(self):
        self.loop().remove_reader(self.descriptor)
        self.descriptor.close()
        _readers.get(self.loop(), {}).pop(id(self.consumer), None)


_readers: "weakref.WeakKeyDictionary" = weakref.WeakKeyDictionary()  # loop -> {consumer: _Reader}


def wait(request):
    """Request.__await__: the request's result. Cancelling the task cancels the request."""
    loop = asyncio.get_running_loop()
    of_loop = _readers.setdefault(loop, {})
    consumer = request.consumer
    reader = of_loop.get(id(consumer))
    if reader is None or reader.consumer is not consumer:
        reader = of_loop[id(consumer)] = _Reader(loop, consumer)
    return reader.add(request).__await__()
