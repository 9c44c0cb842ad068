"""Models by name: a cache that is made here, read as the hub's own client reads it; and no network anywhere."""

import fnmatch
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from xlt_engine import ConfigError, ModelError
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.engine import load_recipe
from xlt_engine.engine.recipe.hub import cached_model, fetch_model, hub_name, model_folder
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, load_masked_lm, save_model

NAME, FIRST, SECOND = "org/tiny", "1" * 40, "2" * 40
REST = ["btf.on=false", "selftrain.on=false", "arms.baseline=true", "finetune.epochs=1"]


def put(cache: Path, files: dict[str, bytes], commit: str, ref: str = "main") -> Path:
    """A commit of a model as the hub's client lays it down: blobs, links to them, and the ref."""
    entry = cache / "models--org--tiny"
    for name, data in files.items():
        blob = entry / "blobs" / hashlib.sha256(data).hexdigest()
        link = entry / "snapshots" / commit / name
        for folder in (blob.parent, link.parent, entry / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(Path("../../blobs", blob.name))
    (entry / "refs" / ref).write_text(commit)
    return entry / "snapshots" / commit


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, bytes]]:
    """A function from a seed to the files of a model."""
    tokenizer = train_wordpiece(["Anna lives in Paris", "heute sah Berta die Stadt Oslo ."], 90)

    def make(seed: int) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("model")
        config = EncoderConfig(tokenizer.vocab_size, 16, 4, 2, 32, 16, pad_token_id=tokenizer.pad_id)
        save_model(MaskedLM(Encoder(config, seed=seed), seed=seed), folder)
        tokenizer.save(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return make


def test_the_cache_is_read_as_its_own_client_reads_it(
    cache: Path, model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = put(cache, model(1), FIRST, "v1")
    second = put(cache, model(2), SECOND)
    client = huggingface_hub._snapshot_download.snapshot_download
    for revision, expected in ((None, second), ("main", second), ("v1", first), (FIRST, first)):
        name = NAME if revision is None else f"{NAME}@{revision}"
        assert cached_model(name) == expected
        theirs = client("org/tiny", revision=revision, cache_dir=cache, local_files_only=True)
        assert Path(theirs) == expected
    assert hub_name(first) == f"{NAME}@{FIRST}"
    assert hub_name(tmp_path / "snapshots" / FIRST) is None
    assert load_masked_lm(cached_model(NAME)).config.hidden_size == 16
    assert Tokenizer.from_folder(cached_model(NAME)).vocab_size <= 90
    monkeypatch.delenv("HF_HUB_CACHE")
    for variable, value in (("HF_HOME", tmp_path / "home"), ("XDG_CACHE_HOME", tmp_path / "x")):
        monkeypatch.setenv(variable, str(value))
        place = value / "hub" if variable == "HF_HOME" else value / "huggingface" / "hub"
        shutil.copytree(cache, place, symlinks=True)
        assert cached_model(NAME).is_relative_to(place)
        monkeypatch.delenv(variable)


def test_a_run_by_name_keeps_the_revision_that_it_began_with(
    cache: Path, model: Any, files: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    snapshot = put(cache, model(1), FIRST)
    text = (files / "tiny.toml").read_text("utf-8")
    before, after = text.split("[model.new]")[0], text.split("[source]", 1)[1]
    recipe = files / "named.toml"
    recipe.write_text(f'{before}[model]\nname = "{NAME}"\n[source]{after}', "utf-8")
    options = [option for value in REST for option in ("--set", value)]

    def weights(where: str, *more: str) -> str:
        answer = cli("run", recipe, "--run-dir", files / where, *options, *more)
        assert answer.code == 0, answer.err
        stage = json.loads((files / where / "seed-0/baseline/stage.json").read_bytes())
        return str(stage["hashes"]["model.safetensors"])

    named = weights("named")
    assert named == weights("by-path", "--set", f"model.path={snapshot}")
    assert json.loads((files / "named" / "run.json").read_bytes())["model"] == f"{NAME}@{FIRST}"
    assert load_recipe(files / "named" / "config.toml").config.model.path == snapshot
    second = put(cache, model(2), SECOND)
    again = cli("run", recipe, "--run-dir", files / "named", *options)
    assert "are up to date" in again.err + again.out
    assert load_recipe(recipe).config.model.path == second
    assert load_recipe(recipe, [f"model.name={NAME}@{FIRST}"]).config.model.path == snapshot


def test_what_is_not_in_the_cache(cache: Path, model: Any, files: Path, cli: Any) -> None:
    command = "xlt-engine info org/absent --download"
    answer = cli("info", "org/absent")
    assert answer.code == 4
    assert command in answer.err
    assert str(cache) in answer.err
    answer = cli("check", files / "tiny.toml", "--set", "model.name=org/absent")
    assert answer.code == 2
    (files / "named.toml").write_text('name = "x"\ntask = "ner"\n[model]\nname = "org/absent"\n', "utf-8")
    with pytest.raises(ConfigError, match=r"named\.toml:4: model\.name: org/absent: .*info org/absent --download"):
        load_recipe(files / "named.toml")
    data = model(1)
    weights = data.pop("model.safetensors")
    put(cache, data | {"pytorch_model.bin": weights}, FIRST)
    with pytest.raises(ModelError, match="has no safetensors of that name"):
        cached_model(NAME)
    assert model_folder(files) == files
    assert model_folder("./a/b/c") == Path("a/b/c")


def test_init_writes_the_name_with_its_revision(cache: Path, model: Any, files: Path, cli: Any) -> None:
    snapshot = put(cache, model(1), FIRST)
    arguments = ["--source", files / "train.conll", "--unlabelled", files / "de.txt", "--out", files / "new.toml"]
    answer = cli("init", *arguments, "--model", NAME)
    assert answer.code == 0, answer.err
    assert f'name = "{NAME}@{FIRST}"' in (files / "new.toml").read_text("utf-8")
    assert load_recipe(files / "new.toml").config.model.path == snapshot


def test_download(cache: Path, model: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched is what the hub's patterns let through; the client itself is a stand-in."""
    asked: list[tuple[str, str | None]] = []
    offered = model(1) | dict.fromkeys(
        ["pytorch_model.bin", "tf_model.h5", "modeling_own.py", "onnx/model.onnx", "onnx/config.json", "README.md"],
        b"x",
    )

    def client(repository: str, *, revision: str | None, cache_dir: Path, **patterns: list[str]) -> str:
        def matches(name: str, kind: str) -> bool:
            return any(fnmatch.fnmatch(name, pattern) for pattern in patterns[f"{kind}_patterns"])

        asked.append((repository, revision))
        if repository != "org/tiny":
            raise OSError("404 Client Error\nmore")
        files = {n: data for n, data in offered.items() if matches(n, "allow") and not matches(n, "ignore")}
        return str(put(cache_dir, files, FIRST, revision or "main"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", client)
    answer = cli("info", f"{NAME}@v1", "--download", "--json")
    assert answer.code == 0, answer.err
    assert asked == [("org/tiny", "v1")]
    assert json.loads(answer.out)["problems"] == []
    stored = {path.name for path in (cache / "models--org--tiny/snapshots" / FIRST).iterdir()}
    assert stored == model(1).keys()
    answer = cli("info", "org/absent", "--download")
    assert (answer.code, "org/absent: cannot be fetched (404 Client Error more)" in answer.err) == (4, True)
    offered.pop("model.safetensors")
    shutil.rmtree(cache)
    with pytest.raises(ModelError, match="no safetensors on the hub; pickles are not fetched"):
        fetch_model(NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    answer = cli("info", NAME, "--download")
    assert (answer.code, "pip install 'xlt-engine[hub]'" in answer.err) == (2, True)


def test_run_fetches_the_model_of_its_recipe(cache: Path, files: Path, cli: Any, monkeypatch: Any) -> None:
    asked: list[str] = []

    def client(repository: str, **_: Any) -> None:
        asked.append(repository)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", client)
    (files / "named.toml").write_text('name = "x"\ntask = "ner"\n[model]\nname = "org/absent"\n', "utf-8")
    answer = cli("run", files / "named.toml", "--download", "--dry-run")
    assert (answer.code, asked) == (4, ["org/absent"])


def test_a_cache_that_leads_elsewhere(cache: Path, model: Any, tmp_path: Path) -> None:
    """Links end in the blobs of the same model; refs hold commits; names hold no path."""
    snapshot = put(cache, model(1), FIRST)
    (tmp_path / "outside.json").write_bytes(model(1)["config.json"])
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ModelError, match="links to .* outside the folder"):
        load_masked_lm(cached_model(NAME))
    shutil.copytree(snapshot, cache / "models--org--tiny" / "else")
    (cache / "models--org--tiny/refs/main").write_text("../else")
    with pytest.raises(ModelError, match="no safetensors of that name"):
        cached_model(NAME)
    for name in ("../org/tiny", "org/../tiny", "org/tiny@../../x", "a/b/c", "", "/etc"):
        with pytest.raises(ModelError, match="is no name"):
            cached_model(name)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(""), r"cannot be fetched \(RuntimeError\)"),
        (TimeoutError("too\nslow"), r"cannot be fetched \(too slow\)"),
    ],
)
def test_whatever_the_library_raises_is_one_line(cache: Path, monkeypatch: Any, error: Exception, said: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=said):
        fetch_model(NAME)
