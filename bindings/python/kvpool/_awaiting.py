"""Requests as awaitables: one reader of an event loop for each consumer that has some awaited."""

import asyncio
import weakref

# What another thread took from the consumer meanwhile is found after that time at the latest.
_LOOK_AGAIN_S = 0.05


class _Reader:
    """The requests of one consumer that are awaited in one loop. Thread: the loop's."""

    def __init__(self, loop, consumer):
        self.loop = loop
        self.consumer = consumer
        self.awaited = []
        self.timer = None
        self.descriptor = -1

    def add(self, request):
        future = self.loop.create_future()
        if not self.awaited:
            self.descriptor = self.consumer.fileno()
            self.loop.add_reader(self.descriptor, self.look)
        self.awaited.append((request, future))
        self.look()
        return future

    def look(self):
        while self._take() and not self.consumer.arm():
            pass
        if self.timer:
            self.timer.cancel()
            self.timer = None
        if self.awaited:
            self.timer = self.loop.call_later(_LOOK_AGAIN_S, self.look)

    def _take(self):
        """Whether any is still under way."""
        if not self.awaited:
            return False
        if not self.consumer.closed:
            self.consumer.poll()
        left = []
        for request, future in self.awaited:
            if future.cancelled():
                request.cancel()
            elif request.done():
                try:
                    future.set_result(request.result())
                except Exception as error:  # the awaiting task's, whatever it is
                    future.set_exception(error)
            else:
                left.append((request, future))
        self.awaited = left
        if not left:
            self.loop.remove_reader(self.descriptor)
            _readers.get(self.loop, {}).pop(id(self.consumer), None)
        return bool(left)


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
