"""Named points at which a test makes the process die, fail or wait; nothing happens unless `XLT_FAULT` is set.

`XLT_FAULT=<point>:<n>:<action>` strikes at the n-th passage (from 1) of the points that match `<point>`, a
shell pattern: `checkpoint.*:3:kill` counts all points of the checkpoint writer together, so that a test can
enumerate them until a run survives.

Actions: `kill`, `term` and `hup` (the signals), `raise` (RuntimeError), `enospc` and `eio` (OSError), `oom` (what
torch raises on a CPU without memory), `sleep` (30 s), `nan` (`fault` returns True, and the caller spoils a value).
"""

from __future__ import annotations

import errno
import fnmatch
import os
import signal
import time

from ... import ConfigError

VARIABLE = "XLT_FAULT"
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "hup": signal.SIGHUP}
ACTIONS = (*_SIGNALS, "raise", "enospc", "eio", "oom", "sleep", "nan")
SLEEP_SECONDS = 30.0

_passages: dict[str, int] = {}


def fault(point: str) -> bool:
    """Strike if `XLT_FAULT` asks for it here; True means that the caller shall put a NaN in its result."""
    plan = os.environ.get(VARIABLE)
    return _strike(point, plan) if plan else False


def _strike(point: str, plan: str) -> bool:
    pattern, number, action = _parse(plan)
    if not fnmatch.fnmatchcase(point, pattern):
        return False
    _passages[plan] = _passages.get(plan, 0) + 1
    if _passages[plan] != number:
        return False
    if action == "nan":
        return True
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
    elif action == "sleep":
        time.sleep(SLEEP_SECONDS)
    elif action == "oom":
        raise RuntimeError(f"fault at {point}: DefaultCPUAllocator: can't allocate memory")
    elif action == "raise":
        raise RuntimeError(f"fault at {point}")
    else:
        code = errno.ENOSPC if action == "enospc" else errno.EIO
        raise OSError(code, os.strerror(code))
    return False


def _parse(plan: str) -> tuple[str, int, str]:
    parts = plan.split(":")
    if len(parts) != 3 or not parts[1].isdecimal() or int(parts[1]) < 1 or parts[2] not in ACTIONS:
        raise ConfigError(
            f"{VARIABLE}={plan}: expected <point>:<number from 1>:<action>, with an action of {', '.join(ACTIONS)}"
        )
    return parts[0], int(parts[1]), parts[2]
