"""Checkpoints: whole or absent whenever the writer dies, never wrong when a byte changes, strict on loading."""

import contextlib
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xlt_engine import ModelError, StorageError
from xlt_engine.engine.storage import faults
from xlt_engine.engine.storage.files import sweep
from xlt_engine.engine.training.checkpoint import Checkpoint, checkpoint_problem, load_latest, save_checkpoint
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.optimizer import OptimizerStep
from xlt_engine.engine.training.precision import MasterWeights

PRINT = {"lr": 0.1, "data": {"train": "ab"}, "seeds": (0, 1)}


def content(step: int) -> dict[str, Tensor]:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(step))
    views = {"weight": weight, "tied": weight, "view": weight.t(), "half": weight.bfloat16()}
    return views | {"empty": torch.zeros(0, 4), "count": torch.tensor(step)}


def save(folder: Path, step: int, **options: Any) -> Path:
    values: dict[str, Any] = {"meta": {"trace": [0.1 * step, 1 / 3]}, "fingerprint": PRINT, **options}
    return save_checkpoint(folder, step=step, tensors=content(step), **values)


def load(folder: Path) -> Checkpoint | None:
    found = load_latest(folder, fingerprint=PRINT)
    if found is not None:
        expected = content(found.step)
        assert found.tensors.keys() == expected.keys()
        for name, tensor in found.tensors.items():
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor, expected[name])
        assert (found.meta, found.path) == ({"trace": [0.1 * found.step, 1 / 3]}, folder / f"step-{found.step:08d}")
    return found


def skipped(folder: Path) -> list[tuple[Path, str]]:
    heard: list[tuple[Path, str]] = []
    load_latest(folder, fingerprint=PRINT, on_skip=lambda *skip: heard.append(skip))
    return heard


