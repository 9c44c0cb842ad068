"""Precision, recall, F1 and support of each entity type, or class: in scores.json, summary.json and the report."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from seqeval.metrics import classification_report

from xlt_engine.engine import predict
from xlt_engine.engine.report.parts import load_run
from xlt_engine.engine.report.sections import class_section

STAGES = ("baseline", "de/finetune", "de/soft1", "de/hard1")


def approx(values: dict[str, float]) -> Any:
    return pytest.approx(values, rel=1e-12)


def classes_of(run: Any, stage: str, language: str, metric: str) -> dict[str, dict[str, float]]:
    rows = run.json(f"{stage}/scores.json")["scores"]
    found: dict[str, dict[str, float]] = next(
        r["classes"] for r in rows if (r["language"], r["metric"]) == (language, metric)
    )
    assert sum("classes" in r for r in rows if r["language"] == language) == 1
    return found


def confusion_of(run: Any, stage: str, language: str) -> dict[str, dict[str, int]]:
    rows = run.json(f"{stage}/scores.json")["scores"]
    (table,) = (r["confusion"] for r in rows if r["language"] == language and "confusion" in r)
    return dict(table)


def counted(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Pairs of gold and predicted, by the one and the other."""
    table: dict[str, dict[str, int]] = {}
    for (gold, predicted), count in Counter(pairs).items():
        table.setdefault(gold, {})[predicted] = count
    return table


def test_entity_types_are_those_of_seqeval(tiny: Any) -> None:
    run = tiny("ner")
    result = run.run("selftrain.rounds=1", "finetune.epochs=6")
    scores = set()
    for stage in STAGES:
        folder = run.folder / "run" / "seed-0" / stage
        for language in ("en", "de"):
            blocks = (run.folder / f"test-{language}.conll").read_text("utf-8").strip().split("\n\n")
            pairs = [[line.split("\t") for line in block.split("\n")] for block in blocks]
            gold = [[tag for _, tag in pair] for pair in pairs]
            found = predict(folder, [[word for word, _ in pair] for pair in pairs])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tags = [list(f.labels) for f in found]  # type: ignore[union-attr]
                report = classification_report(gold, tags, output_dict=True, zero_division=0)
            words = [(g[-3:], p[-3:]) for gs, ps in zip(gold, tags, strict=True) for g, p in zip(gs, ps, strict=True)]
            assert confusion_of(run, stage, language) == counted(words)
            own = classes_of(run, stage, language, "entity_f1")
            assert set(own) == {name for name in report if " " not in name} == {"LOC", "PER"}
            for name, values in own.items():
                theirs = report[name]
                assert values["support"] == theirs["support"]
                shares = {"precision": theirs["precision"], "recall": theirs["recall"], "f1": theirs["f1-score"]}
                expected = {key: 100 * share for key, share in shares.items()}
                assert {key: values[key] for key in expected} == approx(expected)
                scores.add(round(values["precision"] - values["recall"], 6))
    assert len(scores) > 2, "precision and recall must differ, or nobody could tell them apart"
    rows = [r for r in result.summary["rows"] if "classes" in r]
    assert {(r["model"], r["language"], r["metric"]) for r in rows} == {
        (f"seed-0/{stage}", language, "entity_f1") for stage in STAGES for language in ("en", "de")
    }
    assert "Each entity type by itself" in result.report.read_text("utf-8")


def test_classes_are_counted(tiny: Any) -> None:
    run = tiny("classification")
    run.run("selftrain.on=false", "finetune.epochs=3")
    for language in ("en", "de"):
        lines = (run.folder / f"test-{language}.tsv").read_text("utf-8").splitlines()[1:]
        texts, gold = zip(*(line.split("\t") for line in lines), strict=True)
        predicted = [p.label for p in predict(run.folder / "run" / "seed-0" / "de" / "finetune", list(texts))]  # type: ignore[union-attr]
        assert confusion_of(run, "de/finetune", language) == counted(zip(gold, predicted, strict=True))
        own = classes_of(run, "de/finetune", language, "accuracy")
        for name in ("negative", "positive"):
            right = sum(g == p == name for g, p in zip(gold, predicted, strict=True))
            precision, recall = (right / max(1, side.count(name)) for side in (predicted, list(gold)))
            f1 = 2 * precision * recall / (precision + recall) if right else 0.0
            expected = {"precision": 100 * precision, "recall": 100 * recall, "f1": 100 * f1}
            assert own[name] == approx(expected | {"support": gold.count(name)})


def test_the_report_has_means_over_seeds(tiny: Any) -> None:
    run = tiny("ner")
    run.run("selftrain.rounds=0.5", seeds=(0, 1))
    found = load_run(run.folder / "run")
    section = class_section(found)
    assert re.findall("<summary>(.*?)</summary>", section) == ["de", "en"]
    german, confused = section.split("<summary>")[1].split("<p>")
    cells = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", german)][1:]
    assert [line[0] for line in cells] == ["LOC", "PER"]
    heads = re.findall('<th scope="col">(.*?)</th>', german)
    assert heads[:5] == ["", "support", "precision, soft 1", "recall, soft 1", "F1, soft 1"]
    last = [run.json("de/soft1/scores.json", seed=seed)["scores"] for seed in (0, 1)]
    own = [r["classes"] for rows in last for r in rows if r["language"] == "de" and "classes" in r]
    for line in cells:
        assert line[1] == str(own[0][line[0]]["support"])
        means = [sum(c[line[0]][what] for c in own) / 2 for what in ("precision", "recall", "f1")]
        assert [cell.split(" ")[0] for cell in line[2:5]] == [f"{mean:.1f}" for mean in means]
    assert found.answers["de"].stage in confused
    rows = json.loads((found.answers["de"].folder / "scores.json").read_bytes())["scores"]
    (counts,) = (r["confusion"] for r in rows if r["language"] == "de" and "confusion" in r)
    lines = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", confused)][1:]
    expected = {(gold, said, str(n)) for gold, row in counts.items() for said, n in row.items() if gold != said}
    assert {(gold, said, n) for gold, said, n, _ in lines} == expected


def test_of_many_classes_the_frequent_confusions_are_listed(tmp_path: Path) -> None:
    names = [f"class{i:02}" for i in range(30)]
    counts = {name: {name: 7, names[(i + 1) % 30]: i + 1} for i, name in enumerate(names)}
    score = {"language": "de", "role": "target", "metric": "accuracy", "value": 50.0, "count": 9, "confusion": counts}
    stage = tmp_path / "seed-0/de/finetune"
    stage.mkdir(parents=True)
    identity = {"arm": "btf", "stage": "btf", "kind": "finetune", "order": 30, "label": "BTF", "seed": 0, "pair": "de"}
    (stage / "stage.json").write_text(json.dumps(identity), "utf-8")
    (stage / "scores.json").write_text(json.dumps({"scores": [score]}), "utf-8")
    run = {"name": "many", "task": "classification", "metric": "accuracy", "source": "en", "targets": ["de"]}
    (tmp_path / "run.json").write_text(json.dumps(run), "utf-8")
    section = class_section(load_run(tmp_path))
    lines = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", section)][1:]
    assert len(lines) == 15
    assert lines[0] == ["class29", "class00", "30", "81 %"]
    assert "15 of 30" in section


def test_a_run_without_scores_has_no_section(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "new", "task": "ner", "targets": ["de"]}', "utf-8")
    assert class_section(load_run(tmp_path)) == ""
