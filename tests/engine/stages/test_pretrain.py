"""Pre-training on from given weights, and what it measures on text that it does not learn."""

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional

from xlt_engine import Interrupted
from xlt_engine.data import Corpus, MlmBatches, Tokenizer, TokenStore
from xlt_engine.engine.evaluation.held_out import HeldOut, split_off
from xlt_engine.model import load_masked_lm

HELD = ("pretrain.held_out=8", "pretrain.epochs=4")


def test_loss_and_accuracy_of_held_out_text(tiny: Any) -> None:
    """The last measurement is that of the saved weights, by plain torch in fp64; nothing held out is learned."""
    world = tiny("ner")
    world.run(*HELD, stage="pretrain")
    trace = world.json("pretrain/trace.json")
    total = len(trace["loss"])
    steps = [point["step"] for point in trace["held_out"]]
    assert steps == sorted({-(-total * k // 20) for k in range(1, 21)})
    folder = world.folder / "run/seed-0/pretrain"
    model, tokenizer = load_masked_lm(folder).double(), Tokenizer.from_folder(folder)
    special = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
    special[list(tokenizer.special_ids)] = True
    record = world.json("pretrain/fingerprint.json")
    for number, language in enumerate(("en", "de")):
        stores = map(TokenStore.open, (world.folder / "run/store").iterdir())
        store = next(s for s in stores if s.content_hash == record[f"data.text.{number}"])
        learned, held = split_off({language: store}, 8)
        rows = [[tuple(part.ids(i)) for i in range(len(part))] for part in (learned[language], held[language])]
        assert len(rows[1]) == 8
        assert sorted(rows[0] + rows[1]) == sorted(tuple(ids) for ids in store)
        loss, hits, count = _by_hand(model, held[language], special, tokenizer.mask_id)
        found = trace["held_out"][-1][language]
        assert found["loss"] == pytest.approx(loss / count, rel=1e-5)
        assert found["accuracy"] == pytest.approx(hits / count, rel=1e-9)
    assert "Masked tokens of held-out sentences" in (world.folder / "run/report.html").read_text(encoding="utf-8")


def _by_hand(model: Any, text: Corpus, special: torch.Tensor, mask_id: int) -> tuple[float, int, int]:
    batches = MlmBatches([text], special=special.numpy(), mask_id=mask_id, batch_size=64, epochs=1, seed=0, rate=0.15)
    loss, hits, count = 0.0, 0, 0
    for step in range(len(batches)):
        for batch in batches[step]:
            logits = model.logits(batch, batch.item_index).detach()
            loss += float(functional.cross_entropy(logits, batch.labels, reduction="sum"))
            hits += int((logits.argmax(1) == batch.labels).sum())
            count += len(batch.labels)
    return loss, hits, count


def test_measurements_survive_an_interruption(tiny: Any) -> None:
    world, polls = tiny("ner"), itertools.count()
    world.run(*HELD, stage="pretrain", where="whole")
    with pytest.raises(Interrupted):
        world.run(*HELD, stage="pretrain", where="cut", should_stop=lambda: 15 * (next(polls) == 9))
    assert len(list((world.folder / "cut/seed-0/pretrain/checkpoint").iterdir())) > 0
    world.run(*HELD, stage="pretrain", where="cut")
    assert world.json("pretrain/trace.json", "cut") == world.json("pretrain/trace.json", "whole")


def test_training_on_from_given_weights(tiny: Any) -> None:
    """It starts where the other run ended, with dropout of its own, and what follows starts from its result."""
    world = tiny("ner")
    world.run("pretrain.epochs=6", stage="pretrain", where="first")
    first = world.folder / "first/seed-0/pretrain"
    world.take_model(first)
    world.run("pretrain.further=true", "pretrain.lr=1e-9", "pretrain.dropout=0", "selftrain.on=false", where="on")
    model, before = load_masked_lm(world.folder / "on/seed-0/pretrain"), load_masked_lm(first)
    for (name, weight), other in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6, msg=name)
    assert world.json("de/btf/stage.json", "on")["inputs"] == {"base": "seed-0/pretrain"}
    assert model.config.dropout == before.config.dropout > 0
    losses = [world.json("pretrain/trace.json", where)["loss"] for where in ("first", "on")]
    assert losses[1][0] < sum(losses[0][:3]) / 3


def test_at_most_half_of_a_text_is_held_out() -> None:
    class Store:
        lengths, max_length = torch.full((5,), 9).numpy(), 16

        def __len__(self) -> int:
            return 5

    learned, held = split_off({"de": Store()}, 100)  # type: ignore[dict-item]
    assert (len(learned["de"]), len(held["de"])) == (3, 2)


@pytest.mark.parametrize("total", [1, 7, 20, 45])
def test_the_end_is_always_measured(total: int) -> None:
    held_out = HeldOut({"de": None}, total=total)  # type: ignore[dict-item]
    due = [step for step in range(1, total + 1) if held_out.due(step)]
    assert due[-1] == total
    assert len(due) == min(20, total)
