"""`pipeline("ner")` of transformers, on exported folders in a fresh process, finds the entities of `predict`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import compress, permutations
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors

from xlt_engine.data import Tokenizer, pack
from xlt_engine.engine import predict
from xlt_engine.engine.export.export import export_model
from xlt_engine.model import load_task_model, save_model

CASES = [("bert", "transformers"), ("bert", "linear"), ("xlm-roberta", "transformers"), ("xlm-roberta", "linear")]
FRESH = """
import json, sys, transformers
found = []
for folder, code in json.loads(sys.argv[1]):
    trust = {"trust_remote_code": True} if code else {}
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, **trust)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trust)
    pipe = transformers.pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy="first")
    found.append([[(e["entity_group"], e["start"], e["end"]) for e in pipe(line)] for line in json.loads(sys.argv[2])])
print(json.dumps(found))
"""


WORDS = ("Anna", "wohnt", "Wien", "Oslo", "heute")


def two_pieces() -> Tokenizer:
    """As XLM-R's, of words in two pieces: one that is "▁" alone would be a word by itself to the pipeline."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = dict.fromkeys([*special, *(f"▁{word[:2]}" for word in WORDS), *(word[2:] for word in WORDS)], -2.0)
    inner = tokenizers.Tokenizer(models.Unigram(list(pieces.items()), unk_id=3))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    inner.add_special_tokens([*special, "<mask>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Tokenizer(inner)


def neighbours() -> Any:
    """The makers of stages of the tests beside this file."""
    spec = spec_from_file_location("test_export_to", Path(__file__).with_name("test_export_to.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decided(folder: Path, lines: list[str]) -> list[bool]:
    """Which lines have no word whose two likeliest classes rounding could exchange: another CPU breaks such a tie."""
    model = load_task_model(folder)
    encoded = Tokenizer.from_folder(folder).encode_words([line.split() for line in lines])
    with torch.no_grad():
        logits = model(pack([w.ids for w in encoded], items=[w.positions for w in encoded]))
    best = logits.softmax(-1).mean(0).topk(2).values
    margins = (best[:, 0] - best[:, 1]).split([len(w.positions) for w in encoded])
    return [bool((line > 1e-6).all()) for line in margins]


def test_entities_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = neighbours()
    made.unigram = two_pieces
    lines = [" ".join(choice) for choice in permutations(WORDS, 3)]
    text = tmp_path / "de.txt"
    text.write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.setattr(made.compare.importlib.util, "find_spec", lambda _: None)  # opened below, all in one process
    folders = []
    for layout, way in CASES:
        source, out = tmp_path / f"{layout}-{way}.source", tmp_path / f"{layout}-{way}"
        made.write_stage(source, layout, "ner", "voters", "cls")
        model = load_task_model(source)
        encoded = Tokenizer.from_folder(source).encode_words([line.split() for line in lines])
        with torch.no_grad():  # no class is the likeliest everywhere
            model.head.bias -= model(pack([w.ids for w in encoded], items=[w.positions for w in encoded])).mean(1)
        model.labels = ("O", "B-PER", "B-LOC")  # valid wherever they stand
        save_model(model, source)
        report = export_model(source, out, way, [text])
        folders.append((source if report.code else out, out, report.code))
    monkeypatch.undo()
    command = [sys.executable, "-P", "-c", FRESH, json.dumps([(str(out), code) for _, out, code in folders])]
    environment = {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, json.dumps(lines)], capture_output=True, text=True, check=False, env=environment, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    for (model, _, _), found in zip(folders, json.loads(done.stdout), strict=True):
        ours = predict(model, lines, task="ner", split="whitespace")
        entities = [[[e.label, e.start, e.end] for e in one.entities] for one in ours]
        clear = decided(model, lines)
        assert sum(clear) > 0.9 * len(lines)
        assert list(compress(found, clear)) == list(compress(entities, clear))
        assert len({label for line in entities for label, _, _ in line}) == 2
        assert sum(map(len, entities)) < sum(len(line.split()) for line in lines)
