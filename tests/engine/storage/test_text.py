from __future__ import annotations

import math

from xlt_engine.engine.storage.text import clock, percent, size_text, some, time_text


def test_sizes_and_times() -> None:
    sizes = [size_text(n) for n in (0, 999, 1500, 12_345_678, 10**15)]
    assert sizes == ["0 bytes", "999 bytes", "1.5 kB", "12.3 MB", "1000 TB"]
    assert [size_text(n, memory=True) for n in (3 * 2**20, 850 * 2**20, 3 * 2**29)] == ["3 MiB", "850 MiB", "1.5 GiB"]
    assert [time_text(x) for x in (3, 600, 36_000)] == ["3 s", "10 min", "10.0 h"]
    assert [clock(x) for x in (5.4, 65, 3723)] == ["0:05", "1:05", "1:02:03"]


def test_shares_and_lists() -> None:
    shares = [percent(x) for x in (0, 0.001, 0.5, 0.999, 1, None, math.nan)]
    assert shares == ["0 %", "0.1 %", "50 %", "99.9 %", "100 %", "-", "-"]
    assert (some("abc", 3), some("abcde", 3, "; ")) == ("a, b, c", "a; b; c and 2 more")
