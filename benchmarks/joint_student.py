"""One student for three targets (`targets_together`) against a student for each: scores and CPU seconds.

    XLT_DATA=DATA python benchmarks/joint_student.py --work FOLDER --json benchmarks/results/joint-student.json

Both sides have the same seeds, caps, epochs and text: the packaged recipe `wikiann` with German, Dutch and Japanese.
assets/mini-encoder has never seen Japanese: it gets pieces of the unlabelled Japanese file, and is fitted once to that
file and the English one before either side begins. Goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from common import made

from xlt_engine.engine import ConsoleProgress, run
from xlt_engine.engine.storage.files import atomic_write_json
from xlt_engine.engine.vocabulary.extend import extend_vocabulary

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "wikiann"
TARGETS = ("de", "nl", "ja")
SIZES = ("source.cap=1000", "btf.cap=1000", "selftrain.cap=1000")
ALONE = "arms.baseline=false"
TESTED = 3000
"""Sentences of each dev file of WikiANN that are scored."""


def wikiann(work: Path) -> tuple[str, ...]:
    """The settings of WikiANN's files, and of the encoder, which is made where it is missing."""
    data, wider, fit = Path(os.environ["XLT_DATA"]) / "ner" / "wikiann", work / "mini-encoder-ja", work / "fit-ja"
    japanese = data / "ja" / "train.txt"
    if not wider.exists():
        print(extend_vocabulary(ROOT / "assets/mini-encoder", [japanese], wider, add=2000, noise=0.02).render())
    target = f'targets=[{{language="ja", unlabelled=["{japanese}"]}}]'
    fitted = (f'model.path="{wider}"', target, "source.cap=8000", "btf.cap=8000", ALONE)
    run(RECIPE, stage="btf", seeds=[0], run_dir=fit, overrides=fitted, progress=ConsoleProgress())
    tests = {name: first_sentences(data / name / "dev.txt", work) for name in ("en", *TARGETS)}
    tables = [
        f'{{language="{name}", unlabelled=["{data}/{name}/train.txt"], test="{tests[name]}"}}' for name in TARGETS
    ]
    model = fit / "seed-0" / "ja" / "btf"
    return f'model.path="{model}"', f'source.test="{tests["en"]}"', f"targets=[{', '.join(tables)}]"


def first_sentences(path: Path, work: Path) -> Path:
    """A file of the first sentences of a file."""
    out = work / f"{path.parent.name}.{path.name}"
    out.write_text("\n\n".join(path.read_text("utf-8").split("\n\n")[:TESTED]) + "\n", encoding="utf-8")
    return out


def measured(folder: Path) -> dict[str, Any]:
    """Scores by stage, target and side, and the CPU seconds of each stage; without the encoder, which both share."""
    scores, seconds = [], {}
    for path in sorted(folder.glob("seed-*/*/*/stage.json")):
        group, stage = path.parts[-3:-1]
        seconds[f"{group}/{stage}"] = json.loads(path.read_bytes())["cpu_seconds"]
        for row in json.loads((path.parent / "scores.json").read_bytes())["scores"] if stage != "btf" else ():
            if row["metric"] == "entity_f1":
                scores.append(
                    {"group": group, "stage": stage, **{key: row[key] for key in ("language", "role", "value")}}
                )
    return {"scores": scores, "cpu_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    data, rows = wikiann(options.work), []
    for seed in seeds:
        earlier: list[Path] = []
        for student in ("apart", "together"):
            folder = options.work / RECIPE / f"{student}-{seed}"
            settings = (*data, *SIZES, ALONE)
            together = f"targets_together={str(student == 'together').lower()}"
            run(
                RECIPE,
                run_dir=folder,
                overrides=(*settings, together),
                seeds=[seed],
                reuse=earlier,
                progress=ConsoleProgress(),
            )
            earlier.append(folder)
            rows.append({"recipe": RECIPE, "seed": seed, "student": student} | measured(folder))
            head = made("python benchmarks/joint_student.py --work FOLDER --json FILE", seeds)
            atomic_write_json(options.json, {"made": head, "rows": rows})


if __name__ == "__main__":
    main()
