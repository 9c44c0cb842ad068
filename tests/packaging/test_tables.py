"""No table without its file: the pages are what benchmarks/tables.py makes of benchmarks/results."""

import importlib.util
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xlt_engine import DataError
from xlt_engine.engine import run
from xlt_engine.engine.lab.ablation.ablate import ablate, markdown
from xlt_engine.engine.plan import NUMERICS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def script(name: str, folder: str = "benchmarks") -> ModuleType:
    """A file of the repository as a module; those beside it can be imported from it."""
    path = str(ROOT / folder)
    sys.path.insert(0, path)
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(path)
    return module


tables, recorder = script("tables"), script("record")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_table_is_that_of_its_file(page: Path) -> None:
    text = page.read_text("utf-8")
    assert tables.render_page(text, page.parent) == text, "run: python benchmarks/tables.py"


def test_a_changed_digit_is_found() -> None:
    """Each digit of each rendered block, replaced by another one, is put right again."""
    text = (ROOT / "docs" / "demo.md").read_text("utf-8")
    begin = text.index("<!-- table: demo -->")
    end = text.index("<!-- /table: demo -->")
    places = [m.start() for m in re.finditer(r"\d", text[begin:end])]
    assert len(places) > 100
    for place in places[::10]:
        at = begin + place
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        assert tables.render_page(changed, ROOT / "docs") == text


def test_a_file_of_other_numerics_makes_its_table_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"shape": "columns", "columns": ["stage"], "rows": [["BTF"]]}
    made = tables.load("demo")["made"]
    for numerics, told in (
        (NUMERICS, None),
        (None, None),
        (NUMERICS - 1, f"*Stale: made with numerics {NUMERICS - 1}; today's code is numerics {NUMERICS} and"),
    ):
        content = values | {"made": made | {"numerics": numerics}}
        monkeypatch.setattr(tables, "load", lambda _, content=content: content)
        text = tables.block("demo", ROOT)
        assert text.startswith(told) if told else "Stale" not in text
    rows = {"columns": ["finding", "numerics"], "rows": [["a", NUMERICS], ["b", None], ["c", NUMERICS + 3]]}
    monkeypatch.setattr(tables, "load", lambda _: {"shape": "columns", "made": made, "tables": {"helped": rows}})
    assert tables.block("findings/helped", ROOT).startswith(f"*Stale: in part made with numerics {NUMERICS + 3}; ")


def test_raised_numerics_make_a_page_differ_until_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "truth-world.md"
    monkeypatch.setattr(tables, "NUMERICS", 1_000_000)
    changed = tables.render_page(page.read_text("utf-8"), page.parent)
    assert changed != page.read_text("utf-8")
    assert changed.count("today's code is numerics 1000000 and gives other digits") == len(
        tables.BLOCK.findall(changed)
    )


def test_check_prints_the_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results").symlink_to(ROOT / "benchmarks" / "results")
    page = tmp_path / "README.md"
    text = (ROOT / "README.md").read_text("utf-8")
    for name, value in (("ROOT", tmp_path), ("RESULTS", tmp_path / "benchmarks" / "results"), ("PAGES", (page,))):
        monkeypatch.setattr(tables, name, value)
    monkeypatch.setattr(tables, "figures", dict)
    row = next(line for line in tables.BLOCK.search(text)["body"].splitlines() if line.startswith("|demo"))
    wrong = row.replace(".", ".9", 1)
    for content, options, code, left in (
        (text, ["--check"], 0, text),
        (text.replace(row, wrong), ["--check"], 1, text.replace(row, wrong)),
        (text.replace(row, wrong), [], 0, text),
    ):
        page.write_text(content, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["tables.py", *options])
        with pytest.raises(SystemExit) as ended:
            tables.main()
        assert (ended.value.code, page.read_text("utf-8")) == (code, left)
        assert (f"-{wrong}\n" in capsys.readouterr().out) is bool(code)


def test_every_figure_is_that_of_its_file() -> None:
    for path, text in tables.figures().items():
        assert path.read_text("utf-8") == text, f"{path.name}: run python benchmarks/tables.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_measured_table_stands_outside_markers(page: Path) -> None:
    """Measured is what has a ± between two numbers."""
    rest = tables.BLOCK.sub("", page.read_text("utf-8"))
    assert "<!-- table:" not in rest
    assert [line for line in rest.splitlines() if line.startswith("|") and re.search(r"\d ± \d", line)] == []


