import json
import math
import random
import re
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import DataError
from xlt_engine.engine.report.parts import load_run, thinned
from xlt_engine.engine.report.sections import reading, unclear
from xlt_engine.engine.report.write import write_report
from xlt_engine.engine.summary.seeds import Stat, Step
from xlt_engine.engine.summary.stage_table import aggregate, table_cells

from ..conftest import score_in
from .identities import identity

SVG = "{http://www.w3.org/2000/svg}"
NER_CLASSES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]
LEVELS = {  # stage folder: score on de, es, en
    "baseline": (56.8, 44.5, 86.7),
    "control": (51.0, 50.9, 85.0),
    "finetune": (73.5, 66.3, 99.4),
    "soft1": (74.6, 68.9, 84.2),
    "hard1": (76.7, 70.8, 86.9),
    "soft2": (77.0, 72.0, 80.1),
    "hard2": (77.6, 72.6, 82.3),
}
LOSSES = {"pretrain": (5.7, 2.1, 987), "btf": (5.0, 2.3, 750), "control-btf": (5.0, 2.2, 750)}


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def curve(rng: random.Random, skill: float, confident: float) -> dict[str, list[Any]]:
    grid = [round(0.51 + 0.01 * i, 2) for i in range(49)]
    coverage = [confident * (1 - ((t - 0.5) / 0.5) ** 6 * 0.75) for t in grid]
    accuracy = [min(0.9995, skill + (1 - skill) * ((t - 0.5) / 0.5) ** 1.5 + rng.gauss(0, 0.001)) for t in grid]
    return {
        "thresholds": grid,
        "kept": [int(27000 * c) for c in coverage],
        "accuracy": accuracy,
        "coverage": coverage,
        "recall": [a * c for a, c in zip(accuracy, coverage, strict=True)],
        "second_difference": [None] + [0.0] * 47 + [None],
    }


def decision(rng: random.Random, number: int, classes: list[str], *, gold: bool, tagging: bool) -> dict[str, Any]:
    alpha = round(rng.uniform(0.84, 0.98), 2)
    table = {}
    for i, name in enumerate(classes):
        items = int(16000 if name == "O" else 2400 / (1 + 0.35 * i)) if tagging else 1000 + 60 * i
        accepted = int(items * (rng.uniform(0.8, 0.9) if name == "O" else rng.uniform(0.2, 0.6)))
        table[name] = {"items": items, "accepted": accepted}
    items = sum(c["items"] for c in table.values())
    accepted = sum(c["accepted"] for c in table.values())
    bins = [{"confidence": 0.55 + 0.1 * i, "accuracy": 0.5 + 0.1 * i, "count": 100 * (i + 1) ** 3} for i in range(5)]
    target_bins = [{**b, "accuracy": b["accuracy"] - 0.06} for b in bins]
    source = 2000 if number == 1 else 1400
    removed = int(source * rng.uniform(0.2, 0.4))
    entity = [c for n, c in table.items() if n != "O"]
    share, third = sum(c["accepted"] for c in entity) / sum(c["items"] for c in entity), (items - accepted) // 3
    return {
        "round": number,
        "alpha": alpha,
        "rule": "second-difference",
        "at_edge": alpha >= 0.97,
        "unit": "token" if tagging else "text",
        "curve": curve(rng, 0.93, 0.97),
        "target_curve": curve(rng, 0.86, 0.9) if gold else None,
        "items": items,
        "accepted": accepted,
        "rejected": {"voters-disagree": third, "below-threshold": items - accepted - third},
        "classes": table,
        "coverage_entity": share if tagging else None,
        "coverage_o": table["O"]["accepted"] / table["O"]["items"] if tagging else None,
        "precision_if_gold": 0.965 + rng.uniform(-0.01, 0.01) if gold else None,
        "calibration": {"source": bins, "target": target_bins if gold else None},
        "source": {"items": source, "kept": source - removed, "removed": removed, "removed_per_class": {"B-PER": 9}},
    }


