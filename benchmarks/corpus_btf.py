"""Does an entity-matched corpus help? Entity-matched against random sentences of the same text, at equal size.

    XLT_DATA=DATA nice -n 19 python benchmarks/corpus_btf.py --json benchmarks/results/corpus-btf.json

English WikiNEuRal (CC BY-NC-SA 4.0) gives entities and labels. The text is German, a sentence a line, of mixed origin;
the table of titles is each entity with itself (of those with a capital first letter), so that names which are the same
in both languages are found. Both corpora come from one call of the builder. Three arms: no BTF, BTF on the random
sentences, BTF on the matched ones; the runs of the last two differ in the name of that file and in nothing else. Each
is then fine-tuned on the same English sentences. Scored: masked-LM loss on the first sentences of WikiNEuRal's German
test file, none of which is in a corpus, with the same masks for all; and entity F1 there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import made

from xlt_engine.data import Tokenizer, pack, read_conll, rng_for
from xlt_engine.data.batches.masking import mask_tokens
from xlt_engine.data.corpus.select import comparison_key, excluded_keys
from xlt_engine.data.corpus.title_links import entity_surfaces
from xlt_engine.data.readers.example import Example
from xlt_engine.engine import CorpusConfig, build_corpus, run
from xlt_engine.engine.corpus.build import texts_of_file
from xlt_engine.kernels import linear_cross_entropy
from xlt_engine.model import load_masked_lm

ROOT = Path(__file__).resolve().parent.parent
SCORED = 2000  # sentences for the masked-LM loss


def corpora(data: Path, folder: Path, texts: list[Path], size: int, workers: int) -> dict[str, Any]:
    """Both corpora, and the audit."""
    train = data / "ner" / "wikineural" / "en" / "train.txt"
    examples = read_conll(train)
    names = sorted(name for name in entity_surfaces(examples) if len(name) > 2 and name[0].isupper())
    titles = folder / "titles.tsv"
    titles.write_text("".join(f"{name}\t{name}\n" for name in names), encoding="utf-8")
    held = tuple(data / "ner" / "wikineural" / "de" / f"{part}.txt" for part in ("dev", "test"))
    config = CorpusConfig(
        entities=(train,),
        out=folder / "de.txt",
        text=tuple(texts),
        titles=titles,
        language="de",
        cap=size,
        exclude=held,
    )
    return build_corpus(config, workers=workers).values


def mlm_loss(folder: Path, sentences: list[list[str]]) -> float:
    """Mean cross entropy of masked tokens; the same masks for every model of one tokenizer."""
    model, tokenizer = load_masked_lm(folder), Tokenizer.from_folder(folder)
    special = np.zeros(tokenizer.vocab_size, dtype=bool)
    special[list(tokenizer.special_ids)] = True
    total = count = 0.0
    encoded = tokenizer.encode_words(sentences, max_length=128)
    for start in range(0, len(encoded), 64):
        ids = [np.array(e.ids) for e in encoded[start : start + 64]]
        rng = rng_for(0, "corpus-btf", start)
        flat = np.concatenate(ids)
        corrupted, targets = mask_tokens(flat, special, rng, mask_id=tokenizer.mask_id, vocab_size=tokenizer.vocab_size)
        rows = np.flatnonzero(targets >= 0)
        cuts = np.cumsum([len(part) for part in ids])[:-1]
        batch = pack(
            [part.tolist() for part in np.split(corrupted, cuts)],
            items=[(np.flatnonzero(part >= 0)).tolist() for part in np.split(targets, cuts)],
            labels=[part[part >= 0].tolist() for part in np.split(targets, cuts)],
        )
        with torch.inference_mode():
            hidden = model.transform(batch)
            loss = linear_cross_entropy(hidden, model.decoder_weight, model.decoder_bias, batch.labels)
        total, count = total + float(loss), count + len(rows)
    return total / count


def train(data: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run for each corpus, which differ in the one line that names it; scores by arm and seed."""
    recipe = folder / "recipe.toml"
    text = (ROOT / "data" / "recipes" / "wikineural.toml").read_text("utf-8")
    head, _, rest = text.partition("[[targets]]")
    first, _, rest = rest.partition("[[targets]]")
    recipe.write_text(head + "[[targets]]" + first + rest[rest.index("[btf]") :], encoding="utf-8")
    test = read_conll(data / "ner" / "wikineural" / "de" / "test.txt")[: arguments.test]
    (folder / "test.conll").write_text("\n".join(map(_block, test)), encoding="utf-8")
    sentences = [list(e.words or ()) for e in test[:SCORED]]
    seeds, start = list(range(arguments.seeds)), ROOT / "assets" / "mini-encoder"
    overrides = [
        f'model.path="{start}"',
        'reader.unlabelled_format="text"',
        f"source.cap={arguments.source}",
        f'targets.0.test="{folder / "test.conll"}"',
        f"btf.cap={arguments.size}",
        f"btf.epochs={arguments.epochs}",
        "selftrain.on=false",
    ]
    out: dict[str, Any] = {"zero-shot": {"loss": dict.fromkeys(seeds, mlm_loss(start, sentences)), "f1": {}}}
    for arm, name in (("control", "de.control.txt"), ("btf", "de.txt")):
        with_zero_shot = f"arms.baseline={str(arm == 'control').lower()}"
        given = [*overrides, with_zero_shot, f'targets.0.unlabelled=["{folder / name}"]']
        made = run(recipe, run_dir=folder / arm, stage="finetune", seeds=seeds, overrides=given)
        out[arm] = {"f1": {}, "loss": {}}
        for row in made.summary["rows"]:
            if row["language"] == "de" and row["metric"] == "entity_f1" and row["stage"] in ("btf", "zero-shot"):
                out[arm if row["stage"] == "btf" else "zero-shot"]["f1"][row["seed"]] = row["value"]
        for seed in seeds:
            out[arm]["loss"][seed] = mlm_loss(folder / arm / f"seed-{seed}" / "de" / "btf", sentences)
    return out


