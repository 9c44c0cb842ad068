"""Zero-shot fine-tuning by the engine, and by a plain loop over transformers' BertModel: the same data and rates.

    XLT_DATA=DATA python benchmarks/finetune_peer.py --json benchmarks/results/finetune-peer.json

For each recipe, the stage `baseline` (fine-tuning on the labelled source, no task fitting), and the same examples,
encoder, initial head, batches, epochs, AdamW groups, warm-up and clipping in a loop of a few lines: padded batches,
cross entropy averaged over their words. What differs is the dropout masks. Head and batches are the same because a
draw of them moves a score by several points (docs/findings.md): with `--draws own` the loop has draws of its own.
Scores are of the recipes' test files: entity F1, or accuracy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import made
from torch import Tensor, nn

from xlt_engine.data import Example, derive_seed
from xlt_engine.data.batches.sampling import epoch_batches
from xlt_engine.engine import accuracy, entity_f1, load_recipe, run
from xlt_engine.engine.reading.read_file import label_set, read_file
from xlt_engine.engine.recipe.config import RunConfig
from xlt_engine.engine.stages.datasets import capped
from xlt_engine.model import LinearHead

RECIPES = ("uner", "wikineural", "wikiann", "xsid-intents")
Row = tuple[list[int], list[int], list[int]]  # token ids, places that are labelled, labels


class Plain(nn.Module):
    """BertModel, dropout, one linear layer."""

    def __init__(self, folder: Path, classes: int, head_seed: int | None = None) -> None:
        super().__init__()
        self.bert = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
        config = self.bert.config
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, classes)
        nn.init.normal_(self.classifier.weight, std=config.initializer_range)
        nn.init.zeros_(self.classifier.bias)
        if head_seed is not None:
            head = LinearHead(config.hidden_size, classes, seed=head_seed, initializer_range=config.initializer_range)
            self.classifier.weight.data.copy_(head.weight.data)

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Logits [K, C] of the labelled places of a batch."""
        longest = max(len(ids) for ids, _, _ in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row, _, _ in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _, _ in rows])
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        at = torch.tensor([[i, place] for i, (_, places, _) in enumerate(rows) for place in places])
        logits: Tensor = self.classifier(self.dropout(hidden[at[:, 0], at[:, 1]]))
        return logits


def encode(tokenizer: Any, example: Example, names: Sequence[str], max_length: int) -> Row:
    """First sub-token of each word that fits, or [CLS]."""
    if example.words is None:
        ids = tokenizer(example.text, truncation=True, max_length=max_length)["input_ids"]
        return ids, [0], [names.index(str(example.labels))]
    encoded = tokenizer(list(example.words), is_split_into_words=True, truncation=True, max_length=max_length)
    of = encoded.word_ids()
    places = [i for i, word in enumerate(of) if word is not None and word != of[i - 1]]
    assert example.labels is not None
    return encoded["input_ids"], places, [names.index(example.labels[of[i]]) for i in places]


def batches(rows: Sequence[Row], config: RunConfig, seed: int, own_draws: bool) -> Iterator[list[Row]]:
    """The batches of all epochs, each epoch in another order: the engine's, or one of numpy's default generator."""
    rng, size = np.random.default_rng(seed), config.finetune.batch_size
    for epoch in range(round(config.finetune.epochs)):
        if own_draws:
            order = rng.permutation(len(rows))
            drawn = [order[start : start + size] for start in range(0, len(rows), size)]
        else:
            drawn = epoch_batches(len(rows), size, seed=derive_seed(seed, "finetune", 0, "batches"), epoch=epoch)
        yield from ([rows[i] for i in batch] for batch in drawn)


def fit(model: Plain, rows: Sequence[Row], config: RunConfig, seed: int, own_draws: bool) -> None:
    """AdamW with linear warm-up and decay; the loss is a mean over the labels of a batch."""
    table = config.training_of(config.finetune)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    if table.freeze_embeddings:
        model.bert.embeddings.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": table.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=table.lr,
        betas=(table.beta1, table.beta2),
        eps=table.eps,
    )
    steps = -(-len(rows) // table.batch_size) * round(table.epochs)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(table.warmup * steps), steps)
    model.train()
    for batch in batches(rows, config, seed, own_draws):
        target = torch.tensor([label for _, _, labels in batch for label in labels])
        nn.functional.cross_entropy(model(batch), target).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), table.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