def put_decision(folder: Path, found: dict[str, Any], language: str) -> None:
    """As a hard stage leaves it: what depends on the test file is beside the scores."""
    gold = {name: found.pop(name) for name in ("target_curve", "precision_if_gold")}
    gold["calibration"] = found["calibration"].pop("target")
    put(folder / "decision.json", found)
    if gold["target_curve"]:
        put(folder / "scores.json", json.loads((folder / "scores.json").read_bytes()) | {"if_gold": {language: gold}})


def write_stage(rng: random.Random, folder: Path, seconds: float, scores: list[dict[str, Any]] | None) -> None:
    name = folder.name
    start, end, steps = LOSSES.get(name, (0.02, 0.004, 252) if "soft" in name else (0.9, 0.05, 252))
    noise = [math.exp(rng.gauss(0, 0.06)) for _ in range(steps)]
    loss = [(end + (start - end) * math.exp(-5 * i / steps)) * noise[i] for i in range(steps)]
    put(folder / "trace.json", {"steps": list(range(1, steps + 1)), "loss": loss})
    if scores:
        put(folder / "scores.json", {"scores": scores})
    spent = {"seconds": seconds, "cpu_seconds": 100 * seconds, "steps": steps, "tokens": 9 * 32 * steps}
    hashes = {"model.safetensors": f"{rng.getrandbits(128):032x}"}
    put(folder / "stage.json", identity(name) | spent | {"hashes": hashes})


def scores_of(rng: random.Random, language: str, role: str, value: float, metrics: list[str]) -> list[dict[str, Any]]:
    out = []
    for i, metric in enumerate(metrics):
        shown = min(99.9, max(0.0, value - 0.8 * i + rng.gauss(0, 0.3 * bool(i))))
        out.append({"language": language, "role": role, "metric": metric, "value": shown, "count": 1000})
    return out


def make_ner_run(folder: Path, *, seeds: int = 3) -> Path:
    """A run folder as the demo leaves it: 2 targets, zero-shot, control, BTF, two rounds."""
    rng, names = random.Random(5), ("de", "es")
    metrics = ["entity_f1", "entity_f1_strict", "precision", "recall"]
    for seed in range(seeds):
        root = folder / f"seed-{seed}"
        luck = {t: rng.gauss(0, 2.5) for t in names}
        write_stage(rng, root / "pretrain", 5.0, None)
        shared = scores_of(rng, "en", "source", 86.7 + rng.gauss(0, 1), metrics)
        for t, name in enumerate(names):
            shared += scores_of(rng, name, "target", LEVELS["baseline"][t] + luck[name], metrics)
        write_stage(rng, root / "baseline", 5.0, shared)
        for t, name in enumerate(names):
            for stage in ("control-btf", "control", "btf", "finetune", "soft1", "hard1", "soft2", "hard2"):
                scores = None
                if stage in LEVELS:
                    value = LEVELS[stage][t] + luck[name] + rng.gauss(0, 0.8)
                    scores = scores_of(rng, name, "target", value, metrics)
                    scores += scores_of(rng, "en", "source", LEVELS[stage][2] + rng.gauss(0, 0.8), metrics)
                write_stage(rng, root / name / stage, rng.uniform(7, 8), scores)
                if stage.startswith("soft"):
                    found = decision(rng, int(stage[-1]), NER_CLASSES, gold=True, tagging=True)
                    put_decision(root / name / stage, found, name)
    put(
        folder / "run.json",
        {
            "name": "demo",
            "task": "ner",
            "metric": "entity_f1",
            "created": "2026-01-31T12:00:00Z",
            "source": "en",
            "targets": list(names),
            "seeds": list(range(seeds)),
            "versions": {"xlt_engine": "0.1.0", "torch": "2.11.0", "python": "3.11.7"},
            "plan": {
                path.relative_to(folder).as_posix(): identity(path.name)
                for pattern in ("seed-*/*", "seed-*/*/*")
                for path in sorted(folder.glob(pattern))
                if (path / "stage.json").exists()
            },
            "hashes": {"news.en.conll": "ab" * 16},
            "command": "xlt-engine run --stage selftrain",
            "threads": 2,
        },
    )
    (folder / "config.toml").write_text('name = "demo"  # recipe demo\n[btf]\nlr = 0.0015  # --set\n', "utf-8")
    return folder


