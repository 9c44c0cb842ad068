from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

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
SECONDS = {
    "pretrain": 43.0,
    "baseline": 5.5,
    "control-btf": 31.0,
    "control": 5.4,
    "btf": 32.0,
    "finetune": 5.5,
    "soft1": 8.0,
    "hard1": 7.5,
    "soft2": 8.1,
    "hard2": 7.6,
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
        table[name] = {"items": items, "accepted": accepted, "correct": int(accepted * 0.97) if gold else None}
    items = sum(c["items"] for c in table.values())
    accepted = sum(c["accepted"] for c in table.values())
    bins = [{"confidence": 0.55 + 0.1 * i, "accuracy": 0.5 + 0.1 * i, "count": 100 * (i + 1) ** 3} for i in range(5)]
    target_bins = [{**b, "accuracy": b["accuracy"] - 0.06} for b in bins]
    source = 2000 if number == 1 else 1400
    removed = int(source * rng.uniform(0.2, 0.4))
    entity = [c for n, c in table.items() if n != "O"]
    share = sum(c["accepted"] for c in entity) / sum(c["items"] for c in entity)
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
        "rejected": {
            "voters-disagree": (items - accepted) // 3,
            "below-threshold": items - accepted - (items - accepted) // 3,
        },
        "classes": table,
        "coverage_entity": share if tagging else None,
        "coverage_o": table["O"]["accepted"] / table["O"]["items"] if tagging else None,
        "precision_if_gold": 0.965 + rng.uniform(-0.01, 0.01) if gold else None,
        "calibration": {"source": bins, "target": target_bins if gold else None},
        "source": {"items": source, "kept": source - removed, "removed": removed, "removed_per_class": {"B-PER": 9}},
    }


def write_stage(rng: random.Random, folder: Path, seconds: float, scores: list[dict[str, Any]] | None) -> None:
    name = folder.name
    start, end, steps = LOSSES.get(
        name, (0.9 if "soft" not in name else 0.02, 0.05 if "soft" not in name else 0.004, 252)
    )
    noise = [math.exp(rng.gauss(0, 0.06)) for _ in range(steps)]
    loss = [(end + (start - end) * math.exp(-5 * i / steps)) * noise[i] for i in range(steps)]
    put(folder / "trace.json", {"steps": list(range(1, steps + 1)), "loss": loss})
    if scores:
        put(folder / "scores.json", {"scores": scores})
    stage = {"kind": name.rstrip("0123456789"), "seconds": seconds, "steps": steps, "tokens": 9 * 32 * steps}
    put(folder / "stage.json", stage | {"hashes": {"model.safetensors": f"{rng.getrandbits(128):032x}"}})


def scores_of(rng: random.Random, language: str, role: str, value: float, metrics: list[str]) -> list[dict[str, Any]]:
    out = []
    for i, metric in enumerate(metrics):
        shown = min(99.9, max(0.0, value - 0.8 * i + rng.gauss(0, 0.3 * bool(i))))
        out.append({"language": language, "role": role, "metric": metric, "value": shown, "count": 1000})
    return out


def make_ner_run(folder: Path, *, seeds: int = 3, gold: bool = True, names: tuple[str, str] = ("de", "es")) -> Path:
    """A run folder as the demo leaves it: 2 targets, zero-shot, control, BTF, two rounds."""
    rng = random.Random(5)
    metrics = ["entity_f1", "entity_f1_strict", "precision", "recall"]
    for seed in range(seeds):
        root = folder / f"seed-{seed}"
        luck = {t: rng.gauss(0, 2.5) for t in names}
        write_stage(rng, root / "pretrain", SECONDS["pretrain"], None)
        shared = scores_of(rng, "en", "source", 86.7 + rng.gauss(0, 1), metrics)
        for t, name in enumerate(names):
            shared += scores_of(rng, name, "target", LEVELS["baseline"][t] + luck[name], metrics)
        write_stage(rng, root / "baseline", SECONDS["baseline"], shared)
        for t, name in enumerate(names):
            for stage in ("control-btf", "control", "btf", "finetune", "soft1", "hard1", "soft2", "hard2"):
                scores = None
                if stage in LEVELS:
                    value = LEVELS[stage][t] + luck[name] + rng.gauss(0, 0.8)
                    scores = scores_of(rng, name, "target", value, metrics)
                    scores += scores_of(rng, "en", "source", LEVELS[stage][2] + rng.gauss(0, 0.8), metrics)
                write_stage(rng, root / name / stage, SECONDS[stage] * rng.uniform(0.95, 1.05), scores)
                if stage.startswith("soft"):
                    found = decision(rng, int(stage[-1]), NER_CLASSES, gold=gold, tagging=True)
                    put(root / name / stage / "decision.json", found)
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
        put(root / "soft1" / "decision.json", decision(rng, 1, ["negative", "positive"], gold=False, tagging=False))
    warning = {
        "name": "one-sided-labels",
        "message": "80 % of the accepted labels are 'positive'.",
        "values": {"share": 0.8},
    }
    hard = root / "hard1" / "stage.json"
    put(hard, json.loads(hard.read_text("utf-8")) | {"warnings": [warning]})
    put(
        folder / "run.json",
        {"name": "reviews", "task": "classification", "metric": "accuracy", "source": "en", "targets": ["fr"]},
    )
    return folder
