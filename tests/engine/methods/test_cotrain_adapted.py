"""Co-training that starts from encoders after contrastive adaptation: lineage, fingerprints, marks."""

import warnings
from typing import Any

import torch

from xlt_engine.data import train_wordpiece
from xlt_engine.engine import estimate
from xlt_engine.engine.runs.graph import chosen_stages
from xlt_engine.model import Encoder, load_encoder, load_task_model
from xlt_engine.model.weights import tensors_hash

COTRAIN = (
    *("cotrain.on=true", "cotrain.iterations=2", "cotrain.threshold=0.5", "cotrain.lr=2e-2", "cotrain.epochs=1"),
    *("cotrain.batch_size=8", "selftrain.on=false", "btf.on=false", "checkpoint.seconds=60"),
    *("contrastive.on=true", "contrastive.lr=2e-2", "contrastive.batch_size=8"),
    'cotrain.modes=["co", "self-a"]',
)
ADAPTED = "cotrain.start=adapted"
AFTER = ("co1a", "co1b", "de/co2a", "de/co2b", "de/self2a")


def hash_of(encoder: Encoder) -> str:
    return tensors_hash(dict(encoder.named_parameters()))


def test_every_iteration_starts_from_the_adapted_encoder(tiny: Any) -> None:
    run = tiny("classification")
    given = (*COTRAIN, ADAPTED)
    result = run.run(*given)
    place = run.folder / "run" / "seed-0"
    pretrained, la = (hash_of(load_encoder(place / name)) for name in ("pretrain", "la"))
    assert pretrained != la
    assert run.stage("la")["encoder_at_start"] == pretrained
    assert {run.stage(stage)["encoder_at_start"] for stage in AFTER} == {la}
    stages = {r["stage"] for r in result.summary["rows"]}
    assert stages == {"zero-shot", "la", *(stage.rpartition("/")[2] for stage in AFTER)}
    assert run.run(*given).done == ()
    found = {s.id: s for s in estimate(run.recipe, overrides=given, rate=1e9).stages}
    assert found["seed-0/co1a"].inputs == {"base": "seed-0/la"}


def test_the_second_encoder_of_a_recipe_stays_as_it_was_pre_trained(tiny: Any) -> None:
    run = tiny("classification")
    other = run.second_encoder()
    run.run(*COTRAIN, ADAPTED, f'cotrain.model="{other}"')
    place = run.folder / "run" / "seed-0"
    la, second = (hash_of(load_encoder(path)) for path in (place / "la", other))
    start = {stage: run.stage(stage)["encoder_at_start"] for stage in AFTER}
    assert start == {stage: second if stage.endswith("b") else la for stage in AFTER}


def test_a_pooler_is_taken_along(tiny: Any) -> None:
    """At a rate that moves nothing, encoder and pooler end as the adaptation left them; heads are fresh."""
    run = tiny("classification")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import BertConfig, BertModel

        files = [run.folder / f"general-{language}.txt" for language in ("en", "de")]
        lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
        tokenizer = train_wordpiece(lines * 2, 120)
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=16, **shape)).save_pretrained(
            run.folder / "bert"
        )
    tokenizer.save(run.folder / "bert")
    run.take_model("bert")
    run.run(*COTRAIN, ADAPTED, "pooling=pooler", "cotrain.lr=1e-30", "training.weight_decay=0")
    place = run.folder / "run" / "seed-0"
    adapted, after = (load_task_model(place / name) for name in ("la", "co1a"))
    for ours, theirs in ((after.encoder, adapted.encoder), (after.pooler, adapted.pooler)):
        for (name, value), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(value, other), name
    assert not torch.equal(after.head.weight, adapted.head.weight)  # type: ignore[arg-type]


def test_plan_and_fingerprints(tiny: Any) -> None:
    run = tiny("classification")
    adapted = run.plan(*COTRAIN, ADAPTED)
    assert adapted["de/co2b"].inputs == {"base": "seed-0/la", "teacher": "seed-0/co1a", "previous": "seed-0/co1b"}
    assert run.plan(*COTRAIN)["de/co2b"].inputs["base"] == "seed-0/pretrain"
    both = {s.id for s in chosen_stages(run.resolved(*COTRAIN, ADAPTED).config, stage="cotrain")}
    assert both == {"seed-0/pretrain", "seed-0/la", *(f"seed-0/{stage}" for stage in AFTER)}
    assert run.remade(ADAPTED, before=COTRAIN) == set(AFTER)
    assert run.remade("contrastive.weight=0.25", before=(*COTRAIN, ADAPTED)) == {"la", *AFTER}
    assert run.remade("cotrain.start=pretrained", before=COTRAIN) == set()
    other = 'cotrain.model="other"'
    assert "co1b" not in run.remade(ADAPTED, before=(*COTRAIN, other)), "the second encoder's first stage is the same"