def make_classification_run(folder: Path) -> Path:
    """A run with one target, no baseline arm, no gold for the unlabelled text, and a last stage that hurts."""
    rng = random.Random(9)
    for seed in range(3):
        root = folder / f"seed-{seed}" / "fr"
        for stage, level in {"btf": None, "finetune": 82.0, "soft1": 84.4, "hard1": 83.1}.items():
            scores = None
            if level is not None:
                scores = scores_of(rng, "fr", "target", level + rng.gauss(0, 0.3), ["accuracy", "macro_f1"])
                scores += scores_of(rng, "en", "source", 90.0 + rng.gauss(0, 0.3), ["accuracy", "macro_f1"])
            write_stage(rng, root / stage, 20.0, scores)
        put_decision(root / "soft1", decision(rng, 1, ["negative", "positive"], gold=False, tagging=False), "fr")
    warning = {"name": "one-sided-labels", "message": "80 % are 'positive'.", "values": {"share": 0.8}}
    hard = root / "hard1" / "stage.json"
    put(hard, json.loads(hard.read_text("utf-8")) | {"warnings": [warning]})
    info = {"name": "reviews", "task": "classification", "metric": "accuracy", "source": "en", "targets": ["fr"]}
    put(folder / "run.json", info)
    return folder


@pytest.fixture
def ner(tmp_path: Path) -> Path:
    return make_ner_run(tmp_path / "ner")


class Page:
    """The tables, tags, attributes and text of a page, which is XML, so that its tags nest."""

    def __init__(self, text: str) -> None:
        root = ET.fromstring(text.removeprefix("<!doctype html>\n"))
        self.tags = [e.tag.rpartition("}")[2] for e in root.iter()]
        self.attributes = [item for e in root.iter() for item in e.attrib.items()]
        self.tables = [
            [["".join(c.itertext()) for c in row] for row in table.iter("tr")] for table in root.iter("table")
        ]
        self.text = "".join(root.itertext())


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text("utf-8"))


def picture(folder: Path, name: str) -> ET.Element:
    return ET.parse(folder / "figures" / f"{name}.svg").getroot()


def marks(root: ET.Element, css: str) -> list[str]:
    """The hover texts of all shapes with a class."""
    found = [e for e in root.iter() if css in (e.get("class") or "").split()]
    return [e.findtext(f"{SVG}title") or "" for e in found]


def test_page_and_figures_are_well_formed(ner: Path) -> None:
    page_of(ner)
    names = {p.stem for p in (ner / "figures").glob("*.svg")}
    expected = {"trail", "languages", "thresholds", "loss"}
    assert names == expected
    for name in names:
        assert picture(ner, name).findtext(f"{SVG}title")
    assert not list(ner.rglob(".*"))


