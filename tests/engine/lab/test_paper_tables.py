"""`tables`: the paper's cells beside those of finished runs, which are known by what they were made with."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine import DataError
from xlt_engine.engine import run
from xlt_engine.engine.lab.ablation.ablate import ablate
from xlt_engine.engine.lab.ablation.rows import GROUPS, ROWS
from xlt_engine.engine.lab.paper.printed import COLUMNS, NOTES, OTHERS, PRINTED, RECIPES, TABLES, paper_average
from xlt_engine.engine.lab.paper.tables import paper_tables, render_tables
from xlt_engine.engine.report.tracking.compare import AVERAGE
from xlt_engine.engine.storage.files import read_json, write_sealed_json

from ..conftest import DE, GUT, SCHLECHT, score_in, write_conll, write_table, write_tiny

SEEDS = (0, 1)
METHOD = (
    "threads=1",
    "finetune.epochs=15",
    "selftrain.soft.epochs=8",
    "selftrain.rounds=1.5",
    "selftrain.alpha.rule=second-difference",
    "selftrain.alpha.min_kept=1",
    "checkpoint.seconds=600",
)
ROWS_MADE = ("main", "fixed-0")
STAGE = {"no-st": "finetune", "mbert-wiki": "control", "fixed-0": "hard1"}
"""Of a row's own folder the stage that it reports; soft 2 for the rest, and the baseline for MBERT."""


class Lab:
    """A tiny recipe of two of CoNLL's three targets, and an ablation of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe = folder, write_tiny(folder)
        write_conll(folder / "test-es.conll", DE, range(52, 70))
        text = self.recipe.read_text("utf-8")
        german = text[text.index("[[targets]]") : text.index("[pretrain]")]
        spanish = german.replace('"de"', '"es"').replace("test-de", "test-es")
        self.recipe.write_text(text.replace(german, german + spanish), "utf-8")
        self.result = ablate(self.recipe, run_dir=folder / "lab", rows=ROWS_MADE, seeds=SEEDS, overrides=METHOD, jobs=1)
        assert not self.result.failed
        self.rows = folder / "lab" / "rows"
        self._spread()
        self.values = paper_tables("conll", [folder / "lab"], folder / "out")

    def _spread(self) -> None:
        """Gives every stage scores of its own: models this small say the same, whatever they were taught."""
        for record in sorted(self.rows.glob("*/seed-*/**/stage.json")):
            file = record.parent / "scores.json"
            if file.exists():
                scores = read_json(file)
                rng = np.random.default_rng(int(json.loads(record.read_bytes())["fingerprint"], 16))
                for score in scores["scores"]:
                    score["value"] = float(rng.uniform(50, 90))
                file.unlink()  # the same file may be in another row
                write_sealed_json(file, scores)

    def by_hand(self, row: str, target: str, stage: str = "") -> np.ndarray:
        """Entity F1 of each seed, from the files of the row's folder."""
        found = []
        for seed in SEEDS:
            home = self.rows / row / f"seed-{seed}"
            place = home / "baseline" if row == "mbert" else home / target / (stage or STAGE.get(row, "soft2"))
            found.append(score_in(place, target, "entity_f1"))
        return np.array(found)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("paper"))


def row_of(values: dict[str, Any], number: int, name: str) -> dict[str, Any]:
    table = next(t for t in values["tables"] if t["number"] == number)
    return next(r for r in table["rows"] if r["name"] == name)


