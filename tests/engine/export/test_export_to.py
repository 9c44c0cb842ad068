"""`export --to`: folders of every way, opened by transformers in a fresh process, give our logits."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import compress, permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from xlt_engine import ConfigError, ModelError
from xlt_engine.data import Tokenizer, pack, train_wordpiece
from xlt_engine.engine import predict
from xlt_engine.engine.export import compare
from xlt_engine.engine.export.export import ExportReport, export_model
from xlt_engine.engine.export.onnx_graph import OnnxModel, PaddedModel, write_onnx
from xlt_engine.engine.export.sample import rectangle
from xlt_engine.model import (
    Encoder,
    EncoderConfig,
    Head,
    LinearHead,
    MlpHead,
    Pooler,
    PredictionHead,
    PreNorm,
    TaskModel,
    VoterHeads,
    load_task_model,
    save_model,
)

LINES = [
    f"{a} {b} {c}"
    for a in ("Anna", "Берта", "Carl", "Dora the old")
    for b in ("wohnt in", "sees", "kommt nicht aus")
    for c in ("Wien .", "der Stadt Oslo", "Москва heute , und morgen", "Rom")
]
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "xlm-roberta": {"num_segments": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1, "position_offset": 2},
    "distilbert": {"num_segments": 0},
    "modernbert": {"num_segments": 0, "layer_norm_eps": 1e-5, "pre_norm": PreNorm((1e4, 500.0), (None, 3), 2)},
    "eurobert": {
        "num_segments": 0,
        "dropout": 0.0,
        "layer_norm_eps": 1e-5,
        "pre_norm": PreNorm(
            (1e4,) * 2, (None,) * 2, 1, rms=True, embedding_norm=False, transform=False, transform_bias=True, tied=False
        ),
    },
}
CASES = [
    # layout, task, head, pooling, way
    *((layout, "ner", "voters", "cls", way) for layout in SHAPES for way in ("transformers", "linear")),
    ("bert", "classification", "voters", "pooler", "transformers"),
    ("bert", "classification", "voters", "pooler", "linear"),
    ("bert", "classification", "linear", "mean", "transformers"),
    ("bert", "classification", "voters", "cls", "linear"),
    ("xlm-roberta", "classification", "mlp", "pooler", "transformers"),
    ("xlm-roberta", "classification", "voters", "cls", "transformers"),
    ("xlm-roberta", "classification", "voters", "cls", "linear"),
    ("xlm-roberta", "classification", "voters", "pooler", "linear"),
    ("distilbert", "classification", "voters", "pooler", "transformers"),
    ("distilbert", "classification", "voters", "pooler", "linear"),
    ("bert", "ner", "linear", "cls", "transformers"),
    ("modernbert", "ner", "prediction", "cls", "transformers"),
    ("modernbert", "classification", "voters", "mean", "transformers"),
    ("modernbert", "classification", "voters", "mean", "linear"),
    ("modernbert", "classification", "prediction", "mean", "transformers"),
    ("eurobert", "classification", "prediction", "mean", "transformers"),
    ("eurobert", "classification", "voters", "cls", "linear"),
]
REOPENED = (CASES[0], CASES[1])
FRESH = """
import json, sys, warnings, torch, transformers
answers = {}
for folder, task, way in json.loads(sys.argv[1]):
    kind = "Token" if task == "ner" else "Sequence"
    auto, trust = getattr(transformers, f"AutoModelFor{kind}Classification"), {"trust_remote_code": way == "code"}
    # As the folder's README says: no question and no warning about code.
    fast = transformers.PreTrainedTokenizerFast if way == "code" else transformers.AutoTokenizer
    with warnings.catch_warnings(action="error"):
        tokenizer = fast.from_pretrained(folder)
    if way == "code":
        try:
            auto.from_pretrained(folder, trust_remote_code=False)
            raise SystemExit("opened without its code")
        except ValueError:
            pass
    model = auto.from_pretrained(folder, **trust).eval()
    lines = json.loads(sys.argv[2])
    words = {"is_split_into_words": True} if task == "ner" else {}
    inputs = tokenizer([line.split() if words else line for line in lines], return_tensors="pt", padding=True, **words)
    with torch.no_grad():
        logits = model(**inputs).logits
    if words:
        rows = []
        for i in range(len(lines)):
            owner = inputs.word_ids(i)
            rows += [logits[i, j] for j in range(len(owner)) if owner[j] is not None and owner[j] != owner[j - 1]]
        logits = torch.stack(rows)
    answers[folder] = [model.config.id2label[0], tokenizer.model_max_length, logits.tolist()]