def test_page_refers_to_nothing_outside(ner: Path) -> None:
    page = page_of(ner)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "image", "use"} & set(page.tags)
    assert not {"src", "xlink:href", "action", "srcset"} & {name for name, _ in page.attributes}
    assert all(str(value).startswith("#") for name, value in page.attributes if name == "href")
    assert not any(name.startswith("on") for name, _ in page.attributes)
    text = (ner / "report.html").read_text("utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert not re.findall(r"https?://", text.replace("http://www.w3.org/2000/svg", ""))


def values(folder: Path, stage: str, language: str, pair: str | None, metric: str = "entity_f1") -> list[float]:
    """Scores straight from the stage folders, one per seed."""
    place = stage if stage == "baseline" else f"{pair}/{stage}"
    return [score_in(root / place, language, metric) for root in sorted(folder.glob("seed-*"))]


def shown(numbers: list[float]) -> str:
    return f"{statistics.fmean(numbers):.1f} ± {statistics.stdev(numbers):.1f}"


def test_the_tables_are_those_of_the_summary(ner: Path) -> None:
    """Whose numbers tests/engine/report/test_summary.py compares with numpy's."""
    table, steps = page_of(ner).tables[:2]
    result = aggregate(json.loads((ner / "summary.json").read_bytes()))
    header, lines = table_cells(result)
    assert table == [header, *lines]
    assert [line[0] for line in lines] == [s.label for s in result.stages]
    assert lines[-1][1:3] == [shown(values(ner, "hard2", t, t)) for t in ("de", "es")]
    assert [line[-2] for line in steps[1:]] == [f"{s.range_over_targets:.1f}" for s in result.stages]


def test_trail_draws_every_row_once(ner: Path) -> None:
    write_report(ner)
    tips = marks(picture(ner, "trail"), "pt")
    assert len(tips) == len(set(tips)) == 3 * 2 * 7
    for seed, value in enumerate(values(ner, "hard2", "es", "es")):
        assert f"es, hard 2, seed {seed}: {value:.1f}" in tips


def test_other_pictures_draw_what_there_is(ner: Path) -> None:
    write_report(ner)
    assert len(marks(picture(ner, "languages"), "bar")) == 2 * (1 + 2 + 2) + 2 * 2
    tips = marks(picture(ner, "thresholds"), "pt")
    assert len(tips) == 3 * 2 * 2 * (2 + 2)
    found = json.loads((ner / "seed-1/es/soft2/decision.json").read_bytes())
    assert f"seed 1: accepted {100 * found['accepted'] / found['items']:.0f} % of the target" in tips
    assert f"seed 1: accepted {100 * found['coverage_entity']:.0f} % of its entities" in tips
    curves = [e for e in picture(ner, "loss").iter(f"{SVG}path") if "line" in (e.get("class") or "")]
    assert len(curves) == 2 * (3 + 1) + 8 * 2 * (3 + 1)


def test_bar_heights_are_the_scores(ner: Path) -> None:
    write_report(ner)
    bars = [e for e in picture(ner, "languages").iter(f"{SVG}rect") if "bar" in (e.get("class") or "").split()]
    height = {b.findtext(f"{SVG}title"): float(b.get("height") or 0) for b in bars}
    de = [statistics.fmean(values(ner, s, "de", "de")) for s in ("baseline", "hard2")]
    names = [f"de: {shown(values(ner, s, 'de', 'de'))}" for s in ("baseline", "hard2")]
    assert height[names[1]] / height[names[0]] == pytest.approx(de[1] / de[0], rel=0.01)


def test_decision_table_follows_the_files(ner: Path) -> None:
    table = next(t for t in page_of(ner).tables if t[0][0] == "target")
    assert len(table) == 1 + 3 * 2 * 2
    column = {name.replace("\u00a0", " "): i for i, name in enumerate(table[0])}
    for line in table[1:]:
        path = ner / f"seed-{line[2]}" / line[0] / f"soft{line[1]}" / "decision.json"
        d = json.loads(path.read_text("utf-8"))
        assert line[column["α"]] == f"{d['alpha']:.2f}" + "*" * d["at_edge"]
        assert line[column["items"]] == f"{d['items']:,}"
        assert line[column["accepted"]] == f"{100 * d['accepted'] / d['items']:.0f} %"
        assert line[column["of entities"]] == f"{100 * d['coverage_entity']:.0f} %"
        assert line[column["voters disagree"]] == f"{d['rejected']['voters-disagree']:,}"
        assert line[column["source removed"]] == f"{100 * d['source']['removed'] / d['source']['items']:.0f} %"


def test_reading_is_made_of_the_numbers(ner: Path) -> None:
    text = " ".join(reading(load_run(ner)))
    whole = [
        a - b
        for t in ("de", "es")
        for a, b in zip(values(ner, "hard2", t, t), values(ner, "baseline", t, t), strict=True)
    ]
    assert f"{statistics.fmean(whole):+.1f} ± {statistics.stdev(whole):.1f} points" in text
    assert "up in 6 of 6 (target, seed) pairs" in text
    assert "Target labels were used for scoring only" in text


def test_reading_says_when_a_stage_hurt(tmp_path: Path) -> None:
    folder = make_classification_run(tmp_path / "cls")
    text = " ".join(reading(load_run(folder)))
    assert "Lowered the score on average: hard 1 (-1." in text
    assert "up in 0 of 3" in text


def rescore(path: Path, value: float) -> None:
    scores = json.loads(path.read_text("utf-8"))["scores"]
    put(path, {"scores": [s | {"value": value} for s in scores]})


def collapse(folder: Path, students: float) -> Path:
    """Every score of a student: what a run that learned nothing leaves, or one that stood still."""
    for path in folder.rglob("scores.json"):
        if path.parent.name.startswith(("soft", "hard")):
            rescore(path, students)
    return folder


@pytest.mark.parametrize("seeds", [1, 2])
def test_no_collapse_is_called_noise_for_want_of_seeds(tmp_path: Path, seeds: int) -> None:
    text = " ".join(reading(load_run(collapse(make_ner_run(tmp_path / "run", seeds=seeds), 0.0))))
    assert "Self-training (soft 1 to hard 2) on top of its first teacher: -" in text
    assert "noise" not in text
    assert ("One seed shows" if seeds == 1 else "Two seeds show") in text


def test_noise_is_named_where_there_are_seeds_to_know_it_by(tmp_path: Path) -> None:
    run = load_run(collapse(make_ner_run(tmp_path / "run"), 70.0))
    assert "within the noise of these seeds" in " ".join(reading(run))


def test_the_contents_lead_to_every_heading(ner: Path) -> None:
    page = page_of(ner)
    links = [str(value)[1:] for name, value in page.attributes if name == "href"]
    assert links == [value for name, value in page.attributes if name == "id" and value in links]
    assert len(links) == page.tags.count("h2") == 6


def test_precision_says_that_it_counts_outside_words(ner: Path, tmp_path: Path) -> None:
    decided = next(t for t in page_of(ner).tables if t[0][0] == "target")
    assert "precision, with\u00a0O\u00a0†" in decided[0]
    assert "with\u00a0O" not in page_of(make_classification_run(tmp_path / "cls")).text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 2.1, 1.9], False),
        ([2.0, -2.1, 0.4], True),
        ([5.0, 5.1], True),
        ([-3.0, -3.2, -2.9], False),
        ([4.0], True),
    ],
)
def test_a_step_is_unclear_within_two_standard_errors(values: list[float], expected: bool) -> None:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    assert unclear(Step(Stat(statistics.fmean(values), deviation, len(values)), 0, "")) is expected


