"""`frozen_eval`: no dropout in what is frozen, and its states computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xlt_engine import ConfigError, Interrupted, ModelError, StorageError
from xlt_engine.data import PackedBatch, pack
from xlt_engine.data.batch import cut
from xlt_engine.data.buckets import Bucket, pad_to_bucket
from xlt_engine.engine import frozen
from xlt_engine.engine.context import Context
from xlt_engine.engine.objectives import cross_entropy
from xlt_engine.engine.plan import make_plan
from xlt_engine.model import Encoder, EncoderConfig, TaskModel, VoterHeads

CONFIG = EncoderConfig(
    vocab_size=60, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=32, max_positions=32, dropout=0.1
)
FROZEN = (
    "finetune.frozen_eval=true",
    "finetune.freeze_embeddings=true",
    "selftrain.soft.frozen_eval=true",
    "selftrain.soft.freeze_embeddings=true",
    "selftrain.hard.frozen_eval=true",
    "model.new.num_layers=2",
    "selftrain.hard.freeze_layers=1",
)


def tagger(layers: int, *, still: bool = True) -> TaskModel:
    model = TaskModel(Encoder(CONFIG, seed=3), VoterHeads(16, 3, (12, 14), 0.1, seed=2), "ner", ("O", "B-X", "I-X"))
    with torch.no_grad():
        for value in model.encoder.parameters():
            if value.dim() > 1:
                value.mul_(10.0)
    model.encoder.freeze(True, layers)
    model.encoder.frozen_eval = still
    return model.double()


def batch() -> PackedBatch:
    generator = torch.Generator().manual_seed(5)
    words = [torch.randint(5, 60, (n,), generator=generator).numpy() for n in (4, 9, 1, 7)]
    return pack(words, items=[range(len(w)) for w in words], labels=[w % 3 for w in words])


def known(model: TaskModel, given: PackedBatch) -> PackedBatch:
    with torch.no_grad():
        return replace(given, frozen_states=model.encoder.frozen_states(given))


def gradients(model: TaskModel, given: PackedBatch, seed: int = 11) -> dict[str, torch.Tensor]:
    model.zero_grad()
    cross_entropy(model, given, seed).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest relative difference."""
    assert a
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max()) for n in a)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_a_batch_that_brings_its_states_has_the_same_gradients(layers: int) -> None:
    model, given = tagger(layers), batch()
    assert differ(gradients(model, known(model, given)), gradients(model, given)) < 1e-12


@pytest.mark.parametrize("layers", [0, 2])
def test_brought_states_are_what_is_used(layers: int) -> None:
    model, given = tagger(layers), batch()
    other = known(model, given)
    other = replace(other, frozen_states=other.frozen_states * 1.1)
    assert differ(gradients(model, other), gradients(model, given)) > 1e-3


def test_dropout_stays_in_the_layers_that_train_and_leaves_those_that_do_not() -> None:
    given = batch()
    for layers in (0, 2):
        assert differ(gradients(tagger(layers), given, 1), gradients(tagger(layers), given, 2)) > 1e-3
        assert differ(gradients(tagger(layers, still=False), given), gradients(tagger(layers), given)) > 1e-3
    # With everything frozen, dropout is left in the head alone.
    still, loose = tagger(3).encoder, tagger(3, still=False).encoder
    assert torch.equal(still(given, seed=1).hidden, still(given).hidden)
    assert not torch.equal(loose(given, seed=1).hidden, loose(given).hidden)


def test_without_frozen_embeddings_nothing_lies_still() -> None:
    model, given = tagger(2), batch()
    model.encoder.freeze(False, 2)
    assert not torch.equal(model.encoder(given, seed=1).hidden, model.encoder(given, seed=2).hidden)
    with pytest.raises(ModelError, match="set frozen_eval"):
        model.encoder.frozen_states(given)


def test_parts_and_padding_keep_the_states_of_their_tokens() -> None:
    model = tagger(2)
    given = known(model, batch())
    for part in cut(given, 1):
        assert part.frozen_states is not None
        alone = known(model, replace(part, frozen_states=None)).frozen_states
        torch.testing.assert_close(part.frozen_states, alone, rtol=1e-12, atol=0)
    padded = pad_to_bucket(given, Bucket(tokens=64, sequences=12, items=32, longest=9))
    assert differ(gradients(model, padded), gradients(model, given)) < 1e-12