print(json.dumps(answers))
"""


class Made(NamedTuple):
    source: Path
    out: Path
    report: ExportReport


def unigram() -> Tokenizer:
    """With the special ids of XLM-R."""
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(LINES, trainer)
    inner.add_special_tokens(["<mask>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Tokenizer(inner)


def write_stage(
    folder: Path, layout: str, task: str, head: str, pooling: str, tokenizer: Tokenizer | None = None, **more: Any
) -> Path:
    """A task model of random weights that says different things of different words."""
    tokenizer = tokenizer or (unigram() if layout == "xlm-roberta" else train_wordpiece(LINES, 120))
    shape = EncoderConfig(tokenizer.vocab_size, 16, 2, 2, 32, 80, model_type=layout, **SHAPES[layout])
    labels = ("O", "B-PER", "I-PER") if task == "ner" else ("no", "yes")
    heads: dict[str, Callable[[], Head]] = {
        "voters": lambda: VoterHeads(16, len(labels), (12, 13, 14)),
        "linear": lambda: LinearHead(16, len(labels)),
        "mlp": lambda: MlpHead(16, len(labels)),
        "prediction": lambda: PredictionHead(shape, len(labels)),
    }
    pooler = Pooler(shape) if pooling == "pooler" else None
    model = TaskModel(Encoder(shape, seed=3), heads[head](), task, labels, pooling=pooling, pooler=pooler, **more)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" not in name and not name.startswith(("head.in_", "head.out_weight")):
                value += 0.3 * torch.randn(value.shape, generator=generator)
    folder.mkdir()
    save_model(model, folder)
    tokenizer.save(folder, segments=shape.num_segments > 1)
    return folder


def fresh(code: str, cache: Path, *given: object) -> Any:
    """What a program prints as JSON in a process that knows nothing of us."""
    command = [sys.executable, "-P", "-c", code, *map(json.dumps, given)]
    environment = {"HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def our_logits(folder: Path, log_mean: bool) -> torch.Tensor:
    """Of all words or texts of `LINES`, by the packed encoder."""
    model, tokenizer = load_task_model(folder), Tokenizer.from_folder(folder)
    if model.task == "ner":
        words = tokenizer.encode_words([line.split() for line in LINES])
        batch = pack([w.ids for w in words], items=[w.positions for w in words])
    else:
        batch = pack([text.ids for text in tokenizer.encode_texts(LINES)])
    with torch.no_grad():
        logits = model(batch)
    return logits.softmax(-1).mean(0).log() if log_mean else logits[0]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "de.txt"
    path.write_text("\n".join(LINES) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, text: Path) -> dict[str, Made]:
    """Every case, exported; transformers reads those of `REOPENED` before they appear, this engine the others."""
    root, folders = tmp_path_factory.mktemp("made"), dict[str, Made]()
    for case in CASES:
        name = "-".join(case)
        source = write_stage(root / f"{name}.source", *case[:4])
        with pytest.MonkeyPatch.context() as patch:
            if case not in REOPENED:
                patch.setattr(compare.importlib.util, "find_spec", lambda _: None)
            folders[name] = Made(source, root / name, export_model(source, root / name, case[4], [text]))
    return folders


@pytest.fixture(scope="module")
def answers(made: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers says, in a process that knows nothing of us."""
    asked = [
        (str(m.out), "ner" if "-ner-" in name else "", "code" if m.report.code else "") for name, m in made.items()
    ]
    return fresh(FRESH, tmp_path_factory.mktemp("cache"), asked, LINES)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_transformers_gives_our_logits(made: dict[str, Made], answers: dict[str, Any], case: tuple[str, ...]) -> None:
    one = made["-".join(case)]
    first, longest, logits = answers[str(one.out)]
    ours = our_logits(one.source if one.report.code else one.out, one.report.code)
    torch.testing.assert_close(torch.tensor(logits), ours, rtol=1e-4, atol=1e-4)
    model = load_task_model(one.source)
    assert (first, longest) == (model.labels[0], model.config.max_length)
    assert (one.report.read_by == "transformers") == (case in REOPENED)
    assert ("since transformers is not installed" in one.report.render()) == (case not in REOPENED)
    assert one.report.difference < 1e-4
    assert one.report.code == (
        case[4] == "transformers"
        and case[2:4] not in (("linear", "cls"), ("prediction", "cls"), ("prediction", "mean"))
    )
    if case[4] == "transformers":
        assert (one.report.agreement, one.report.learned) == (100, 0)
    else:
        assert one.report.learned == len(LINES)
        assert one.report.agreement > 90
        assert f"{one.report.agreement:.2f} % of the items" in one.report.render()
        before, after = our_logits(one.source, True), our_logits(one.out, False)
        assert float((before.argmax(-1) == after.argmax(-1)).float().mean()) > 0.95


