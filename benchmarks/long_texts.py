"""Documents longer than `max_length`: what training on all of them, in windows, is worth, and what long windows cost.

    XLT_DATA=DATA python benchmarks/long_texts.py --json benchmarks/results/long-texts.json

Documents are neighbouring sentences of UniversalNER's English files joined up to a number of words; the recipe `uner`
fine-tunes on them, cut or in windows, and on the sentences themselves. Then one epoch of a random ModernBERT on
documents of 8,192 tokens: the memory that `run --dry-run` says and the peak of the process, by `max_length`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import made
from step_bench.work import PAD

from xlt_engine.data import Tokenizer
from xlt_engine.engine import run
from xlt_engine.engine.preflight.cost import estimate
from xlt_engine.engine.storage.files import atomic_write_json
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, save_model

ENCODER = Path(__file__).resolve().parents[1] / "assets" / "mini-encoder"
WORDS, LONGEST = 250, 8192
"""Words of a document that is cut or read in windows of 128 tokens; tokens of the longest window."""
LENGTHS = (512, 2048, LONGEST)


def documents(path: Path, words: int, out: Path) -> str:
    """A file in which neighbouring sentences of `path` are one, of at least `words` words."""
    joined: list[list[str]] = [[]]
    for sentence in path.read_text(encoding="utf-8").strip().split("\n\n"):
        if len(joined[-1]) >= words:
            joined.append([])
        joined[-1] += sentence.split("\n")
    out.write_text("".join("\n".join(lines) + "\n\n" for lines in joined), encoding="utf-8")
    return str(out)


def variants(work: Path) -> dict[str, list[str]]:
    """The overrides of the recipe by the name of what it learns from."""
    data = Path(os.environ["XLT_DATA"]) / "ner" / "uner"
    joined = documents(data / "en_ewt" / "dev.txt", WORDS, work / "dev.txt")
    tested = documents(data / "en_ewt" / "test.txt", WORDS, work / "test.txt")
    as_documents = [f'source.train="{joined}"', "finetune.batch_size=8"]
    tests = [f'source.test="{tested}"']
    return {
        "sentences": tests,
        "documents, cut": [*as_documents, *tests],
        "documents, windows": [*as_documents, *tests, 'long_texts="windows"'],
    }


def scores(overrides: list[str], seed: int) -> dict[str, float]:
    """Entity F1 by language, and the steps of the fine-tuning."""
    with tempfile.TemporaryDirectory() as folder:
        run("uner", run_dir=folder, overrides=overrides, seeds=[seed])
        stage = Path(folder) / f"seed-{seed}" / "baseline"
        rows = json.loads((stage / "scores.json").read_bytes())["scores"]
        steps = len(json.loads((stage / "trace.json").read_bytes())["steps"])
    return {row["language"]: row["value"] for row in rows if row["metric"] == "entity_f1"} | {"steps": steps}


def modern(folder: Path) -> str:
    """A random encoder of ModernBERT's kind that reads `LONGEST` tokens, with the tokenizer of the small one."""
    tokenizer = Tokenizer.from_folder(ENCODER)
    values = {"model_type": "modernbert", "vocab_size": tokenizer.vocab_size, "hidden_size": 192, "pad_token_id": PAD}
    values |= {"num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 288}
    config = EncoderConfig.from_hf(values | {"max_position_embeddings": LONGEST})
    save_model(MaskedLM(Encoder(config, seed=0), seed=1), folder)
    tokenizer.save(folder)
    return str(folder)


def long_run(work: Path, length: int) -> list[str]:
    """The overrides of an epoch on documents, a window in a batch."""
    data = Path(os.environ["XLT_DATA"]) / "ner" / "uner" / "en_ewt"
    train = documents(data / "test.txt", LONGEST, work / "long.txt")
    return [
        f'model.path="{modern(work / "modern")}"',
        f'source={{language="en", train="{train}", test="{train}"}}',
        f'targets=[{{language="de", test="{train}"}}]',
        f"max_length={length}",
        'long_texts="windows"',
        "finetune.epochs=1",
        "finetune.batch_size=1",
    ]


def memory(work: Path, length: int) -> dict[str, float]:
    """MiB by the estimate, and the peak of a process that does nothing but the run."""
    overrides = long_run(work, length)
    expected = max(stage.memory for stage in estimate("uner", overrides=overrides).stages)
    command = [sys.executable, __file__, "--run", str(work / f"run-{length}"), *overrides]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"length": length, "estimate_mib": expected / 2**20} | json.loads(answer.splitlines()[-1])


def alone(folder: str, overrides: list[str]) -> None:
    """Runs, and prints the peak of this process and the seconds of the stage."""
    run("uner", run_dir=folder, overrides=overrides, seeds=[0])
    stage = json.loads((Path(folder) / "seed-0" / "baseline" / "stage.json").read_bytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak, "cpu_seconds": stage["cpu_seconds"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    result: dict[str, Any] = {"made": made("python benchmarks/long_texts.py", seeds), "scores": [], "memory": []}
    with tempfile.TemporaryDirectory() as folder:
        for length in LENGTHS:
            result["memory"].append(memory(Path(folder), length))
            print(result["memory"][-1], flush=True)
        for seed in seeds:
            for name, overrides in variants(Path(folder)).items():
                result["scores"].append({"learns": name, "seed": seed} | scores(overrides, seed))
                print(result["scores"][-1], flush=True)
                atomic_write_json(options.json, result, indent=1)


if __name__ == "__main__":
    alone(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--run"] else main()
