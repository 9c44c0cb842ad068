"""How several voters make one class: mean probability, most votes, or the first voter."""

from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine.data import ItemView, TokenStore, read_conll, read_tsv
from xlt_engine.engine import entity_f1, evaluate, evaluate_files, predict
from xlt_engine.engine.evaluation.inference import predict_logits, predicted_classes
from xlt_engine.engine.storage.files import read_json, sha256_file, write_sealed_json
from xlt_engine.model import load_task_model, save_model


@pytest.mark.parametrize(
    ("probabilities", "mean", "vote", "first"),
    [
        # One sure voter against two that are not.
        ([[0.98, 0.01, 0.01], [0.3, 0.4, 0.3], [0.3, 0.4, 0.3]], 0, 1, 0),
        # Three classes, a vote each: the larger mean decides.
        ([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.0, 0.8]], 2, 2, 0),
        # Two against two.
        ([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.1, 0.9, 0.0]], 1, 1, 0),
        # All sure of one class.
        ([[0.0, 0.0, 1.0]] * 4, 2, 2, 2),
        # Nothing decides.
        ([[0.25, 0.25, 0.25]], 0, 0, 0),
    ],
)
def test_one_class_from_several_voters(probabilities: list[list[float]], mean: int, vote: int, first: int) -> None:
    given = torch.tensor(probabilities)[:, None]
    logits, average = given.clamp(min=1e-9).log(), given.mean(0)
    for prediction, expected in (("mean", mean), ("vote", vote), ("first", first)):
        assert predicted_classes(logits, average, prediction).tolist() == [expected], prediction


def test_finished_stages_are_scored_again_and_the_folder_remembers(tiny: Any) -> None:
    """No stage is trained; `evaluate` and `predict` on the folder say what the run said."""
    run = tiny("classification")
    less = ("selftrain.rounds=0.5", "arms.baseline=false")
    test = run.folder / "test-de.tsv"
    # Nine texts, so that no two constant answers have the same score.
    test.write_text("".join(test.read_text("utf-8").splitlines(keepends=True)[:10]), encoding="utf-8")
    run.run(*less)
    folder = run.folder / "run" / "seed-0" / "de" / "soft1"
    # Voters that contradict each other, as trained ones seldom do.
    model, generator = load_task_model(folder), torch.Generator().manual_seed(3)
    for parameter in model.head.parameters():
        parameter.data.normal_(generator=generator)
    save_model(model, folder)
    record = read_json(folder / "stage.json")
    record["hashes"] |= {name: sha256_file(folder / name) for name in record["hashes"] if (folder / name).exists()}
    write_sealed_json(folder / "stage.json", record)
    weights, texts = sha256_file(folder / "model.safetensors"), read_tsv(test, language="de")
    stores = [TokenStore.open(path) for path in sorted((run.folder / "run" / "store").iterdir())]
    (store,) = [s for s in stores if s.task != "text" and [e.id for e in texts] == list(s.example_ids)]
    logits = predict_logits(model, ItemView(store))
    seen = set()
    for prediction in ("first", "vote", "mean"):
        assert run.run(*less, f"prediction={prediction}").done == ()
        assert sha256_file(folder / "model.safetensors") == weights
        classes = predicted_classes(logits, logits.softmax(-1).mean(0), prediction).numpy()
        seen.add(tuple(classes))
        accuracy = 100 * float((classes == np.asarray(store.item_labels)).mean())
        scores = run.json("de/soft1/scores.json")["scores"]
        (said,) = [r["value"] for r in scores if r["language"] == "de" and r["metric"] == "accuracy"]
        assert said == pytest.approx(accuracy)
        for result in (evaluate(folder, texts), evaluate_files(folder, [test], ["de"])):
            assert result.scores[0].metrics["accuracy"] == pytest.approx(accuracy)
        labels = [p.label for p in predict(folder, [e.text for e in texts])]  # type: ignore[union-attr, misc]
        assert labels == [model.labels[c] for c in classes]
        assert run.stage("de/soft1")["hashes"]["scores.json"] == sha256_file(folder / "scores.json")
    assert len(seen) > 1


def test_valid_scores_are_those_of_the_tags_that_predict_writes(tiny: Any) -> None:
    run = tiny("ner")
    less = ("selftrain.rounds=0.5", "arms.baseline=false", "selftrain.word_pooling=0.6")
    less += ("selftrain.source_prior=0.75",)
    run.run(*less, "prediction=valid")
    folder, test = run.folder / "run" / "seed-0" / "de" / "soft1", run.folder / "test-de.conll"
    sentences = read_conll(test, language="de")
    for raw, prediction in ((False, "valid"), (True, "mean")):
        assert run.run(*less, f"prediction={prediction}").done == ()
        tags = [p.labels for p in predict(folder, [e.words for e in sentences], raw=raw)]
        want = entity_f1([e.tags for e in sentences], tags).f1
        scores = run.json("de/soft1/scores.json")["scores"]
        (said,) = [r["value"] for r in scores if r["language"] == "de" and r["metric"] == "entity_f1"]
        assert said == pytest.approx(want)
        assert evaluate(folder, sentences).scores[0].metrics["entity_f1"] == pytest.approx(want)