def test_the_papers_cells_stand_beside_ours(lab: Lab) -> None:
    """Table 6 as the paper prints it, typed here anew; means, deviations and differences against numpy."""
    paper = {
        "ours": (76.88, 78.38, 82.08, 79.11),
        "no-at": (76.23, 78.08, 81.54, 78.62),
        "no-vm": (76.76, 77.51, 81.39, 78.55),
        "no-btf": (74.26, 78.12, 81.23, 77.87),
        "no-st": (72.73, 76.62, 80.28, 76.54),
        "mbert": (72.24, 74.96, 79.31, 75.50),
        "mbert-wiki": (71.58, 76.35, 79.35, 75.76),
    }
    ours = {target: lab.by_hand("ours", target) for target in ("de", "es")}
    text = render_tables(lab.values)
    assert text == (lab.folder / "out" / "tables.md").read_text("utf-8")
    assert len({tuple(lab.by_hand(name, "de")) for name in paper}) > 4, "the rows differ"
    for name, printed in paper.items():
        row = row_of(lab.values, 6, name)
        assert tuple(row["paper"][c]["value"] for c in ("de", "es", "nl", AVERAGE)) == printed
        label, cells = ROWS[name].label, " | ".join(f"{value:.2f}" for value in printed)
        assert f"| {label} | paper | {cells} |" in text
        differences = []
        for target in ("de", "es"):
            own = lab.by_hand(name, target)
            here = row["here"][target]
            assert here["stat"]["mean"] == pytest.approx(own.mean())
            assert here["stat"]["std"] == pytest.approx(own.std(ddof=1))
            assert here["seeds"] == {str(s): v for s, v in zip(SEEDS, own, strict=True)}
            differences += list(own - ours[target])
            if name != "ours":
                assert here["difference"]["mean"] == pytest.approx(float(np.mean(own - ours[target])))
        assert row["here"]["nl"]["stat"] is None
        assert row["here"][AVERAGE]["stat"] is None, "no average without all cells"
        if name != "ours":
            step = row["here"][AVERAGE]["difference"]
            assert (step["mean"], step["std"]) == pytest.approx((np.mean(differences), np.std(differences, ddof=1)))
            assert (step["n"], step["up"]) == (4, sum(d > 0 for d in differences))
            assert f" | {step['mean']:+.1f} ± {step['std']:.1f} | {step['up']}/4 | 0, 1 |" in text


def test_a_row_of_another_table_is_the_same_stage(lab: Lab) -> None:
    """Tables 7 to 9 have their cells from whatever run holds the stage, `ours` above all."""
    for number, name, row, stage in (
        (7, "soft-1", "ours", "soft1"),
        (8, "auto", "ours", "hard1"),
        (8, "fixed-0", "fixed-0", "hard1"),
        (9, "trail-hard1", "ours", "hard1"),
        (9, "trail-soft2", "ours", "soft2"),
        (4, "mbert", "mbert", ""),
    ):
        here = row_of(lab.values, number, name)["here"]
        assert here["de"]["stat"]["mean"] == pytest.approx(lab.by_hand(row, "de", stage).mean()), name
    stats = [
        {c: here["stat"] for c, here in row_of(lab.values, *at)["here"].items()}
        for at in ((8, "origin"), (9, "trail-soft1"))
    ]
    assert stats[0] == stats[1]
    assert row_of(lab.values, 4, "li-2021")["here"] is None


def test_what_is_missing_names_its_command(lab: Lab) -> None:
    rows = {r["name"]: r for t in lab.values["tables"] for r in t["rows"]}
    assert rows["fixed-0.99"]["command"] == "xlt-engine ablate conll-paper --rows fixed-0.99"
    assert rows["ours"]["command"] == "xlt-engine run conll-paper", "Dutch"
    assert rows["trail-hard2"]["command"] == "xlt-engine ablate conll-paper --rows trail-hard2"
    lines = (lab.folder / "out" / "tables.md").read_text("utf-8").splitlines()
    own = lines[lines.index("## Table 8. CoNLL: thresholds, after hard 1") :]
    empty = next(own[i + 1] for i, line in enumerate(own) if line.startswith("| 0.99 | paper"))
    mark = empty.split("|")[3].strip()
    assert mark == "[4]"
    assert empty == f"|  | here | {mark} | {mark} | {mark} | {mark} |  |  |  |"
    assert f"* {mark} 0.99: `xlt-engine ablate conll-paper --rows fixed-0.99`" in own