def test_no_results_file_names_a_place_on_a_machine() -> None:
    for path in sorted((ROOT / "benchmarks" / "results").glob("*")):
        assert not re.search(r"""["' =](/(home|work|opt|tmp|root|mnt)/)""", path.read_text("utf-8")), path.name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of the tiny recipe, a run folder for each."""
    folder = tmp_path_factory.mktemp("tables")
    recipe = script("conftest", "tests/engine").write_tiny(folder)
    for seed in (1, 0):
        run(recipe, run_dir=folder / f"s{seed}", seeds=[seed], overrides=["threads=1", "arms.control=true"])
    return [folder / "s1", folder / "s0"]


def scores(folder: Path, metric: str = "entity_f1") -> dict[tuple[str, str], float]:
    """(path of the stage below its seed, language) -> score, from the scores.json files alone."""
    found = {}
    for path in sorted(folder.glob("seed-*/**/scores.json")):
        for score in json.loads(path.read_text())["scores"]:
            if score["metric"] == metric:
                stage = "/".join(path.relative_to(folder).parts[1:-1])
                found[stage, score["language"]] = score["value"]
    return found


def test_a_record_is_what_its_runs_say(runs: list[Path]) -> None:
    values = recorder.record(runs)
    assert values == json.loads(recorder.dump(values))
    header, _, *lines = (
        [cell.strip() for cell in row.split("|")[1:-1]] for row in tables.trail(values, "").split("\n")
    )
    seeds = [scores(folder) for folder in runs]
    assert header[:5] == ["stage", "de", "step", "up", "source (en)"]
    path = {"zero-shot: fine-tuned, no BTF": "baseline", "control: BTF on general text": "de/control"}
    path |= {"BTF, then fine-tuned": "de/finetune", "soft 1": "de/soft1", "hard 1": "de/hard1"}
    path |= {"soft 2": "de/soft2", "hard 2": "de/hard2"}
    assert [line[0] for line in lines] == list(path)
    before = {"de/control": "baseline", "de/finetune": "baseline", "de/soft1": "de/finetune", "de/hard1": "de/soft1"}
    before |= {"de/soft2": "de/hard1", "de/hard2": "de/soft2"}
    for line in lines:
        stage = path[line[0]]
        for cell, language in ((line[1], "de"), (line[4], "en")):
            every = [found[stage, language] for found in seeds]
            assert cell == f"{statistics.fmean(every):.1f} ± {statistics.stdev(every):.1f}"
        if stage in before:
            steps = [found[stage, "de"] - found[before[stage], "de"] for found in seeds]
            assert line[2] == f"{statistics.fmean(steps):+.1f} ± {statistics.stdev(steps):.1f}"
            assert line[3] == f"{sum(s > 0 for s in steps)}/2"
    assert values["made"]["command"] == "xlt-engine run tiny.toml --seeds 0,1 --set threads=1 --set arms.control=true"
    assert (values["made"]["numerics"], values["made"]["seeds"]) == (NUMERICS, [0, 1])
    assert str(runs[0].parent) not in recorder.dump(values)


def test_a_record_has_seconds_and_decisions(runs: list[Path]) -> None:
    values = recorder.record(runs)
    for stage in values["stages"]:
        if stage["stage"] != "hard2":
            continue
        folder = next(f for f in runs if (f / f"seed-{stage['seed']}").exists()) / f"seed-{stage['seed']}" / "de/hard2"
        decision = json.loads((folder / "decision.json").read_text())
        own = json.loads((folder / "stage.json").read_text())
        assert (stage["alpha"], stage["accepted"], stage["items"]) == tuple(
            decision[key] for key in ("alpha", "accepted", "items")
        )
        assert (stage["source_removed"], stage["seconds"]) == (decision["source"]["removed"], own["seconds"])
    paths = [path for folder in runs for path in folder.glob("seed-*/**/stage.json")]
    every = sum(json.loads(path.read_text())["seconds"] for path in paths)
    assert sum(stage["seconds"] for stage in values["stages"]) == pytest.approx(every)


def test_cpu_seconds_stand_beside_wall_seconds(runs: list[Path]) -> None:
    values = recorder.record(runs)
    for stage in values["stages"]:
        stage |= {"seconds": 20.0 + stage["order"], "cpu_seconds": 10.0}
    lines = [row[1:-1].split("|") for row in tables.trail(values, "").split("\n")]
    assert lines[0][-2:] == ["seconds", "CPU s"]
    # Beside a score's own stage: pre-training before zero-shot, BTF before the two fine-tunings.
    assert [line[-2:] for line in lines[2:]] == [
        ["50", "20"],
        ["81", "20"],
        ["101", "20"],
        *([str(20 + order), "10"] for order in (100, 150, 200, 250)),
    ]


def test_stages_without_cpu_seconds_have_no_column_of_them(runs: list[Path]) -> None:
    values = recorder.record(runs)
    for stage in values["stages"]:
        stage["cpu_seconds"] = None
    assert "CPU s" not in tables.trail(values, "")


def test_the_figure_of_a_record_is_that_of_the_run(runs: list[Path]) -> None:
    own = (runs[0] / "figures" / "trail.svg").read_text("utf-8")
    assert tables.trail_figure(recorder.record(runs[:1])) == own


def test_a_record_of_an_ablation_gives_its_own_tables(runs: list[Path], tmp_path: Path) -> None:
    recipe = runs[0].parent / "tiny.toml"
    given = {"rows": ["voters-1"], "seeds": [0, 1], "overrides": ["threads=1"], "reuse": runs}
    ablate(recipe, run_dir=tmp_path / "ablation", jobs=1, **given)
    values = recorder.record([tmp_path / "ablation"])
    assert markdown(values) == (tmp_path / "ablation" / "ablation.md").read_text("utf-8")
    assert values["made"]["command"] == "xlt-engine ablate tiny.toml --seeds 0,1 --rows voters-1 --set threads=1"
    assert values["made"]["numerics"] == NUMERICS
    assert str(runs[0].parent) not in recorder.dump(values)
    assert str(tmp_path) not in recorder.dump(values)


def test_the_command_of_a_record_names_no_folder(tmp_path: Path) -> None:
    lines = """name = "demo"  # recipe demo (packaged):3