def test_classification_without_gold_leaves_out_gold(tmp_path: Path) -> None:
    folder = make_classification_run(tmp_path / "cls")
    page = page_of(folder)
    assert "gold" not in page.text
    assert "one-sided-labels" in page.text
    assert not any("precision" in cell for t in page.tables for cell in t[0])
    assert len(marks(picture(folder, "trail"), "pt")) == 9
    assert "gold" not in (folder / "figures" / "thresholds.svg").read_text("utf-8")


HOSTILE = "<script>alert('x')</script>&\"'\x00"


def test_hostile_names_are_text(tmp_path: Path) -> None:
    folder = make_ner_run(tmp_path / "run", seeds=1)
    info = json.loads((folder / "run.json").read_text("utf-8"))
    info |= {"name": HOSTILE, "task": HOSTILE, "versions": {HOSTILE: HOSTILE}, "hashes": {HOSTILE: HOSTILE}}
    info |= {"warnings": [{"name": HOSTILE, "message": HOSTILE}], "command": HOSTILE, "created": HOSTILE}
    put(folder / "run.json", info)
    (folder / "config.toml").write_text(f"# </pre>{HOSTILE}", "utf-8")
    path = folder / "seed-0" / "de" / "soft1" / "decision.json"
    found = json.loads(path.read_text("utf-8"))
    found["classes"][HOSTILE] = {"items": 99999, "accepted": 5}
    found["rejected"][HOSTILE], found["rule"] = 3, HOSTILE
    put(path, found)
    page = page_of(folder)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE.replace("\x00", "\ufffd")) >= 8
    for figure in (folder / "figures").glob("*.svg"):
        assert not list(ET.parse(figure).getroot().iter(f"{SVG}script"))


