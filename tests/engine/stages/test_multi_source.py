"""Several labelled source languages: who is learned how often, against hand-made recipes and counts."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xlt_engine import ConfigError, DataError
from xlt_engine.data import ItemView, Part, TaskBatches
from xlt_engine.engine import load_recipe, run
from xlt_engine.engine.lab.studies.example_story import example_story
from xlt_engine.engine.preflight.checker import check
from xlt_engine.engine.preflight.cost import estimate
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.stages.datasets import Datasets
from xlt_engine.engine.stages.finetune import by_language, mixture
from xlt_engine.engine.summary.stage_table import aggregate, table_cells
from xlt_engine.engine.summary.summary import build_summary

FRENCH = """
[[source]]
language = "fr"
train = "train-fr.tsv"
test = "test-fr.tsv"
unlabelled = ["fr.txt"]
general = ["general-fr.txt"]
"""
QUICK = ("checkpoint.seconds=60", "pretrain.epochs=0.4")
BON, MAUVAIS = ["bon", "beau", "superbe"], ["mauvais", "nul", "faible"]


def french(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Texts that all differ, with their labels."""
    rows = []
    for n in range(start, start + count):
        words, label = ((BON, "positive"), (MAUVAIS, "negative"))[n % 2]
        rows.append((f"le livre numero {n} {words[n // 2 % 3]} .", label))
    return rows


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), "utf-8")


def two_sources(tiny: Any, more: str = FRENCH) -> Any:
    """24 English and 12 French training texts, the French ones with 6 more without labels."""
    recipe = tiny("classification")
    folder = recipe.folder
    write_rows(folder / "train-fr.tsv", french(12))
    write_rows(folder / "test-fr.tsv", french(8, 20))
    (folder / "fr.txt").write_text("".join(f"{text}\n" for text, _ in french(6, 40)), "utf-8")
    (folder / "general-fr.txt").write_text("".join(f"{text}\n" for text, _ in french(24, 60)), "utf-8")
    recipe.rewrite(("[source]", "[[source]]"), ("[[targets]]", f"{more}\n[[targets]]"))
    return recipe


def test_run_of_two_sources_and_the_same_by_hand(tiny: Any) -> None:
    recipe = two_sources(tiny)
    first = recipe.run("selftrain.rounds=1", *QUICK)
    fit = recipe.stage("de/btf")
    # en 24, fr 12 + 6, de 24, each drawn up to 24: 72 in batches of 8.
    assert (fit["examples_per_epoch"], fit["steps"]) == ([24, 24, 24], 9)
    assert recipe.stage("baseline")["examples"] == 36
    decision = recipe.json("de/hard1/decision.json")
    assert decision["source"]["items"] == 36
    assert sum(decision["curve"]["kept"][:1]) <= 36
    summary = build_summary(first.folder)
    assert (summary["source"], summary["sources"], summary["targets"]) == ("en", ["fr"], ["de"])
    scored = {(r["language"], r["role"]) for r in summary["rows"] if r["stage"] == "soft1"}
    assert scored == {("en", "source"), ("fr", "source"), ("de", "target")}
    result = aggregate(summary)
    header, lines = table_cells(result)
    assert header[:7] == ["stage", "de", "step", "up", "en (source)", "fr (source)", "gap"]
    zero = result.stages[0]
    by_hand = {r["language"]: r["value"] for r in summary["rows"] if r["order"] == 10 and r["metric"] == "accuracy"}
    assert lines[0][4:7] == [f"{by_hand['en']:.1f}", f"{by_hand['fr']:.1f}", f"{by_hand['en'] - by_hand['de']:.1f}"]
    assert zero.more_sources["fr"].mean == by_hand["fr"]

    assert [example_story(first.folder, f"{name}:3").language for name in ("train", "train-fr")] == ["en", "fr"]
    made_by_hand(recipe)


def made_by_hand(recipe: Any) -> None:
    """From one model folder and without BTF, a recipe with both files in one ends in the same bits."""
    recipe.take_model(recipe.folder / "run" / "seed-0" / "pretrain")
    options = ("btf.on=false", "selftrain.rounds=1", *QUICK)
    recipe.run(*options, where="two")
    rows = (recipe.folder / "train.tsv").read_text("utf-8") + "".join(f"{t}\t{y}\n" for t, y in french(12))
    (recipe.folder / "all.tsv").write_text(rows, "utf-8")
    alone = recipe.folder / "alone.toml"
    text = recipe.text.replace(FRENCH, "").replace('train = "train.tsv"', 'train = "all.tsv"')
    alone.write_text(text.replace("[[source]]", "[source]"), "utf-8")
    run(alone, run_dir=recipe.folder / "one", overrides=options)
    for stage in ("baseline", "de/soft1", "de/hard1"):
        assert recipe.weights(stage, "two") == recipe.weights(stage, "one"), stage
    kept = [recipe.json("de/hard1/decision.json", where)["source"] for where in ("two", "one")]
    assert kept[0] == kept[1]


