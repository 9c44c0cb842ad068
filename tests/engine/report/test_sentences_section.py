"""The sentences on the page: what a reader sees of `sentences.json`, whatever lies in it."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from xlt_engine.engine.report.parts import load_run
from xlt_engine.engine.report.sections import KINDS, SENTENCES, sentences_section
from xlt_engine.engine.summary.stage_folders import made_from

from .test_report import HOSTILE, make_ner_run, page_of


def span(kind: str, start: int, end: int, mark: str = "", confidence: float | None = None) -> dict[str, Any]:
    return {"type": kind, "start": start, "end": end, "mark": mark, "confidence": confidence}


def content(**changes: Any) -> dict[str, Any]:
    """A sentence of two words before an entity, as gold and as a model has it."""
    readings = [
        {"by": "gold", "spans": [span("PER", 2, 4, "missed")]},
        {"by": "hard 2", "spans": [span("LOC", 3, 4, "wrong", 0.9994)]},
    ]
    entry = {"name": "de:7", "words": ["da", "kam", "Anna", "Berg", "."], "readings": readings, "remark": ""} | changes
    target = {"stage": "seed-0/de/hard2", "groups": [{"kind": "errors", "sentences": [entry]}], "missing": ["nothing"]}
    return {"schema_version": 1, "targets": {"de": target}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_ner_run(tmp_path / "run", seeds=1)


def section_of(folder: Path, value: Any) -> str:
    known = value if isinstance(value, str) else json.dumps(value | {"made_from": made_from(folder)})
    (folder / SENTENCES).write_text(known, "utf-8")
    return sentences_section(load_run(folder))


def test_words_and_marks_in_their_order(run: Path) -> None:
    root = ET.fromstring(f"<div>{section_of(run, content())}</div>")
    lines = {dt.text: dd for dt, dd in zip(root.iter("dt"), root.iter("dd"), strict=True)}
    assert "".join(lines["gold"].itertext()) == "da kam Anna Berg PER not so predicted ."
    assert "".join(lines["hard 2"].itertext()) == "da kam Anna Berg LOC 0.999 wrong ."
    (mark,) = lines["hard 2"].iter("mark")
    assert (mark.text, mark.get("class")) == ("Berg ", "k0 wrong")
    assert lines["gold"].get("lang") == "de"
    text = "".join(root.itertext())
    assert "not a sample" in text
    assert "Left out: nothing." in text


def test_a_text_has_its_class_before_it(run: Path) -> None:
    readings = [{"by": "soft 1", "label": "good", "mark": "", "confidence": 0.5, "spans": []}]
    section = section_of(run, content(words=["ein Satz"], readings=readings))
    assert re.sub("<.*?>", "", section.split("<dd")[1].split("</dd>")[0].partition(">")[2]) == "good 0.500 ein Satz"


def test_hostile_text_is_text(run: Path) -> None:
    hostile = span(HOSTILE, 0, 1, HOSTILE, 0.5)
    value = content(words=[HOSTILE, "x"], name=HOSTILE, remark=HOSTILE, readings=[{"by": HOSTILE, "spans": [hostile]}])
    value["targets"][HOSTILE] = value["targets"].pop("de") | {"missing": [HOSTILE]}
    section_of(run, value)
    page = page_of(run)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE.replace("\x00", "\ufffd")) == 7
    policies = [value for name, value in page.attributes if name == "content" and "default-src" in str(value)]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is not there"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ({"targets": {"de": 3}}, "not of this version"),
        ({"targets": {"de": {"missing": [], "groups": [{"kind": "errors"}]}}}, "not of this version"),
        (content(readings=[{"by": "x", "spans": [{"start": 0}]}]), "not of this version"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_left_out(run: Path, value: Any, reason: str) -> None:
    section = sentences_section(load_run(run)) if value is None else section_of(run, value)
    assert f"{SENTENCES} {reason}" in section.replace("is not of", "not of")
    assert "<mark" not in section
    assert "demo" in page_of(run).text


def test_ten_targets_stay_below_a_megabyte(run: Path) -> None:
    """Groups of two sentences of 60 words, every second one marked, as two models read them: more than there are."""
    readings = [
        {"by": f"stage {i}", "spans": [span("ORG", n, n + 1, "changed", 0.5) for n in range(0, 60, 2)]}
        for i in range(2)
    ]
    entry = {"name": "de:7", "words": ["Freundschaftsspiel"] * 60, "readings": readings, "remark": "remark"}
    groups = [{"kind": kind, "sentences": [entry] * 2} for kind in KINDS]
    target = {"stage": "s", "groups": groups, "missing": []}
    section = section_of(run, {"targets": {f"t{i}": target for i in range(10)}})
    assert 300_000 < len(section.encode()) < 1_000_000
    assert section.count("<details open") == 1
