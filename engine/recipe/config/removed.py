"""What recipes had in earlier versions and have no more, with its new place or what to do instead."""

from __future__ import annotations

import re

_KNOBS = {
    **{"kind": "demo", "anchors": 0.3, "letter_overlap": 0.0, "word_order": 0.0, "affixes": 0.0, "label_shift": 0.0},
    **{"domain_shift": 0.0, "general_sentences": 2500, "control_sentences": 3000, "train_sentences": 1500},
    **{"unlabelled_sentences": 3000, "test_sentences": 800},
}
_OF_TRANSLATIONS = {
    **{"uses_parallel_data": False, "targets.N.pairs": [], "targets.N.translated_train": None},
    **{"targets.N.translated_test": None, "btf.pairs_share": 0.5, "btf.pair_positions": "reset"},
    **{"finetune.translated": "both", "finetune.translated_all": False, "cotrain.second_uses_parallel_data": False},
    **{"contrastive.align": "both", "contrastive.translations": {}, "contrastive.originals": None},
    "contrastive.semantic": {"on": True, "lr": 1e-5, "weight": 0.5},
}
_OF_SOFT = {
    "selftrain.soft.loss": "mse",
    "selftrain.soft.temperature": 1.0,
    "selftrain.soft.combine": "per-voter",
    "selftrain.soft.target": "mean",
}
_OF_FOLDERS = ("selftrain.soft.teacher_folders", "selftrain.soft.teacher_weights")
UNUSED: dict[str, object] = {f"world.{knob}": value for knob, value in _KNOBS.items()} | {
    **_OF_TRANSLATIONS,
    **_OF_SOFT,
    "training.l2_to_base": 0.0,
    "training.order": "random",
    "selftrain.hard.source_weight": 1.0,
    "selftrain.hard.target_weight": 1.0,
    "selftrain.mlm_weight": 0.0,
    "selftrain.soft.sides": "target",
    "selftrain.accept": "threshold",
    "targets.N.pseudo_labels": None,
    "selftrain.soft.teacher_folders": [],
    "selftrain.soft.teacher_weights": [],
    "cloze": {"template": "{text} It was {mask}.", "verbaliser": []},
}
"""Removed keys with the value at which they did nothing. The `config.toml` of an earlier version's run names every key:
with these values they are dropped, so that the run can be gone on with and read."""
_SHARED = (
    *("warmup", "weight_decay", "clip", "beta2", "freeze_embeddings", "freeze_layers"),
    *("micro_batch", "recompute", "keep"),
)
REMOVED = {
    **{name: f"use training.{name}, which holds for all stages" for name in _SHARED},
    "each": "write ${NAME} or ${NAME:-default}, variables of the environment, where paths differ, and run it for each",
    "frozen_eval": "leave it out, it saved less than a tenth of a run",
    "head_lr": "leave it out, heads have the stage's lr",
    "beta1": "leave it out, it is 0.9",
    "eps": "leave it out, it is 1e-8",
    "sources": "write every one of several sources as a table [[source]]",
    "checkpoint.keep": "leave it out, a running stage has two checkpoints",
    "model.new.max_positions": "use max_length: a new encoder has as many positions",
    "pretrain.max_length": "use max_length, which holds for all stages",
    "btf.max_length": "use max_length, which holds for all stages",
    "order": "leave it out, batches are drawn at random; those of about one length cost F1",
    **dict.fromkeys(("source_weight", "target_weight"), 'leave it out; see hard.mix = "balanced"'),
    "l2_to_base": "leave it out, no measurement says that it helps",
    "selftrain.mlm_weight": "leave it out, masked words beside self-training cost 8.5 ± 2.1 points on WikiANN",
    "selftrain.outside": "leave it out, all accepted O are learned",
    "selftrain.consistency": "leave it out, labels are taken from one pass without dropout",
    "selftrain.diversity": "leave it out, all voters learn from the same examples",
    "selftrain.alpha.per_class": "leave it out, one alpha serves all classes",
    "selftrain.alpha.calibrate": "leave it out, confidences are taken as they are",
    'selftrain.source_filter = "agreed"': 'use "correct", or "none" to keep all source examples',
    "selftrain.soft.sides": "leave it out, the teacher labels the text of the target; more epochs do as much",
    "targets.N.pseudo_labels": "leave it out, labels come from the run's own teachers",
    **dict.fromkeys(_OF_SOFT, "leave it out, students learn the mean square of Eq. 1, which no other loss beat"),
    **dict.fromkeys(_OF_FOLDERS, "leave it out, teachers are those of the run"),
    "cloze": "leave it out, classifiers have a head of their own; finetune.head is linear",
    "selftrain.accept": "leave it out, balancing what is accepted gained nothing; see selftrain.source_prior",
    "selftrain.soft.stored": "leave it out, soft labels lie on the disk in fp32",
    "augment.code_switch.draw": "leave it out, the choice of words goes by the example",
    "augment.code_switch.induce_words": "leave it out, the 2,000 most frequent words are compared",
    "augment.code_switch.induce_count": "leave it out, words that occur five times are compared",
    "augment.code_switch.induce_margin": "leave it out, a pair's score must be above 0.1",
    "augment.code_switch.induce_layer": "leave it out, states are compared two thirds of the way up",
    "cotrain.head": "leave it out, the head is linear",
    "cotrain.model.path": "use cotrain.model, the folder itself",
    "cotrain.model.new": "use cotrain.model, the folder of an encoder that another run has made (--stage pretrain)",
    "contrastive.head": "leave it out, the head is linear",
    **dict.fromkeys(_OF_TRANSLATIONS, "leave it out, the engine is for transfer without parallel corpora"),
    **{
        f"world.{knob}": "leave it out; benchmarks/truth_world makes worlds with hidden labels, as files for any recipe"
        for knob in (*_KNOBS, "text", "general")
    },
}
"""By key, or key and value; a key without a dot has gone from every table."""
AFTER_0_2_0 = {"order", "source_weight", "target_weight", "each", "cloze"}
AFTER_0_2_0 |= {"selftrain.accept", "selftrain.soft.sides", "selftrain.mlm_weight", "l2_to_base"}
AFTER_0_2_0 |= {key for key in REMOVED if key.startswith("world.")}
AFTER_0_2_0 |= {*_OF_TRANSLATIONS, *_OF_SOFT, *_OF_FOLDERS, "targets.N.pseudo_labels"}


def does_nothing(name: str, value: object) -> bool:
    """Whether a key has been removed, and has the value at which nothing used it."""
    if name == "each":  # of a run, whose paths have the one value already
        return isinstance(value, dict) and all(isinstance(v, list) and len(v) == 1 for v in value.values())
    key = _any_target(name)
    return key in UNUSED and UNUSED[key] == value


def removal(name: str) -> str | None:
    """The message about a key ("selftrain.outside"), or a key and its value, that has been removed; else None."""
    name = _any_target(name)
    key = name if name in REMOVED else name.rpartition(".")[2]
    advice = REMOVED.get(key)
    return advice and f"removed {'after' if key in AFTER_0_2_0 else 'in'} 0.2.0; see CHANGELOG.md: {advice}"


def _any_target(name: str) -> str:
    """A key of one target as it stands above: "targets.N.pairs"."""
    return re.sub(r"^targets\.\d+\.", "targets.N.", name)