def test_nothing_of_the_engine_is_needed(made: dict[str, Made]) -> None:
    folder = made["bert-ner-voters-cls-transformers"].out
    names = {"config.json", "model.safetensors", "modeling_xlt.py", "tokenizer.json", "tokenizer_config.json"}
    names |= {"README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert "xlt_engine" not in (folder / "modeling_xlt.py").read_text("utf-8")
    command = 'PreTrainedTokenizerFast.from_pretrained("{}")'
    assert command.format("FOLDER") in (folder / "README.md").read_text("utf-8")
    assert command.format(folder) in made["bert-ner-voters-cls-transformers"].report.render()
    linear = made["bert-ner-voters-cls-linear"].out
    assert not (linear / "modeling_xlt.py").exists()
    assert json.loads((linear / "config.json").read_bytes())["architectures"] == ["BertForTokenClassification"]


def test_a_difference_leaves_nothing(tmp_path: Path, text: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(compare, "BOUND", -1.0)
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    source = write_stage(tmp_path / "source", *CASES[0][:4])
    pytest.raises(ModelError, export_model, source, tmp_path / "out", "transformers", [text]).match("differ from ours")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_transformers_cannot_read_is_refused(tmp_path: Path, text: Path) -> None:
    mean = write_stage(tmp_path / "mean", "bert", "classification", "voters", "mean")
    with pytest.raises(ConfigError, match=r"read \[CLS\]; give --to transformers"):
        export_model(mean, tmp_path / "out", "linear", [text])
    pytest.raises(ConfigError, export_model, mean, tmp_path / "out", "transformers").match("say with --text")
    assert not (tmp_path / "out").exists()


LENGTHS = (5, 19, 2, 11)
PARTS: dict[str, dict[str, Any]] = {
    "bert": {},
    "modernbert": {"pre_norm": PreNorm((1e4, 500.0, 1e4), (None, 3, 2), 2), "num_segments": 0},
    "eurobert": {
        "pre_norm": PreNorm(
            (1e4,) * 3, (None,) * 3, 1, rms=True, activation="silu", embedding_norm=False, transform=False, tied=False
        ),
        "num_segments": 0,
        "dropout": 0.0,
    },
}


def make(layout: str, head: str, pooling: str) -> TaskModel:
    config = EncoderConfig(97, 32, 3, 2, 48, 40, initializer_range=0.3, model_type=layout, **PARTS[layout])
    heads = {"voters": lambda: VoterHeads(32, 3, (20, 24)), "prediction": lambda: PredictionHead(config, 3, seed=4)}
    task = "ner" if pooling == "words" else "classification"
    model = TaskModel(Encoder(config), heads[head](), task, "abc", pooling="cls" if task == "ner" else pooling)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1 and not name.startswith("head.in_"):
                value += 0.3 * torch.randn(value.shape, generator=generator)
    return model


@pytest.mark.parametrize("pooling", ["words", "cls", "mean"])
@pytest.mark.parametrize(
    ("layout", "head"),
    [
        ("bert", "voters"),
        ("modernbert", "prediction"),
        ("modernbert", "voters"),
        ("eurobert", "voters"),
        ("eurobert", "prediction"),
    ],
)
def test_padding_changes_nothing(layout: str, head: str, pooling: str) -> None:
    model = make(layout, head, pooling)
    _equal(model, pooling)


def test_the_mean_of_the_tokens_logits() -> None:
    _equal(make("eurobert", "prediction", "late"), "late")


def _equal(model: TaskModel, pooling: str) -> None:
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(1, 97, (n,), generator=generator).tolist() for n in LENGTHS]
    batch = pack(ids, items=[range(n) for n in LENGTHS]) if pooling == "words" else pack(ids)
    texts = rectangle(batch, 0)
    with torch.no_grad():
        mean, votes = PaddedModel(model)(*texts.inputs(model).values())
        ours = model(batch).log_softmax(-1)
    assert votes.isfinite().all()
    for theirs, expected in zip((mean, *votes), (ours.exp().mean(0).log(), *ours), strict=True):
        torch.testing.assert_close(texts.items(theirs), expected, rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_of_windows(tmp_path: Path) -> None:
    """Of other lengths than it was made with, beyond both sides of a window too."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make("modernbert", "prediction", "words")
    write_onnx(model, tmp_path / "model.onnx")
    for lengths in (LENGTHS, (3,), (1, 40)):
        batch = pack([list(range(1, n + 1)) for n in lengths], items=[range(n) for n in lengths])
        assert OnnxModel(model, tmp_path / "model.onnx", 0).compare(rectangle(batch, 0)) < 1e-4


PIPELINE = """
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
    lines = [" ".join(choice) for choice in permutations(WORDS, 3)]
    text = tmp_path / "de.txt"
    text.write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda _: None)  # opened below, all in one process
    folders = []
    for layout, way in product(("bert", "xlm-roberta"), ("transformers", "linear")):
        source, out = tmp_path / f"{layout}-{way}.source", tmp_path / f"{layout}-{way}"
        tokenizer = two_pieces() if layout == "xlm-roberta" else None
        write_stage(source, layout, "ner", "voters", "cls", tokenizer)
        model = load_task_model(source)
        encoded = Tokenizer.from_folder(source).encode_words([line.split() for line in lines])
        with torch.no_grad():  # no class is the likeliest everywhere
            model.head.bias -= model(pack([w.ids for w in encoded], items=[w.positions for w in encoded])).mean(1)
        model.labels = ("O", "B-PER", "B-LOC")  # valid wherever they stand
        save_model(model, source)
        report = export_model(source, out, way, [text])
        folders.append((source if report.code else out, out, report.code))
    monkeypatch.undo()
    opened = fresh(PIPELINE, tmp_path / "cache", [(str(out), code) for _, out, code in folders], lines)
    for (model, _, _), found in zip(folders, opened, strict=True):
        ours = predict(model, lines, task="ner", split="whitespace")
        entities = [[[e.label, e.start, e.end] for e in one.entities] for one in ours]
        clear = decided(model, lines)
        assert sum(clear) > 0.9 * len(lines)
        assert list(compress(found, clear)) == list(compress(entities, clear))
        assert len({label for line in entities for label, _, _ in line}) == 2
        assert sum(map(len, entities)) < sum(len(line.split()) for line in lines)
