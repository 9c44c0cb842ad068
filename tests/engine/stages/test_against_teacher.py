"""What a student of a collapsed teacher is compared with."""

from typing import Any

import torch

from xlt_engine.data import Tokenizer, pack
from xlt_engine.engine import answers
from xlt_engine.engine.evaluation import collapse
from xlt_engine.model import load_task_model

COLLAPSED = (
    "selftrain.soft.lr=1e-9",  # it stays what chance made of it
    "selftrain.voters=1",
    "selftrain.rounds=1",
    "selftrain.alpha.rule=fixed:0.0",
    "finetune.epochs=20",
    "finetune.lr=3e-2",
    "pretrain.epochs=20",
)


def test_a_student_of_a_collapsed_teacher_is_compared_with_the_last_sound_model(tiny: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(collapse, "MIN_AGREEMENT", 0.75)  # chance agrees on half of what such a model names
    world = tiny("ner")
    world.run(*COLLAPSED)
    root = world.folder / "run" / "seed-0" / "de"
    soft, hard = (world.stage(f"de/{name}")["against_teacher"] for name in ("soft1", "hard1"))
    assert soft["agreement"] < 0.75
    assert "last_sound" not in soft
    assert hard["last_sound"]["stage"] == "seed-0/de/finetune"
    tokenizer, named, same = Tokenizer.from_folder(root / "hard1"), 0, 0
    models = [load_task_model(root / name) for name in ("finetune", "hard1")]
    for line in (world.folder / "de.txt").read_text(encoding="utf-8").splitlines():
        words = tokenizer.encode_words([line.split()])[0]
        batch = pack([words.ids], items=[words.positions])
        with torch.no_grad():
            teacher, student = (model(batch).mean(0).argmax(-1) for model in models)
        named += int((teacher > 0).sum())
        same += int((student == teacher)[teacher > 0].sum())
    assert hard["last_sound"]["agreement"] == same / named
    chosen = answers(world.folder / "run")["de"]
    assert chosen.stage == ("seed-0/de/hard1" if same / named >= 0.75 else "seed-0/de/finetune")