@torch.inference_mode()
def score(model: Plain, rows: Sequence[Row], examples: Sequence[Example], names: Sequence[str]) -> float:
    """Points; words beyond the maximum length count as O."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    predicted: dict[int, list[str]] = {}
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        best = model([rows[i] for i in part]).argmax(dim=-1).tolist()
        for i in part:
            predicted[i] = [names[best.pop(0)] for _ in rows[i][1]]
    if examples[0].words is None:
        pairs = [(names.index(str(e.labels)), names.index(predicted[i][0])) for i, e in enumerate(examples)]
        gold, named = zip(*pairs, strict=True)
        return accuracy(gold, named)
    tags = [predicted[i] + ["O"] * (len(e.words or ()) - len(predicted[i])) for i, e in enumerate(examples)]
    return entity_f1([list(e.labels or ()) for e in examples], tags).f1


def plain_loop(config: RunConfig, seed: int, own_draws: bool) -> dict[str, float]:
    """Scores by language of the loop over transformers, with the engine's head and batches or with its own."""
    assert config.model.path is not None
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.model.path)
    source = config.source
    assert source.train is not None
    examples = read_file(config, source.train, language=source.language)
    names = label_set(examples, config.task) if not config.labels else config.labels
    chosen = [examples[i] for i in capped(len(examples), source.cap, source.draw, "source")]
    rows = [encode(tokenizer, e, names, config.max_length) for e in chosen]
    head_seed = None if own_draws else derive_seed(seed, "finetune", 0, "head")
    model = Plain(config.model.path, len(names), head_seed)
    fit(model, rows, config, seed, own_draws)
    found = {}
    for table in config.tables:
        assert table.test is not None
        test = read_file(config, table.test, language=table.language)
        coded = [encode(tokenizer, e, names, config.max_length) for e in test]
        found[table.language] = score(model, coded, test, names)
    return found


def engine(recipe: str, seed: int, overrides: Sequence[str], folder: Path) -> dict[str, float]:
    """Scores by language of the stage `baseline`."""
    run(recipe, stage=f"seed-{seed}/baseline", run_dir=folder, overrides=overrides, seeds=[seed])
    rows = json.loads((folder / f"seed-{seed}" / "baseline" / "scores.json").read_bytes())["scores"]
    return {row["language"]: row["value"] for row in rows if row["metric"] in ("entity_f1", "accuracy")}


def kept_rows(path: Path | None, replaced: Collection[tuple[str, str]]) -> list[dict[str, Any]]:
    """The rows of an earlier result but for these recipes and sides."""
    if path is None or not path.exists():
        return []
    return [row for row in json.loads(path.read_bytes())["rows"] if (row["recipe"], row["side"]) not in replaced]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", help=f"default: {', '.join(RECIPES)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--draws", choices=("engine", "own"), default="engine", help="the loop's head and batches")
    parser.add_argument("--side", choices=("transformers", "xlt-engine"), action="append", help="default: both")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="of the recipe, for both sides")
    parser.add_argument("--json", type=Path, help="rows of other recipes that the file has stay in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipes, seeds = options.recipe or list(RECIPES), [int(seed) for seed in options.seeds.split(",")]
    sides = options.side or ["transformers", "xlt-engine"]
    rows = kept_rows(options.json, {(recipe, side) for recipe in recipes for side in sides})
    for recipe in recipes:
        config = load_recipe(recipe, options.overrides).config
        for seed in seeds:
            for side in sides:
                started = time.process_time()
                with tempfile.TemporaryDirectory() as folder:
                    if side == "transformers":
                        scores = plain_loop(config, seed, options.draws == "own")
                    else:
                        scores = engine(recipe, seed, options.overrides, Path(folder))
                row = {"recipe": recipe, "set": options.overrides, "seed": seed, "side": side, "scores": scores}
                rows.append(row | {"cpu_seconds": round(time.process_time() - started, 1)})
                print(recipe, seed, side, {k: round(v, 2) for k, v in scores.items()}, flush=True)
    if options.json:
        result = {"made": made("python benchmarks/finetune_peer.py", seeds), "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
