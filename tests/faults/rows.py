"""Writes into the table of docs/reliability.md how many cases of the tests of this repository try each row.

`python tests/faults/rows.py [--check]`; a test names its rows by `@pytest.mark.fault(4, 7)`.
"""

import argparse
import contextlib
import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^(\|(\d+)\|.*\|)\d+\|$", re.M)
"""Number, fault, what happens, tests; cases."""


class Cases:
    """A plugin of pytest: cases by row."""

    def __init__(self) -> None:
        self.rows: Counter[int] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.rows.update(r for item in session.items for mark in item.iter_markers("fault") for r in mark.args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where the numbers differ")
    check = parser.parse_args().check
    cases = Cases()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        code = pytest.main(["--collect-only", "-q", "-n0", "-m", "fault", str(ROOT / "tests")], plugins=[cases])
    assert code == 0, f"pytest: {code}"
    page = PAGE.read_text("utf-8")

    made = ROW.sub(lambda row: f"{row[1]}{cases.rows[int(row[2])]}|", page)
    if check:
        sys.exit(0 if made == page else f"{PAGE}: other numbers of cases; run python tests/faults/rows.py")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
