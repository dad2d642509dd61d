"""What can go wrong, as exceptions with the words that the command line prints.

A miss, a rejected store or a deadline that passed is no error: it is the status of a request's result.
"""

import enum


class Status(enum.IntEnum):
    """How a request ended (kvpool_status of the C API)."""

    OK = 0
    MISS = 1  # nothing, or less than was asked, is in the pool
    BUSY = 2
    REJECTED = 3  # not stored: no room that may be evicted, or the parent block is gone
    CANCELLED = 4
    TIMED_OUT = 5
    IO_ERROR = 6
    SHORT_IO = 7
    CORRUPT = 8
    INVALID_ARGUMENT = 9
    TOO_LARGE = 10
    IN_USE = 11
    NOT_OURS = 12
    UNSUPPORTED = 13
    CLOSED = 14
    SYSTEM = 15


class KVPoolError(Exception):
    """Of everything that kvpool raises. `status` says which kind."""

    status = Status.SYSTEM


class Busy(KVPoolError):
    """A bounded queue is full; wait for some requests, then try again."""

    status = Status.BUSY


class TimedOut(KVPoolError, TimeoutError):
    """The time limit of the call passed. What was waited for goes on."""

    status = Status.TIMED_OUT


class DeviceError(KVPoolError):
    """A device failed a request, or moved fewer bytes than asked."""

    status = Status.IO_ERROR


class InvalidArgument(KVPoolError, ValueError):
    """What was passed cannot be; the message says what."""

    status = Status.INVALID_ARGUMENT


class TooLarge(KVPoolError, ValueError):
    """Beyond a limit that the configuration sets."""

    status = Status.TOO_LARGE


class InUse(KVPoolError):
    """Another process has the device open."""

    status = Status.IN_USE


class NotOurs(KVPoolError):
    """The file or drive holds something that kvpool did not write; it was left alone."""

    status = Status.NOT_OURS


class Unsupported(KVPoolError):
    """This machine, or this build, cannot do that."""

    status = Status.UNSUPPORTED


class Closed(KVPoolError):
    """The pool or the consumer is closed."""

    status = Status.CLOSED


class OperatingSystemError(KVPoolError):
    """The operating system refused; the message has its words."""

    status = Status.SYSTEM


_BY_STATUS = {cls.status: cls for cls in KVPoolError.__subclasses__()}


def make(status: int, message: str) -> KVPoolError:
    """The exception for a status of the C API."""
    status = Status(status)
    error = _BY_STATUS.get(status, DeviceError)(message)
    error.status = status
    return error
