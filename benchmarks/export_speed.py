"""What an exported graph is worth: size and speed of `model.onnx`, as it is and in 8 bits, against the packed model.

    python benchmarks/export_speed.py runs/demo/models/de --text texts.txt --json benchmarks/results/export-speed.json

All read the same texts from one token store, sorted by length, in the batches that `predict` takes; onnxruntime has as
many threads as torch and gets them padded. In one process, in turn; medians. Shares of equal classes are on all items.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import made

from xlt_engine.data import ItemView, TokenStore
from xlt_engine.engine.evaluation.inference import predict_items
from xlt_engine.engine.export.onnx_graph import FILE, OnnxModel, quantise, write_onnx
from xlt_engine.engine.export.sample import read_sample
from xlt_engine.engine.prediction.predictor import Predictor
from xlt_engine.engine.prediction.scoring import store_of
from xlt_engine.kernels import votes
from xlt_engine.model import TaskModel

REPEATS = 5
TEXTS = 2000


def classes_of(model: TaskModel, store: TokenStore) -> torch.Tensor:
    """The class of every item, by the voters' mean."""
    return predict_items(model, ItemView(store), lambda x: votes(x).mean_probability.argmax(-1, True), width=1)


def measure(models: dict[str, TaskModel], store: TokenStore) -> dict[str, dict[str, Any]]:
    """Seconds of each, one after the other and again, and how often its class is the first one's."""
    times: dict[str, list[float]] = {name: [] for name in models}
    answers = {name: classes_of(model, store) for name, model in models.items()}
    for _ in range(REPEATS):
        for name, model in models.items():
            begun = time.perf_counter()
            classes_of(model, store)
            times[name].append(time.perf_counter() - begun)
    first = next(iter(answers.values()))
    tokens = int(store.lengths.sum())
    return {
        name: {
            "tokens_per_second": round(tokens / statistics.median(seconds)),
            "percent_equal": round(100 * float((answers[name] == first).double().mean()), 3),
        }
        for name, seconds in times.items()
    }


def main() -> None:
    """Prints the figures, and adds them to the file of `--json` under the model's name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="a text in each line")
    parser.add_argument("--name", default="", help="of the model in the table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor = Predictor(options.model, device="cpu")
    model, padding = predictor.model, predictor.tokenizer.pad_id
    examples = read_sample(predictor, options.model, [options.text], "utf-8", "text")[:TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        exact, small = Path(folder, FILE), Path(folder, "int8.onnx")
        write_onnx(model, exact)
        quantise(exact, small)
        store = store_of(predictor, examples, Path(folder))
        graphs = {name: OnnxModel(model, path, padding) for name, path in (("onnx", exact), ("int8", small))}
        rows = measure({"predict": model, **graphs}, store)
        for name, path in (("predict", options.model / "model.safetensors"), ("onnx", exact), ("int8", small)):
            rows[name]["megabytes"] = round(path.stat().st_size / 1e6, 2)
        figures = {"texts": len(store), "tokens": int(store.lengths.sum()), "rows": rows}
    print(json.dumps(figures, indent=1))
    if options.json:
        models = json.loads(options.json.read_bytes())["models"] if options.json.exists() else {}
        command = shlex.join(["python", "benchmarks/export_speed.py", "STAGE", "--text", "FILE"])
        models[options.name or options.model.name] = figures
        head = made(command, (), trained=False)
        options.json.write_text(json.dumps({"made": head, "models": models}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