def _block(example: Example) -> str:
    assert example.words is not None
    assert example.labels is not None
    return "".join(f"{word}\t{tag}\n" for word, tag in zip(example.words, example.labels, strict=True))


def of_the_task(data: Path, folder: Path) -> dict[str, int]:
    """Sentences of each corpus that are of WikiNEuRal's German training file, which is part of some texts."""
    keys = excluded_keys(texts_of_file(data / "ner" / "wikineural" / "de" / "train.txt"))
    names = {"corpus": "de.txt", "control": "de.control.txt"}
    return {
        name: sum(comparison_key(line) in keys for line in (folder / file).read_text("utf-8").splitlines())
        for name, file in names.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="+", help="German text  [default: text/*/de.txt.xz below XLT_DATA]")
    parser.add_argument("--size", type=int, default=3000, help="sentences of each corpus")
    parser.add_argument("--source", type=int, default=2500, help="labelled sentences")
    parser.add_argument("--test", type=int, default=5000, help="sentences that are scored")
    parser.add_argument("--epochs", type=int, default=2, help="of BTF")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--workers", type=int, default=1, help="processes of the corpus builder")
    parser.add_argument("--folder", type=Path, help="work here, and go on with what is there  [default: temporary]")
    parser.add_argument("--json", type=Path, help="where the result goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, begun = Path(os.environ["XLT_DATA"]), time.monotonic()
    texts = arguments.text or sorted((data / "text").glob("*/de.txt.xz"))
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xlt-corpus-btf-")))
        folder.mkdir(parents=True, exist_ok=True)
        audit = corpora(data, folder, texts, arguments.size, arguments.workers)
        print(f"corpora: {time.monotonic() - begun:.0f} s", flush=True)
        share = of_the_task(data, folder)
        arms = train(data, folder, arguments)
    audit.pop("fingerprint")
    audit["settings"].pop("out")
    settings = {k: v for k, v in vars(arguments).items() if k not in ("json", "text", "folder")}
    kept = {k: audit[k] for k in ("entities", "matched", "selected", "control", "language", "exclude")}
    kept["exclude"].pop("files")
    result = {
        "made": made("XLT_DATA=DATA python benchmarks/corpus_btf.py --json FILE", range(arguments.seeds)),
        "settings": settings | {"texts": [path.parent.name + "/" + path.name for path in texts]},
        "arms": arms,
        "sentences_of_wikineural_train": share,
        "audit": kept,
    }
    print(json.dumps(arms, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