def test_settings_and_provenance_are_on_the_page(ner: Path) -> None:
    text = page_of(ner).text
    assert "lr = 0.0015  # --set" in text
    assert "ab" * 16 in text
    stage = json.loads((ner / "seed-2" / "es" / "hard2" / "stage.json").read_text("utf-8"))
    assert stage["hashes"]["model.safetensors"][:16] in text


def test_an_unfinished_run_is_reported_as_far_as_it_got(ner: Path) -> None:
    write_report(ner)
    for seed in (0, 1, 2):
        for pair in ("de", "es"):
            for stage in ("soft1", "hard1", "soft2", "hard2"):
                for file in (ner / f"seed-{seed}" / pair / stage).iterdir():
                    file.unlink()
    text = page_of(ner).text
    assert "Not finished: seed-0/de/soft1, seed-1/de/soft1, seed-2/de/soft1 and 21 more" in text
    assert {p.stem for p in (ner / "figures").glob("*.svg")} == {"trail", "languages", "loss"}


@pytest.mark.parametrize("missing", ["scores.json", "trace.json", "decision.json", "stage.json"])
def test_any_kind_of_file_may_be_missing(ner: Path, missing: str) -> None:
    for path in ner.rglob(missing):
        path.unlink()
    page = page_of(ner)
    assert "demo" in page.text
    assert ("No stage has been scored yet" in page.text) is (missing == "scores.json")


def test_a_target_without_test_set_is_named(ner: Path) -> None:
    for path in ner.rglob("scores.json"):
        kept = [s for s in json.loads(path.read_text("utf-8"))["scores"] if s["language"] != "es"]
        put(path, {"scores": kept})
    page = page_of(ner)
    assert "No scores for es" in page.text
    assert len(marks(picture(ner, "trail"), "pt")) == 3 * 7
    assert page.tables[0][0][:4] == ["stage", "de", "step", "up"]


def test_a_run_that_learnt_nothing_has_a_page(tmp_path: Path) -> None:
    folder = make_ner_run(tmp_path / "run", seeds=1)
    for path in folder.rglob("scores.json"):
        rescore(path, 0.0)
    for path in folder.rglob("decision.json"):
        found = json.loads(path.read_text("utf-8"))
        found |= {"alpha": 0.2, "accepted": 0, "items": 0, "classes": {}}
        found |= {"coverage_entity": None, "coverage_o": None, "calibration": None, "source": None}
        found["curve"] |= {"accuracy": [None] * 49, "coverage": [0.0] * 49}
        put(path, found)
    text = page_of(folder).text
    assert "One seed shows what happened here, not what others would give" in text
    assert not re.search(r"\b(nan|inf)\b", text)
    for file in (folder / "figures").glob("*.svg"):
        assert not re.search(r"\b(nan|inf)\b", file.read_text("utf-8"))
    panel = next(e for e in picture(folder, "thresholds").iter(f"{SVG}line") if e.get("class") == "rule")
    assert 0 <= float(panel.get("x1") or -1) < 300


def test_an_empty_folder_is_an_error_and_a_new_run_is_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)
    put(tmp_path / "run.json", {"name": "new", "targets": ["de"]})
    assert "No scores for de" in page_of(tmp_path).text


def test_curves_are_thinned_to_means() -> None:
    trace = {"steps": list(range(1, 1001)), "loss": [float(i) for i in range(1000)]}
    points = thinned(trace)
    assert len(points) == 100
    assert points[0] == (5.5, 4.5)
    assert points[-1] == (995.5, 994.5)
    assert thinned({"steps": [1, 2, 3], "loss": [1.0, None, 3.0]}) == [(1.0, 1.0), (3.0, 3.0)]