def test_a_run_is_the_same_with_states_computed_in_every_step(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of every stage, but for the rounding of another order of sums."""
    world = tiny("ner")
    world.run(*FROZEN, where="kept")
    monkeypatch.setattr(Context, "frozen_states", lambda *_: None)
    world.run(*FROZEN, where="again")
    for stage in ("de/finetune", "de/soft1", "de/hard1", "de/soft2", "de/hard2"):
        kept, again = (
            load_file(world.folder / where / "seed-0" / stage / "model.safetensors") for where in ("kept", "again")
        )
        for weights in (kept, again):
            for name in [n for n in weights if n.endswith("key.bias")]:
                del weights[name]  # its gradient is zero but for rounding, and Adam moves it all the same
        assert differ(kept, again) < 1e-4, stage


def signal_at(number: int) -> Callable[[], int]:
    """A `should_stop` that reports a signal when it is asked for the `number`-th time."""
    polls = count()
    return lambda: 15 * (next(polls) == number)


def test_a_run_that_was_interrupted_ends_in_the_same_bits(tiny: Any) -> None:
    world, polls = tiny("ner"), count()
    world.run(*FROZEN, where="whole", should_stop=lambda: 0 * next(polls))
    polled = next(polls)
    for share in (0.3, 0.5, 0.7, 0.9):
        stop = int(polled * share)
        with pytest.raises(Interrupted):
            world.run(*FROZEN, where="parts", should_stop=signal_at(stop))
        polled -= stop
    world.run(*FROZEN, where="parts")
    for stage in ("de/finetune", "de/soft1", "de/hard1", "de/hard2"):
        whole, parts = (world.stage(stage, where)["hashes"]["model.safetensors"] for where in ("whole", "parts"))
        assert whole == parts, stage
    assert not list((world.folder / "parts").rglob(".tmp-*"))


def test_the_setting_belongs_to_the_fingerprint_and_its_absence_does_not(tiny: Any) -> None:
    stages = [make_plan(tiny("ner").resolved(*options).config) for options in ((), FROZEN)]
    old, new = ({s.id: s.settings for s in plan} for plan in stages)
    assert "frozen_eval" not in str(old)
    assert new["seed-0/de/soft1"]["soft"]["frozen_eval"] is True
    assert "frozen_eval" not in new["seed-0/de/btf"]["btf"]


def test_embeddings_that_train_are_refused(tiny: Any) -> None:
    with pytest.raises(ConfigError, match=r"selftrain\.soft\.frozen_eval: is on, but the embeddings train"):
        tiny("ner").resolved("selftrain.soft.frozen_eval=true")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_of_examples_that_were_not_asked_for_are_zero(tiny: Callable[..., Any], precision: str) -> None:
    from xlt_engine.data import TokenStore

    world = tiny("ner")
    result = world.run("selftrain.on=false")
    store = next(
        s for s in map(TokenStore.open, sorted((result.folder / "store").iterdir())) if s.task == "ner" and len(s) > 20
    )
    model = TaskModel(
        Encoder(replace(CONFIG, vocab_size=200), seed=3), VoterHeads(16, 3, (12, 14), 0.1, seed=2), "ner", tuple("ABC")
    )
    model.encoder.freeze(True, 2)
    model.encoder.frozen_eval = True
    examples = torch.tensor([3, 7, 19]).numpy()
    states = frozen.frozen_states(model, store, examples, folder=world.folder, precision=precision, tokens=20)
    assert states.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert not list(world.folder.rglob(".tmp-*"))
    for i in range(len(store)):
        mine = states[store.offsets[i] : store.offsets[i + 1]].float()
        if i not in examples:
            assert not mine.any()
            continue
        truth = model.encoder.frozen_states(pack([store.ids(i)])).float()
        assert float((mine - truth).abs().max() / truth.abs().max()) < (1e-5 if precision == "fp32" else 3e-2)


def test_a_full_disk_is_said_before_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_engine.engine.files.free_space", lambda path: 100)
    with pytest.raises(StorageError, match="frozen_eval needs"):
        frozen._mapped(tmp_path, 1000, 16, torch.float32)
