"""`probe`, `extend-vocabulary` and `export` on the command line: text, JSON, files, exit codes."""

import json
from pathlib import Path
from typing import Any

PAIRS = "Anna\tBerta\nlives\twohnt\ntoday\theute\ncity\tStadt\nold\talt\nsaw\tsah\n"


def test_probe(cli: Any, finished: Any, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(PAIRS, encoding="utf-8")
    answer = cli("probe", finished.model, pairs, "--folds", "2")
    assert answer.code == 0, answer.err
    assert "6 pairs" in answer.out
    assert "nothing is trained by it" in answer.out
    found = json.loads(cli("probe", finished.model, pairs, "--folds", "2", "--layers", "1", "--json").out)
    assert [layer["layer"] for layer in found["layers"]] == [1]
    assert found["chance"]["forward"]["accuracy"] == 1 / 6
    for wrong, code, text in (
        (("--layers", "9"), 2, "the encoder has layers 1 to 1"),
        (("--layers", "one"), 2, "give whole numbers"),
        (("--folds", "1"), 2, "--folds"),
        (("--folds", "7"), 2, "fewer than 7 folds"),
    ):
        refused = cli("probe", finished.model, pairs, *wrong)
        assert (refused.code, refused.out) == (code, "")
        assert text in refused.err
    assert cli("probe", tmp_path / "nowhere", pairs, "--folds", "2").code == 4
    assert cli("probe", finished.model, tmp_path / "nowhere.tsv").code == 3


def test_extend_vocabulary(cli: Any, finished: Any, tmp_path: Path) -> None:
    text, base, out = tmp_path / "sw.txt", finished.folder / "seed-0" / "pretrain", tmp_path / "longer"
    text.write_text("nyumba ya zamani\n" * 3, encoding="utf-8")
    answer = cli("extend-vocabulary", base, "--text", text, "--add", "30", "--out", out)
    assert answer.code == 0, answer.err
    assert "btf.freeze_embeddings = false" in answer.out
    facts = json.loads(cli("info", out, "--json").out)
    assert facts["problems"] == []
    assert facts["vocabulary"] == facts["embedding_rows"] > json.loads(cli("info", base, "--json").out)["vocabulary"]
    shown = json.loads(
        cli("extend-vocabulary", base, "--text", text, "--add", "2", "--out", tmp_path / "b", "--json").out
    )
    assert shown["added"] - shown["closing"] == 2
    for model, folder, code, message in (
        (base, out, 2, "is there already"),
        (finished.model, tmp_path / "c", 4, "extend the encoder that it was fine-tuned from"),
    ):
        refused = cli("extend-vocabulary", model, "--text", text, "--add", "5", "--out", folder)
        assert (refused.code, refused.out) == (code, "")
        assert message in refused.err


def test_export(cli: Any, finished: Any, tmp_path: Path) -> None:
    answer = cli("export", finished.model, tmp_path / "small", "--prune-vocab")
    assert answer.code == 0, answer.err
    assert "the same tokens for all 80 texts, and the same predictions, to the bit, for 80 of them" in answer.out
    assert cli("predict", tmp_path / "small", finished.files / "de.txt").out == (
        cli("predict", finished.model, finished.files / "de.txt").out
    )
    text = ("--text", finished.files / "de.txt")
    found = json.loads(cli("export", finished.model, tmp_path / "b", "--prune-vocab", *text, "--json").out)
    assert found["rows"] < found["rows_before"]
    assert found["texts"] == found["compared"] == 30
    for place, given, code, message in (
        (tmp_path / "c", (), 2, "either --to or --prune-vocab"),
        (tmp_path / "c", ("--prune-vocab", "--to", "linear"), 2, "either --to or --prune-vocab"),
        (tmp_path / "small", ("--prune-vocab",), 2, "is there already"),
    ):
        refused = cli("export", finished.model, place, *given)
        assert (refused.code, refused.out) == (code, "")
        assert message in refused.err


def test_export_for_transformers(cli: Any, finished: Any, tmp_path: Path) -> None:
    answer = cli("export", finished.model, tmp_path / "linear", "--to", "linear")
    assert answer.code == 0, answer.err
    assert answer.out.startswith(f'AutoModelForTokenClassification.from_pretrained("{tmp_path}/linear")')
    assert "read by transformers: the largest difference is " in answer.out
    assert "% of the items of texts that it has not learned from" in answer.out
    assert "entity_f1 de: " in answer.out
    assert cli("predict", tmp_path / "linear", finished.files / "de.txt").code == 0