def test_one_target_of_two_in_the_same_bits(tiny: Any) -> None:
    """The run of one target, completed afterwards, is the run of both; the first has nothing of the other one."""
    recipe = tiny("classification")
    other = recipe.table("[[targets]]", "[pretrain]").replace('"de"', '"nl"').replace("de.txt", "nl.txt")
    recipe.rewrite(("[pretrain]", other + "[pretrain]"))
    for name in ("de.txt", "general-de.txt"):
        lines = (recipe.folder / name).read_text("utf-8").splitlines()
        (recipe.folder / name.replace("de.txt", "nl.txt")).write_text("".join(f"och {x}\n" for x in lines), "utf-8")
    whole = recipe.run("selftrain.rounds=1", *QUICK, where="whole")
    one = recipe.run("selftrain.rounds=1", *QUICK, where="parts", targets=("nl",))
    assert {s.split("/")[1] for s in one.done} == {"pretrain", "baseline", "nl"}
    assert {r["language"] for r in one.summary["rows"] if r["pair"] == "nl"} == {"en", "nl"}
    rest = recipe.run("selftrain.rounds=1", *QUICK, where="parts")
    assert sorted(rest.skipped) == sorted(one.done)
    assert sorted(one.done + rest.done) == sorted(whole.done)
    for stage in whole.done:
        name = stage.removeprefix("seed-0/")
        found = [recipe.stage(name, where)["hashes"] for where in ("whole", "parts")]
        assert found[0] == found[1], stage


def an_epoch(tiny: Any, *options: str) -> tuple[Counter[str], dict[str, int]]:
    """How often each example is drawn in the first epoch, and how many of each language."""
    recipe = two_sources(tiny)
    config = recipe.resolved(*options).config
    data = Datasets(config, recipe.tokenizer(), recipe.folder / "stores")
    store = data.source_train
    context: Any = SimpleNamespace(config=config)
    mixed = mixture(context, {"source": store})
    labels = np.asarray(store.item_labels)
    parts = [Part(ItemView(p.store), p.examples, labels=labels) for p in mixed.portions]
    batches = TaskBatches(parts, batch_size=4, epochs=1, seed=3, balance=mixed.balance, counts=mixed.counts)
    drawn = Counter(name for step in range(len(batches)) for name in batches.names(step))
    assert [sorted(batches.names(i)) for i in range(3)] == [sorted(batches.names(i)) for i in range(3)]
    languages = {p.language: len(p.examples) for p in by_language(store)}
    assert languages == {"en": 24, "fr": 12}
    return drawn, Counter({"fr" if "-fr" in name else "en": 0 for name in drawn}) + Counter(
        "fr" if "-fr" in name else "en" for name in drawn.elements()
    )


def test_natural_takes_each_once(tiny: Any) -> None:
    drawn, languages = an_epoch(tiny)
    assert languages == {"en": 24, "fr": 12}
    assert set(drawn.values()) == {1}


def test_weights_decide_the_shares_whatever_the_sizes(tiny: Any) -> None:
    """1 to 3 of 36: 9 of the 24 English texts, once each; 27 draws of the 12 French ones: each two or three times."""
    drawn, languages = an_epoch(tiny, "finetune.source_mix=weights", "source.1.weight=3")
    assert languages == {"en": 9, "fr": 27}
    assert Counter(n for name, n in drawn.items() if "-fr" in name) == {2: 9, 3: 3}
    assert Counter(n for name, n in drawn.items() if "-fr" not in name) == {1: 9}


@pytest.mark.parametrize(("exponent", "expected"), [(1.0, (24, 12)), (0.5, (21, 15)), (0.0, (18, 18))])
def test_temperature_is_that_of_btf(tiny: Any, exponent: float, expected: tuple[int, int]) -> None:
    """Shares in proportion to size ** exponent: with 1/2 they are sqrt(24) : sqrt(12), 21.09 : 14.91 of 36."""
    options = ("finetune.source_mix=temperature", f"finetune.source_temperature={exponent}")
    _, languages = an_epoch(tiny, *options)
    assert (languages["en"], languages["fr"]) == expected


def test_a_run_with_weights_says_what_it_drew_and_costs_what_was_estimated(tiny: Any) -> None:
    recipe = two_sources(tiny)
    options = ("finetune.source_mix=weights", "source.1.weight=3", "selftrain.on=false", "source.1.per_class=4", *QUICK)
    result = recipe.run(*options)
    record = recipe.stage("de/finetune")
    # 24 + 8 examples, a quarter and three quarters; two epochs of 4 batches.
    assert (record["examples"], record["per_epoch"], record["steps"]) == (32, {"en": 8, "fr": 24}, 8)
    found = estimate(recipe.recipe, overrides=options, rate=1e9)
    steps = {s.id: s.steps for s in found.stages}
    assert steps == {s["folder"]: s["steps"] for s in result.summary["stages"]}
    plan = {s.id: s.settings for s in make_plan(recipe.resolved(*options).config)}
    mix = {"finetune.source_mix": "weights", "source.en.weight": 1.0, "source.fr.weight": 3.0}
    assert {i for i, settings in plan.items() if settings | mix == settings} == {
        "seed-0/baseline",
        "seed-0/de/finetune",
    }


