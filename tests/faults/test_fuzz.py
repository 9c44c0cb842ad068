"""Rows 20 to 23, 29 to 36 and 51: every reader on damaged bytes. `XLT_INPUTS` sets how many each (200 by default)."""

import os

import pytest
from fuzz import fuzz, targets

NEVER_REFUSED = ("text", "predict", "pages", "checkpoint", "checkpoint-manifest", "soft-labels")
"""Any bytes are a text; damaged checkpoints and soft labels are passed over, and the target compares what is loaded."""
INPUTS = int(os.environ.get("XLT_INPUTS", "200"))


@pytest.mark.parametrize("name", targets())
@pytest.mark.fault(20, 22, 23, 29, 33, 36, 51)
def test_damaged_bytes_are_errors_of_ours(name: str) -> None:
    outcome = fuzz(name, INPUTS, seed=1)
    assert outcome["findings"] == {}
    assert outcome["inputs"] - outcome["accepted"] > 0 or name in NEVER_REFUSED
    assert outcome["slowest"] < 10
