"""Label sets of thousands: looked up, not searched; counted, not repeated."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from xlt_engine import DataError, ModelError
from xlt_engine.data import Example
from xlt_engine.engine.prediction.scoring import _check_labels
from xlt_engine.engine.preflight.check_data import label_faults, label_warnings
from xlt_engine.engine.preflight.init_files import sniff
from xlt_engine.engine.recipe.config.files import recipe_files
from xlt_engine.engine.recipe.load import load_recipe

COUNT = 30_000


def labelled(prefix: str) -> list[Example]:
    return [Example(f"{i}", "en", None, "a", None, f"{prefix}{i}", "a.tsv", i + 1) for i in range(COUNT)]


def test_a_test_file_with_other_labels(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        'task = "classification"\n[model.new]\n[source]\nlanguage = "en"\ntrain = "a.tsv"\n'
        '[[targets]]\nlanguage = "de"\nunlabelled = ["de.txt"]\ntest = "b.tsv"\n', "utf-8",
    )  # fmt: skip
    config = load_recipe(tmp_path / "x.toml").config
    texts = {file: labelled(file.path.stem) for file in recipe_files(config) if file.labelled}
    began = time.process_time()
    faults = list(label_faults(config, texts))
    assert time.process_time() - began < 20
    assert len(faults) == 21
    assert "label 'b0' (1 times) is not among the labels of the source training file: a0, a1, a10" in faults[0].message
    assert faults[-1].message == "29,980 more labels are not among the labels of the source training file"
    assert max(len(fault.message) for fault in faults) < 1000
    assert list(label_warnings(config, texts))[0].name == "contradicting-labels"


class Model:
    labels = tuple(f"a{i}" for i in range(COUNT))


def test_scoring_a_file_with_other_labels() -> None:
    began = time.process_time()
    _check_labels(Model(), labelled("a"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="30000 examples in all") as caught:
        _check_labels(Model(), labelled("b"))  # type: ignore[arg-type]
    assert time.process_time() - began < 20
    assert len(str(caught.value)) < 5000


def test_a_csv_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + '"' + "a" * 200_000 + "\n", "utf-8")
    pytest.raises(DataError, sniff, path).match(r"a\.csv:1: no row has the 2 columns .* close every quote")