def test_keys_that_do_not_go_together(tiny: Any) -> None:
    recipe = two_sources(tiny, FRENCH.replace('train = "train-fr.tsv"', "weight = 2.0\ncap = 3\nper_class = 3"))
    with pytest.raises(ConfigError) as caught:
        recipe.resolved("targets.0.language=fr", "finetune.source_temperature=0.5")
    for text in (
        "source.1.train: is missing",
        "source.1.weight: is given, but nothing reads it",
        "source.1.per_class: is given, and so is source.1.cap",
        "targets.0.language: 'fr' is named twice",
        "finetune.source_temperature: is given, but nothing reads it",
    ):
        assert text in str(caught.value)
    with pytest.raises(ConfigError, match="source: a made world has one source"):
        load_recipe("demo", ('source=[{language="en"}, {language="fr", train="x.tsv"}]',))


def test_labels_must_agree_and_files_must_be_there(tiny: Any) -> None:
    """All at once, over all files; by `check` and by a run."""
    recipe = two_sources(tiny, FRENCH + FRENCH.replace("fr", "es"))
    folder = recipe.folder
    for name in ("test-es.tsv", "es.txt", "general-es.txt"):
        (folder / name).write_bytes((folder / name.replace("es.", "fr.")).read_bytes())
    write_rows(folder / "train-fr.tsv", [("un", "positive"), ("deux", "positif"), ("trois", "negatif")])
    write_rows(folder / "train-es.tsv", [("uno", "pos"), ("dos", "negative")])
    with pytest.raises(DataError) as caught:
        recipe.run()
    for place in ("train-fr.tsv:3: unknown label 'positif'", "train-fr.tsv:4: ", "train-es.tsv:2: unknown label 'pos'"):
        assert place in str(caught.value)
    report = check(recipe.recipe, rate=1e9)
    wrong = [p.where.rpartition("/")[2] for p in report.problems if "is not among the labels" in p.message]
    assert sorted(wrong) == ["train-es.tsv:2", "train-fr.tsv:3", "train-fr.tsv:4"]
    (folder / "train-es.tsv").unlink()
    (folder / "general-fr.txt").unlink()
    messages = "\n".join(p.message for p in check(recipe.recipe, rate=1e9).problems)
    assert "source.2.train: " in messages
    assert "source.1.general.0: " in messages


def test_check_knows_every_source(tiny: Any) -> None:
    recipe = two_sources(tiny)
    report = check(recipe.recipe, rate=1e9)
    assert report.problems == []
    rows = {(r.role, r.language): r.examples for r in report.files}
    assert (rows["train", "en"], rows["train", "fr"], rows["test", "fr"]) == (24, 12, 8)
    assert [c.language for c in report.coverage] == ["en", "fr", "de"]
    missing = check(two_sources(tiny, FRENCH.replace('general = ["general-fr.txt"]', "")).recipe, rate=1e9)
    assert any("source.1.general: is missing for fr" in p.message for p in missing.problems)


def test_all_data_roles_together_in_tagging(tiny: Any) -> None:
    """Two sources by temperature, code switching and few labels: every mark where it belongs."""
    recipe = tiny("ner")
    folder = recipe.folder
    for name, like in (("train-fr", "dev"), ("few-de", "test-de")):
        (folder / f"{name}.conll").write_bytes((folder / f"{like}.conll").read_bytes())
    (folder / "general-fr.txt").write_bytes((folder / "general-de.txt").read_bytes())
    (folder / "words.tsv").write_text("lives\twohnt\n", "utf-8")
    more = '[[source]]\nlanguage = "fr"\ntrain = "train-fr.conll"\ngeneral = ["general-fr.txt"]\n'
    roles = 'labelled = "few-de.conll"\n[augment.code_switch]\ndictionaries = ["words.tsv"]\nrate = 1\n'
    recipe.rewrite(
        ("[pretrain]", f"{roles}[pretrain]"), ("[source]", "[[source]]"), ("[[targets]]", f"{more}[[targets]]")
    )
    mix = ("finetune.source_mix=temperature", "finetune.source_temperature=0")
    result = recipe.run(*mix, "selftrain.rounds=1", *QUICK)
    # 24 + 16 sentences of two sources, 20 of each; 8 of the English ones with the word; 12 German ones.
    expected = {"en": 20, "fr": 20, "switched": 8}
    assert recipe.stage("de/finetune")["per_epoch"] == expected
    assert recipe.stage("de/fewshot")["per_epoch"] == expected | {"few_shot": 12}
    rows = {r["stage"]: r["uses_target_labels"] for r in result.summary["rows"]}
    assert rows == {"zero-shot": False, "btf": False, "few-shot": True, "soft1": True, "hard1": True}
    assert all(row["uses_dictionary"] for row in result.summary["rows"])
    assert recipe.json("de/hard1/decision.json")["source"]["items"] == 40
    again = recipe.run(*mix, "selftrain.rounds=1", *QUICK)
    assert again.done == ()
