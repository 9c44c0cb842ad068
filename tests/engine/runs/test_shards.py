"""Weights that a stage does not train lie on the disk once; a run that writes them each time says what they must be."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification

from xlt_engine.engine import Predictor, verify_run
from xlt_engine.engine.export.export import export_model
from xlt_engine.engine.storage.files import sha256_file
from xlt_engine.engine.storage.stage_files import link_equal
from xlt_engine.model import folder as model_folder

OPTIONS = ("training.freeze_embeddings=true", "selftrain.rounds=1")
FROZEN, TRAINED = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
STAGES = ("baseline", "de/btf", "de/finetune", "de/soft1", "de/hard1")
"""Those that freeze; the pre-training trains all."""


@pytest.fixture(scope="module")
def made(tiny_once: Any) -> Iterator[Any]:
    """The same run in whole files ("whole") and in shards ("run"), as all runs of this file are from now on."""
    recipe = tiny_once("ner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_folder, "WORTH_SHARING", 1 << 40)
        recipe.run(*OPTIONS, where="whole")
        patch.setattr(model_folder, "WORTH_SHARING", 1)
        recipe.run(*OPTIONS)
        yield recipe


def tensors(stage: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in sorted(stage.glob("model*.safetensors")) for name, value in load_file(path).items()}


def same_as_whole(made: Any, where: str = "run") -> None:
    """Weights, scores and decisions of every stage, to the bit."""
    for stage in ("pretrain", *STAGES):
        one, other = (made.folder / name / "seed-0" / stage for name in ("whole", where))
        theirs, ours = tensors(one), tensors(other)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(value, ours[name]) for name, value in theirs.items()), stage
        for name in ("scores.json", "decision.json", "trace.json"):
            texts = [(folder / name).read_bytes() if (folder / name).exists() else b"" for folder in (one, other)]
            assert name == "trace.json" or texts[0] == texts[1], (stage, name)


def disk(folder: Path) -> int:
    """Bytes of the weights, each file once."""
    files = {path.stat().st_ino: path.stat().st_size for path in folder.glob("seed-0/**/model*.safetensors")}
    return sum(files.values())


def test_what_a_stage_does_not_train_is_written_once(made: Any) -> None:
    same_as_whole(made)
    home = made.folder / "run" / "seed-0"
    first, *others = (home / stage / FROZEN for stage in STAGES)
    assert first.stat().st_nlink == len(STAGES)
    assert all(os.path.samefile(first, other) for other in others)
    assert {name.rpartition("embeddings.")[1] for name in load_file(first)} == {"embeddings."}
    assert len(load_file(first)) == 5
    assert (home / "pretrain" / "model.safetensors").exists()
    assert disk(made.folder / "whole") - disk(made.folder / "run") > 4 * first.stat().st_size - 4000
    index = json.loads((home / "de/hard1" / "model.safetensors.index.json").read_bytes())
    names = (FROZEN, TRAINED)
    assert index["metadata"]["sha256"] == {name: sha256_file(home / "de/hard1" / name) for name in names}
    assert made.stage("de/hard1")["inputs_sha256"]["seed-0/de/soft1"] == sha256_file(
        home / "de/soft1" / "model.safetensors.index.json"
    )


def test_folders_open_everywhere(made: Any, tmp_path: Path) -> None:
    home = made.folder / "run" / "seed-0"
    for stage, kind in (("de/finetune", AutoModelForTokenClassification), ("de/btf", AutoModelForMaskedLM)):
        theirs, info = kind.from_pretrained(home / stage, output_loading_info=True)
        assert not info["missing_keys"], stage
        assert not info["unexpected_keys"], stage
        state = theirs.state_dict()
        assert all(torch.equal(state[name], value) for name, value in tensors(home / stage).items())
    ours, whole = (Predictor(made.folder / where / "seed-0/de/hard1") for where in ("run", "whole"))
    assert ours.tag(["Anna wohnt in Wien"]) == whole.tag(["Anna wohnt in Wien"])
    export_model(home / "de/finetune", tmp_path / "out", to="transformers")
    assert [path.name for path in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_a_copied_run_is_finished_and_whole(made: Any) -> None:
    shutil.copytree(made.folder / "run", made.folder / "copy", symlinks=True)
    assert not verify_run(made.folder / "copy").damaged
    assert not made.run(*OPTIONS, where="copy").done
    assert (made.folder / "copy/seed-0/baseline" / FROZEN).stat().st_nlink == 1


def test_a_damaged_file_is_not_linked_again(made: Any) -> None:
    """All stages that share it are damaged, and made anew to the same bits; others are as they were."""
    shutil.copytree(made.folder / "run", made.folder / "hurt", symlinks=True)
    home = made.folder / "hurt" / "seed-0"
    for stage in STAGES[1:]:
        (home / stage / FROZEN).unlink()
        os.link(home / "baseline" / FROZEN, home / stage / FROZEN)
    with (home / "baseline" / FROZEN).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert {one.path for one in verify_run(made.folder / "hurt").damaged} == {f"seed-0/{s}/{FROZEN}" for s in STAGES}
    assert {stage.removeprefix("seed-0/") for stage in made.run(*OPTIONS, where="hurt").done} == set(STAGES)
    same_as_whole(made, "hurt")
    assert not verify_run(made.folder / "hurt").damaged


def test_a_file_that_is_not_what_its_seal_says_is_passed_over(made: Any, tmp_path: Path) -> None:
    shutil.copytree(made.folder / "run", tmp_path / "run", symlinks=True)
    sha256, target = made.stage("baseline")["hashes"][FROZEN], tmp_path / FROZEN
    for path in sorted((tmp_path / "run").glob(f"seed-0/**/{FROZEN}"))[:-1]:
        path.write_bytes(path.read_bytes()[:-1])
    assert link_equal(target, sha256, [tmp_path / "run"])
    assert sha256_file(target) == sha256
    assert not link_equal(target, sha256_file(__file__), [tmp_path / "run"])


def test_without_hard_links_they_are_copied(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    made.run(*OPTIONS, "selftrain.on=false", where="linkless")
    files = [made.folder / "linkless" / "seed-0" / stage / FROZEN for stage in STAGES[:3]]
    assert {path.stat().st_nlink for path in files} == {1}
    assert len({sha256_file(path) for path in files}) == 1
    assert not verify_run(made.folder / "linkless").damaged


def test_cut_off_between_the_files_of_a_model(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = "cut"
    monkeypatch.setenv("XLT_FAULT", "model.linked:3:raise")
    with pytest.raises(RuntimeError, match=r"fault at model\.linked"):
        made.run(*OPTIONS, where=where)
    monkeypatch.delenv("XLT_FAULT")
    stages = [path.parent for path in (made.folder / where).glob(f"seed-0/**/{FROZEN}")]
    (begun,) = (stage for stage in stages if not (stage / "stage.json").exists())
    (begun / TRAINED).write_bytes(b"half")
    (begun / "model.safetensors").write_bytes(b"of a version that knew no shards")
    made.run(*OPTIONS, where=where)
    same_as_whole(made, where)
    assert not list((made.folder / where).glob("seed-0/de/*/model.safetensors"))
    assert not verify_run(made.folder / where).damaged
