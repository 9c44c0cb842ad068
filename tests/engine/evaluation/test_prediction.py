"""How several voters make one class: by their mean probability, and of a sentence's tags the valid ones."""

from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine.data import ItemView, TokenStore, read_conll, read_tsv
from xlt_engine.engine import entity_f1, evaluate, evaluate_files, predict
from xlt_engine.engine.evaluation.inference import predict_logits
from xlt_engine.engine.storage.files import read_json, sha256_file, write_sealed_json
from xlt_engine.model import load_task_model, save_model


def test_voters_that_contradict_each_other_are_averaged(tiny: Any) -> None:
    """`evaluate` and `predict` on a stage's folder take the class of the mean probability, recomputed in float64."""
    run = tiny("classification")
    run.run("selftrain.rounds=0.5", "arms.baseline=false")
    test = run.folder / "test-de.tsv"
    folder = run.folder / "run" / "seed-0" / "de" / "soft1"
    model, generator = load_task_model(folder), torch.Generator().manual_seed(3)
    for parameter in model.head.parameters():  # trained voters seldom disagree
        parameter.data.normal_(generator=generator)
    save_model(model, folder)
    record = read_json(folder / "stage.json")
    record["hashes"] |= {name: sha256_file(folder / name) for name in record["hashes"] if (folder / name).exists()}
    write_sealed_json(folder / "stage.json", record)
    texts = read_tsv(test, language="de")
    stores = [TokenStore.open(path) for path in sorted((run.folder / "run" / "store").iterdir())]
    (store,) = [s for s in stores if s.task != "text" and [e.id for e in texts] == list(s.example_ids)]
    logits = predict_logits(model, ItemView(store)).double()
    classes = logits.softmax(-1).mean(0).argmax(-1).numpy()
    assert any((classes != voter.argmax(-1).numpy()).any() for voter in logits)
    accuracy = 100 * float((classes == np.asarray(store.item_labels)).mean())
    for result in (evaluate(folder, texts), evaluate_files(folder, [test], ["de"])):
        assert result.scores[0].metrics["accuracy"] == pytest.approx(accuracy)
    labels = [p.label for p in predict(folder, [e.text for e in texts])]  # type: ignore[union-attr, misc]
    assert labels == [model.labels[c] for c in classes]


def test_valid_scores_are_those_of_the_tags_that_predict_writes(tiny: Any) -> None:
    run = tiny("ner")
    less = ("selftrain.rounds=0.5", "arms.baseline=false", "selftrain.word_pooling=0.6")
    less += ("selftrain.source_prior=0.75",)
    run.run(*less, "prediction=valid")
    folder, test = run.folder / "run" / "seed-0" / "de" / "soft1", run.folder / "test-de.conll"
    sentences = read_conll(test, language="de")
    weights = sha256_file(folder / "model.safetensors")
    for raw, prediction in ((False, "valid"), (True, "mean")):
        assert run.run(*less, f"prediction={prediction}").done == ()
        assert sha256_file(folder / "model.safetensors") == weights
        assert run.stage("de/soft1")["hashes"]["scores.json"] == sha256_file(folder / "scores.json")
        tags = [p.labels for p in predict(folder, [e.words for e in sentences], raw=raw)]
        want = entity_f1([e.tags for e in sentences], tags).f1
        scores = run.json("de/soft1/scores.json")["scores"]
        (said,) = [r["value"] for r in scores if r["language"] == "de" and r["metric"] == "entity_f1"]
        assert said == pytest.approx(want)
        assert evaluate(folder, sentences).scores[0].metrics["entity_f1"] == pytest.approx(want)