def steps(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none", fingerprint={}) is None
    for step in (5, 10, 100_000_000):
        save(tmp_path, step)
    assert steps(tmp_path) == ["step-00000010", "step-100000000"]
    found = load(tmp_path)
    assert (found.step, found.notes) == (100_000_000, ())


def test_steps_above_the_new_one_were_abandoned(tmp_path: Path) -> None:
    for step in (1, 2, 9):
        save(tmp_path, step, keep=5)
    save(tmp_path, 3, keep=2)
    assert steps(tmp_path) == ["step-00000002", "step-00000003"]
    save(tmp_path, 3, keep=1)
    assert steps(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("step", [20, 10], ids=["next step", "same step again"])
@pytest.mark.fault(2)
def test_kill_anywhere_leaves_the_old_or_the_new(tmp_path: Path, step: int, in_child: Callable[..., int]) -> None:
    found, number, code = [], 0, -1
    while code != 0:
        number += 1
        folder = tmp_path / str(number)
        save(folder, 5)
        save(folder, 10)
        code = in_child(lambda folder=folder: save(folder, step, keep=1), fault=f"*:{number}:kill")  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL)
        sweep(folder)
        checkpoint = load(folder)
        assert not skipped(folder)
        found.append(checkpoint.step)
    assert number > 12, "the writer has that many points"
    assert (found, set(found), steps(folder)) == (sorted(found), {10, step}, [f"step-{step:08d}"])


@pytest.mark.parametrize("action", ["enospc", "eio", "raise"])
def test_failure_anywhere_before_the_rename_leaves_the_old(tmp_path: Path, monkeypatch: Any, action: str) -> None:
    save(tmp_path, 10)
    for number in range(1, 30):
        faults._passages.clear()
        monkeypatch.setenv(faults.VARIABLE, f"*:{number}:{action}")
        with contextlib.suppress(RuntimeError if action == "raise" else StorageError):
            save(tmp_path, 20, keep=1)
        monkeypatch.delenv(faults.VARIABLE)
        assert not [name for name in steps(tmp_path) if name.startswith(".tmp")]
        checkpoint = load(tmp_path)
        if checkpoint.step == 20:
            break
        assert steps(tmp_path) == ["step-00000010"]
    assert number > 6


@pytest.mark.fault(15)
def test_a_file_size_limit_leaves_the_old(tmp_path: Path, in_child: Callable[..., int]) -> None:
    save(tmp_path, 10)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        with pytest.raises(StorageError, match=r"step-00000020: File too large; raise the file size limit"):
            save_checkpoint(tmp_path, step=20, tensors={"w": torch.zeros(5000)}, meta={}, keep=1)

    assert (in_child(work), steps(tmp_path)) == (0, ["step-00000010"])
    assert load(tmp_path) is not None


def test_too_little_space_is_seen_beforehand(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(10**15)
    with pytest.raises(StorageError, match=r"a checkpoint needs 4000 TB in .* are free; free disk space"):
        save_checkpoint(tmp_path / "c", step=1, tensors={"w": huge}, meta={})
    assert not (tmp_path / "c").exists()


def _mutations(data: bytes, step: int) -> Iterator[tuple[str, bytes]]:
    """Truncations, a longer file, zeroed blocks and bit flips, the first and last bytes always among them."""
    draw = random.Random(0)
    places = {0, 1, 7, 8, len(data) // 2, len(data) - 1, *range(0, len(data), step)}
    for place in sorted(places):
        yield f"cut at {place}", data[:place]
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        yield f"bit at {place}", bytes(flipped)
        zeroed = data[:place] + bytes(min(16, len(data) - place)) + data[place + 16 :]
        if zeroed != data:
            yield f"zeros at {place}", zeroed
    yield "one byte more", data + b"\n"


@pytest.mark.parametrize("name", ["tensors.safetensors", "meta.json", "manifest.json"])
@pytest.mark.fault(20, 22)
def test_changed_bytes_are_never_loaded(tmp_path: Path, name: str) -> None:
    save(tmp_path, 10)
    path = save(tmp_path, 20) / name
    data = path.read_bytes()
    for what, changed in _mutations(data, 3 if name == "manifest.json" else 12):
        path.write_bytes(changed)
        heard: list[tuple[Path, str]] = []
        checkpoint = load_latest(tmp_path, fingerprint=PRINT, on_skip=lambda *skip: heard.append(skip))  # noqa: B023
        assert checkpoint is not None, what
        assert checkpoint.step == 10, what
        assert heard[0][0] == path.parent
        assert name in heard[0][1], what
    path.write_bytes(data)
    assert (load(tmp_path) or checkpoint).step == 20


@pytest.mark.fault(21)
def test_missing_extra_and_linked_files(tmp_path: Path) -> None:
    good = save(tmp_path, 10)
    for name in ("tensors.safetensors", "meta.json", "manifest.json"):
        path = save(tmp_path, 20)
        (path / name).unlink()
        assert skipped(tmp_path) == [(path, f"{name} is missing")]
        (path / name).symlink_to(good / name)
        assert checkpoint_problem(path) == f"{name} is a symbolic link"
        shutil.rmtree(path)
    (tmp_path / "step-00000030").symlink_to(good)
    (tmp_path / "step-00000040").mkdir()
    (tmp_path / "step-00000050").write_text("x")
    shutil.copytree(good, tmp_path / "step-00000060")
    (tmp_path / "step-7").mkdir()
    (good / "notes.txt").write_text("x")
    assert [(path.name, reason) for path, reason in skipped(tmp_path)] == [
        ("step-00000060", "manifest.json is that of step 10"),
        ("step-00000050", "not a folder of its own"),
        ("step-00000040", "manifest.json is missing"),
        ("step-00000030", "not a folder of its own"),
    ]
    assert load(tmp_path).notes == (f"{good / 'notes.txt'} does not belong to the checkpoint and is ignored",)


def test_no_valid_checkpoint_is_reported(tmp_path: Path) -> None:
    (save(tmp_path, 10) / "meta.json").write_text("{}")
    heard: list[str] = []
    assert load_latest(tmp_path, fingerprint=PRINT, on_skip=lambda _, reason: heard.append(reason)) is None
    assert len(heard) == 1
    save(tmp_path, 10)
    assert load(tmp_path) is not None


@pytest.mark.fault(17)
def test_a_disk_that_fails_on_reading_is_not_a_bad_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 10)
    monkeypatch.setenv(faults.VARIABLE, "checkpoint.read:1:eio")
    pytest.raises(StorageError, load, tmp_path).match("cannot read .*step-00000010/.*: Input/output error")


def test_other_settings_are_listed(tmp_path: Path) -> None:
    save(tmp_path, 10)
    other = {"lr": 0.2, "data": {"train": "ab"}, "seeds": [0, 1], "new": True}
    with pytest.raises(ModelError, match=r"lr 0\.1 -> 0\.2, new absent -> true; set them back") as caught:
        load_latest(tmp_path, fingerprint=other)
    assert "seeds" not in str(caught.value)
    assert "train" not in str(caught.value)
    assert load_latest(tmp_path) is not None


def test_other_versions_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_engine.engine.training.checkpoint.torch.__version__", "1.0")
    save(tmp_path, 10)
    monkeypatch.undo()
    found = load(tmp_path)
    assert found.notes[0].startswith('step-00000010 was saved under other conditions (torch "1.0" -> ')


def test_meta_must_be_json(tmp_path: Path) -> None:
    pytest.raises(ValueError, save, tmp_path, 10, meta={"loss": float("nan")}).match("JSON")
    assert steps(tmp_path) == []


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.frozen(self.first(x)))  # type: ignore[no-any-return]

    def named(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def adamw(net: Net) -> OptimizerStep:
    return OptimizerStep(MasterWeights(net, "fp32"), OptimizerConfig(lr=0.1), torch.device("cpu"), "fp32")


def steps_of(net: Net, step: OptimizerStep, numbers: range) -> None:
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        net(torch.randn(8, 4, generator=generator)).square().sum().backward()
        step.optimizer.step()
        step.optimizer.zero_grad(set_to_none=True)


def test_a_resumed_optimiser_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = Net()
    steps_of(whole, adamw(whole), range(6))
    net = Net()
    optimizer = adamw(net)
    steps_of(net, optimizer, range(3))
    weights = {f"model.{name}": p.detach() for name, p in net.named().items()}
    save_checkpoint(tmp_path, step=3, tensors=weights | optimizer.state(), meta={})
    found = load_latest(tmp_path)
    assert found.tensors["optimiser.unused.weight.step"].item() == 0
    other = Net(seed=0)
    resumed = adamw(other)
    steps_of(other, resumed, range(7, 9))
    with torch.no_grad():
        for name, parameter in other.named().items():
            parameter.copy_(found.tensors[f"model.{name}"])
    resumed.load(dict(reversed(found.tensors.items())))
    steps_of(other, resumed, range(3, 6))
    for (name, expected), actual in zip(whole.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, actual), name


def test_optimiser_state_is_strict(tmp_path: Path) -> None:
    net = Net()
    optimizer = adamw(net)
    steps_of(net, optimizer, range(2))
    saved = optimizer.state()
    key = "optimiser.first.weight.exp_avg"
    faulty = [
        ({k: v for k, v in saved.items() if k != key}, "first.weight;"),
        ({k: v for k, v in saved.items() if not k.startswith("optimiser.second.bias")}, "second.bias;"),
        (saved | {key: torch.zeros(4, 5)}, "first.weight;"),
        (saved | {key: saved[key].bfloat16()}, "first.weight;"),
        (saved | {"optimiser.other.step": torch.ones(())}, "other.step;"),
        (saved | {"optimiser.first.weight.max_exp_avg_sq": torch.ones(4, 4)}, "weight.max_exp_avg_sq;"),
    ]
    before = {name: tensor.clone() for name, tensor in saved.items()}
    for tensors, message in faulty:
        pytest.raises(ModelError, optimizer.load, tensors).match(message)
    after = optimizer.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
