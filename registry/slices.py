"""How long a thread runs before another gets its turn: short for the event loop, which answers many, the kernel's own for the pumps.

Linux schedules by virtual deadlines: who asks for a shorter slice gets the same share of a core in smaller pieces, and so waits less
for each (sched_setattr(2) with a runtime for SCHED_OTHER, since 6.12). Older kernels ignore the request.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

SHORT = 100_000
"""The event loop's slice, in nanoseconds: the shortest that the kernel takes."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}.get(platform.machine())
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr, version 0: size, policy, flags, nice, priority, runtime, deadline, period."""


def run_in_short_slices() -> None:
    """For the thread that calls; threads that it starts later inherit it."""
    _set_slice(SHORT)


def run_in_usual_slices() -> None:
    """Take back what a thread inherited."""
    _set_slice(0)


def _set_slice(nanoseconds: int) -> None:
    if _SCHED_SETATTR is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, nanoseconds, 0, 0)
    _syscall(_SCHED_SETATTR, 0, attributes, 0)  # a wish: where it is refused everything goes on as it was


_syscall = ctypes.CDLL(None).syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_syscall.restype = ctypes.c_long