def test_folder_names_mean_nothing(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    for i, row in enumerate(sorted(lab.rows.iterdir())):
        shutil.copytree(row, place / f"ours-{i}", ignore=shutil.ignore_patterns("model.safetensors", "store"))
    values = paper_tables("conll", [tmp_path])
    strip = lambda tables: [[{**r, "runs": None} for r in t["rows"]] for t in tables]  # noqa: E731
    assert strip(values["tables"]) == strip(lab.values["tables"])
    only = paper_tables("conll", [place / "ours-0"])  # fixed-0: one round
    have = {r["name"] for t in only["tables"] for r in t["rows"] if r["here"] and r["here"]["de"]["stat"]}
    assert have == {"fixed-0", "no-st", "soft-1", "origin", "trail-soft1"}


def test_figure_2_is_of_the_decisions(lab: Lab) -> None:
    picture = (lab.folder / "out" / "figure-2.svg").read_text("utf-8")
    assert picture.count('class="panel"') == 2
    assert "de, round 1" in picture
    for decision in lab.values["figure_2"]:
        place = lab.rows / "ours" / f"seed-{decision['seed']}" / decision["column"] / "hard1" / "decision.json"
        assert decision["alpha"] == json.loads(place.read_bytes())["alpha"]
    assert json.loads((lab.folder / "out" / "tables.json").read_bytes()) == lab.values


def test_what_does_not_belong_together(lab: Lab, tmp_path: Path, tiny: Any) -> None:
    other = tmp_path / "other"
    short = (*METHOD, "selftrain.on=false", "arms.baseline=false")
    run(lab.recipe, run_dir=other, overrides=(*short, "finetune.epochs=1"), seeds=[1])
    with pytest.raises(DataError, match=r"are both -ST of de, seed 1, but were made with other data or settings"):
        paper_tables("conll", [lab.folder / "lab", other])
    alone = paper_tables("conll", [other])
    assert [r["cells"] for r in alone["runs"]] == [2 * 1]
    text = render_tables(alone)
    settings = next(line for line in text.splitlines() if line.startswith("* Settings of all runs that are not"))
    assert "; finetune.epochs = 1.0 (3.0); " in settings
    assert "selftrain.on" not in settings, "a row's own"
    assert "gives no cell" not in text
    assert "`xlt-engine run conll-paper` makes them" in text
    with pytest.raises(DataError, match="is a run of ner; the tables of cls are of classification"):
        paper_tables("cls", [other])
    (tmp_path / "inputs").mkdir()
    with pytest.raises(DataError, match=r"inputs: holds no run; give folders of"):
        paper_tables("conll", [tmp_path / "inputs"])
    texts = tiny("classification")
    texts.run("selftrain.on=false", "btf.on=false")
    with pytest.raises(DataError, match="no domain: its files must have books, dvd or music in their names"):
        paper_tables("cls", [texts.folder / "run"])


def test_another_test_file_is_no_cell(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "changed"
    shutil.copytree(lab.rows / "no-at", place, ignore=shutil.ignore_patterns("model.safetensors", "store"))
    record = place / "seed-0" / "de" / "soft2" / "stage.json"
    values = read_json(record)
    values["scored_on"]["de"] = "another"
    write_sealed_json(record, values)
    with pytest.raises(DataError, match=r"were scored on different test files of de"):
        paper_tables("conll", [lab.rows / "ours", place])


def test_another_method_is_no_row(lab: Lab, tmp_path: Path) -> None:
    """Two voters are not the paper's method, whatever the folder is called; its BTF and baseline are."""
    place = tmp_path / "conll-paper"
    overrides = (*METHOD, "selftrain.voters=2", "selftrain.stages=['soft']")
    run(lab.recipe, run_dir=place, overrides=overrides, seeds=[0], reuse=[lab.rows / "ours", lab.rows / "mbert"])
    values = paper_tables("conll", [place])
    have = {r["name"] for t in values["tables"] for r in t["rows"] if r["here"] and r["here"]["de"]["stat"]}
    assert have == {"no-st", "mbert"}
    # A run that was cut off before its first score.
    shutil.copytree(lab.rows / "mbert", tmp_path / "cut", ignore=shutil.ignore_patterns("baseline", "store"))
    silent = paper_tables("conll", [tmp_path / "cut"])
    assert "gives no cell: no finished stage" in render_tables(silent)


def test_three_domains_are_one_table(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny("classification")
    for domain, first in (("books", 0), ("dvd", 8)):
        for language in ("de", "fr", "ja"):
            name = recipe.folder / f"{domain}.{language}.tsv"
            write_table(name, (GUT, SCHLECHT), language, range(40 + first, 56 + first))
    german, test = recipe.table("[[targets]]", "[pretrain]"), "${DOMAIN:-books}."
    targets = [german.replace('"de"', f'"{x}"').replace("test-de", test + x) for x in ("de", "fr", "ja")]
    recipe.rewrite((german, "".join(targets)))
    folders = []
    for domain in ("books", "dvd"):
        monkeypatch.setenv("DOMAIN", domain)
        place = tmp_path / "runs" / domain
        folders.append(run(recipe.recipe, overrides=["selftrain.on=false"], run_dir=place, seeds=[0, 1]).folder)
    values = paper_tables("cls", [tmp_path / "runs"])
    row = row_of(values, 5, "no-st")
    for domain, folder in zip(("books", "dvd"), folders, strict=True):
        for language in ("de", "fr", "ja"):
            own = [score_in(folder / f"seed-{seed}/{language}/finetune", language, "accuracy") for seed in (0, 1)]
            assert row["here"][f"{language} {domain}"]["stat"]["mean"] == pytest.approx(np.mean(own))
        assert row["here"][f"de {domain}"]["stat"]["n"] == 2
    assert row["here"]["de music"]["stat"] is None
    assert row["command"] == (
        "for d in music; do DOMAIN=$d xlt-engine ablate cls-paper --rows no-st "
        "--run-dir runs/cls-paper-ablation/$d; done"
    )
    assert row_of(values, 5, "ours")["command"] == (
        "for d in books dvd music; do DOMAIN=$d xlt-engine run cls-paper --run-dir runs/cls-paper/$d; done"
    )
    assert row_of(values, 5, "no-vm")["command"].startswith("for d in books dvd music; do")
    assert "| Ours" not in render_tables(values)
    assert (
        "| ours | paper | 87.65 | 85.70 | 86.40 | 86.80 | 86.40 | 83.10 | 83.29 | 83.00 | 84.55 | 85.21 |"
        in render_tables(values)
    )


@pytest.mark.parametrize("recipe", ["cls-paper", "conll-paper"])
def test_averages_are_those_of_their_cells(recipe: str) -> None:
    """Where the paper prints an average, a slip of typing in a cell shows in it."""
    table = PRINTED[recipe]
    with_average = [name for name, row in table.items() if row.average is not None]
    assert len(with_average) == 12
    for name in with_average:
        row = table[name]
        assert abs(np.mean(list(row.cells.values())) - row.average) <= 0.0101, name
        assert paper_average(row) == row.average
    assert paper_average(PRINTED["conll-paper"]["soft-2"]) == 77.82


def test_tables_are_of_known_rows() -> None:
    for kind, tables in TABLES.items():
        for table in tables:
            assert table.reference in table.rows
            assert all(name in PRINTED[RECIPES[kind]] and (name in ROWS or name in OTHERS) for name in table.rows)
        assert {name for t in tables for name in t.rows} == PRINTED[RECIPES[kind]].keys()
        assert all(tuple(row.cells) == COLUMNS[kind] for row in PRINTED[RECIPES[kind]].values())
    assert [t.number for tables in TABLES.values() for t in tables] == [3, 5, 4, 6, 7, 8, 9]
    conll = PRINTED["conll-paper"]
    assert conll["trail-hard1"].cells == conll["auto"].cells
    assert conll["trail-soft2"].cells == conll["ours"].cells
    known = {note for table in PRINTED.values() for found in table.values() for note in found.notes}
    assert known | {"single", "pairs"} == NOTES.keys()
    printed = {name for table in PRINTED.values() for name in table}
    for table, group in ((6, "main"), (7, "soft-only"), (8, "thresholds"), (9, "trail")):
        own = next(t for t in TABLES["conll"] if t.number == table)
        assert own.rows == tuple(name for name in GROUPS[group].rows if name in printed)
        assert own.reference == GROUPS[group].reference