seeds = [4]  # --set

[model]
path = "/srv/x/mini-encoder"  # --set
[[targets]]
language = "de"  # recipe demo (packaged):15
[targets.reader]
format = "conll"  # --set
[[targets]]
unlabelled = ["/srv/x/a b/es.txt"]  # --set
[targets.reader]
encoding = "latin-1"  # --set
[arms]
control = true  # --set
"""
    (tmp_path / "config.toml").write_text(lines, encoding="utf-8")
    overrides = recorder._overrides(tmp_path)
    assert overrides == [
        "model.path=mini-encoder",
        "targets.0.reader.format=conll",
        'targets.1.unlabelled=["es.txt"]',
        "targets.1.reader.encoding=latin-1",
        "arms.control=true",
    ]
    command = recorder._command(tmp_path, "run", [0, 1], overrides[2:])
    assert command == (
        "xlt-engine run demo --seeds 0,1 --set 'targets.1.unlabelled=[\"es.txt\"]' "
        "--set targets.1.reader.encoding=latin-1 --set arms.control=true"
    )
    (tmp_path / "config.toml").write_text('name = "x"  # recipe wikineural (packaged):9\n', encoding="utf-8")
    assert recorder._command(tmp_path, "run", [0], []) == "XLT_DATA=DATA xlt-engine run wikineural --seeds 0"


def damage(key: str, file: str, value: Any) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return do


def test_runs_that_do_not_belong_together_are_refused(runs: list[Path], tmp_path: Path) -> None:
    import shutil

    with pytest.raises(DataError, match="a seed is in more than one"):
        recorder.record([runs[0], runs[0]])
    for number, (change, message) in enumerate(
        [
            (damage("name", "summary.json", "other"), "another about"),
            (damage("versions", "run.json", {}), "another made"),
            (damage("state", "status.json", "failed"), "no finished run"),
            (damage("numerics", "seed-0/de/btf/fingerprint.json", 0), "numerics"),
        ]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(runs[1], copy)
        change(copy)
        with pytest.raises(DataError, match=message):
            recorder.record([runs[0], copy])


def test_the_growth_of_the_encoder_is_paired_over_targets_and_seeds() -> None:
    figure = script("growth_figure")
    values = {"zero-shot": [40.0, 42.0], "btf": [41.0, 40.0], "soft1": [44.0, 45.0], "hard1": [46.0, 45.0]}
    lower = {stage: [value - 8 for value in own] for stage, own in values.items()}
    lower["hard1"] = [34.0, 30.0]
    point = {
        "million_tokens": 60.4,
        "accuracy": {"en": 0.351, "de": 0.302},
        "retrieval": {"de": [0.7, 0.512], "nl": [0.8, 0.6]},
        "scores": {"en": {"zero-shot": [66.0, 68.0]}, "de": values, "fr": lower},
    }
    result = {"points": [point, point | {"million_tokens": 301.0}]}
    row = figure.table(result).splitlines()[2].strip("|").split("|")
    steps = [6.0, 3.0, 2.0, -4.0]
    whole = f"{statistics.fmean(steps):+.1f} ± {statistics.stdev(steps):.1f}"
    means = ["67.0 ± 1.4", "37.0 ± 1.4", "36.5 ± 0.7", "40.5 ± 0.7", "38.8 ± 1.8"]
    assert row == ["60", "35.1", "30.2", "51.2, 60.0", *means, whole, "3/4"]
    drawn = figure.drawing(result)
    assert drawn.count("<circle") == 2 * (len(figure.STAGES) + len(figure.GAINS))
    assert "BTF, 301 million tokens: -0.5" in drawn
