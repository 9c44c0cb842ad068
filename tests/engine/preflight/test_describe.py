import json
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from xlt_engine import ConfigError, ModelError, __version__
from xlt_engine.data import Tokenizer, train_wordpiece
from xlt_engine.engine import describe_environment, describe_model
from xlt_engine.engine.training.device import choose_device, choose_precision
from xlt_engine.kernels import dispatch, products
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, TaskModel, VoterHeads, save_model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece(["Anna lives in Paris"] * 2, 60)


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(EncoderConfig(tokenizer.vocab_size + 3, 16, 2, 4, 32, max_positions=24))


def test_a_stage_of_a_run(tokenizer: Tokenizer, encoder: Encoder, tmp_path: Path) -> None:
    model = TaskModel(encoder, VoterHeads(16, 3, (12, 13)), "ner", ("O", "B-PER", "I-PER"))
    save_model(model, tmp_path, dtype="bfloat16", extra={"stage": "seed-2/de/hard1"})
    tokenizer.save(tmp_path)
    named = {"pair": "de", "seed": 2, "inputs": {"student": "seed-2/de/soft1"}, "alpha": 0.87, "accepted": 12}
    marks = {"uses_dictionary": False, "uses_target_labels": True}
    record = named | marks | {"warnings": [{"name": "single-voter", "message": "", "values": {}}]}
    (tmp_path / "stage.json").write_text(json.dumps(record))
    (tmp_path / "fingerprint.json").write_text('{"max_length": 16}')
    found = describe_model(tmp_path)
    assert json.loads(json.dumps(found)) == found
    # The voters' weights are stored without their padding, the parameters in memory may hold it.
    voters = sum((16 * d + d) + (d * 16 + 16) + (16 * 3 + 3) for d in (12, 13))
    assert found["parameters"] == sum(p.numel() for p in encoder.parameters()) + voters
    size = tokenizer.vocab_size
    expected = named | {"kind": "task", "layers": 2, "hidden_size": 16, "heads": 4, "dtypes": ["BF16"]}
    expected |= {"embedding_rows": size + 3, "vocabulary": size, "tokenizer": tokenizer.fingerprint, "task": "ner"}
    expected |= {"labels": ["O", "B-PER", "I-PER"], "head": "voters", "voters": 2, "voter_widths": [12, 13]}
    expected |= {"stage": "seed-2/de/hard1", "marks": "T", "max_length": 16, "warnings": ["single-voter"]}
    assert {key: found[key] for key in expected} == expected


def test_marks(encoder: Encoder, tmp_path: Path) -> None:
    save_model(encoder, tmp_path)
    assert describe_model(tmp_path)["marks"] is None
    for target, dictionary, marks in ((False, False, ""), (False, True, "D"), (True, True, "TD")):
        (tmp_path / "stage.json").write_text(json.dumps({"uses_target_labels": target, "uses_dictionary": dictionary}))
        assert describe_model(tmp_path)["marks"] == marks


def test_a_model_from_elsewhere(encoder: Encoder, tmp_path: Path) -> None:
    model = MaskedLM(encoder)
    save_model(model, tmp_path)
    (tmp_path / "xlt.json").unlink()
    found = describe_model(tmp_path)
    assert (found["kind"], found["task"], found["tokenizer"], found["stage"]) == ("masked-lm", None, None, None)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    tensors = load_file(tmp_path / "model.safetensors")
    again = tensors["bert.embeddings.word_embeddings.weight"].clone()
    save_file(tensors | {"cls.predictions.decoder.weight": again}, tmp_path / "model.safetensors")
    assert describe_model(tmp_path)["parameters"] == found["parameters"]


def test_damaged_folders(encoder: Encoder, tmp_path: Path) -> None:
    pytest.raises(ModelError, describe_model, tmp_path / "none").match("no such model folder")
    save_model(encoder, tmp_path)
    (tmp_path / "stage.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"stage\.json:1: expected a JSON object.*copy the model folder again"):
        describe_model(tmp_path)


def test_the_environment() -> None:
    found = describe_environment()
    assert json.loads(json.dumps(found)) == found
    assert (found["xlt-engine"], found["python"]) == (__version__, platform.python_version())
    assert (found["torch"], found["threads"]) == (torch.__version__, torch.get_num_threads())
    assert found["precision"] == choose_precision("auto")
    assert found["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    installed = {d.metadata["Name"] for d in metadata.distributions()}
    assert (found["triton"] is not None) == ("triton" in installed)
    assert set(found["kernels"]) == {"cpu", found["device"]}
    assert all(text.startswith(("reference: ", "triton: ")) for text in found["kernels"].values())
    assert found["products"].startswith(("torch: ", "onednn: "))


def test_the_path_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dispatch, "_interpreted", False)
    with dispatch.using("auto"):
        expected = {"cpu": "reference: plain torch is the implementation for cpu tensors"}
        assert describe_environment()["kernels"] == expected
    with dispatch.using("reference"):
        assert describe_environment()["kernels"] == {"cpu": "reference: XLT_KERNELS=reference"}
    with dispatch.using("triton"):
        for ask in (describe_environment, lambda: choose_device("auto"), lambda: choose_device("cpu")):
            pytest.raises(ConfigError, ask).match("XLT_KERNELS=triton, but .*; unset XLT_KERNELS")


def test_the_library_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, expected in (("torch", "torch: XLT_PRODUCTS=torch"), ("onednn", "onednn: XLT_PRODUCTS=onednn")):
        monkeypatch.setattr(products, "_asked", asked)
        products.products_path.cache_clear()
        assert describe_environment()["products"] == expected
    monkeypatch.setattr(products, "_asked", "mkl")
    products.products_path.cache_clear()
    for ask in (describe_environment, lambda: choose_device("cpu")):
        pytest.raises(ConfigError, ask).match("XLT_PRODUCTS must be torch or onednn, got 'mkl'; unset XLT_PRODUCTS")
    monkeypatch.undo()
    products.products_path.cache_clear()


def test_the_path_of_the_kernels_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device has its own; what the CPU cannot run is not asked of it where there is a GPU, and is no error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(dispatch, "_has_triton", True)
    monkeypatch.setattr(dispatch, "_interpreted", False)
    with dispatch.using("auto"):
        assert describe_environment()["kernels"]["cuda"] == "triton: Some GPU"
        assert describe_environment()["kernels"]["cpu"].startswith("reference: plain torch")
    with dispatch.using("triton"):
        found = describe_environment()["kernels"]
    assert found["cuda"] == "triton: XLT_KERNELS=triton"
    assert found["cpu"].startswith("reference: results that were copied to the CPU")
