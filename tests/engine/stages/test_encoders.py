"""The whole path with folders as transformers writes them: estimate, run, predict, back into transformers, info."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from xlt_engine import ConfigError
from xlt_engine.data import Tokenizer, TokenStore, train_wordpiece
from xlt_engine.engine import check, describe_model, predict
from xlt_engine.engine.preflight.cost import Estimate, estimate
from xlt_engine.engine.runs.runner import run
from xlt_engine.model import load_masked_lm, load_task_model

PEOPLE, PLACES = ["Anna", "Berta", "Carl", "Dora"], ["Paris", "London", "Berlin", "Москва"]
SENTENCES = {"en": ["{p} lives in {l}", "today {p} saw {l}"], "de": ["{p} wohnt in {l} .", "heute sah {p} {l}"]}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SHAPE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.1)
BERT = dict(SHAPE, intermediate_size=32)
IDS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id"), 1)
PRE_NORM = dict(BERT, max_position_embeddings=20, **IDS)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", dict(BERT, max_position_embeddings=20)),
    "xlm-roberta": ("XLMRoberta", dict(BERT, type_vocab_size=1, layer_norm_eps=1e-5, max_position_embeddings=22)),
    "distilbert": ("DistilBert", dict(SHAPE, hidden_dim=32, max_position_embeddings=20)),
    "modernbert": ("ModernBert", dict(PRE_NORM, local_attention=4)),
    "eurobert": ("EuroBert", dict(PRE_NORM, num_key_value_heads=1)),
}
LAYERS = {
    "distilbert": (".transformer.layer.{}.", 20),
    "modernbert": (".layers.{}.", 7),
    "eurobert": (".layers.{}.", 10),
}
"""How the names of a layer's tensors begin, and how many there are in it and the embeddings; elsewhere BERT's."""
NER = """
name = "tiny"
task = "ner"
device = "cpu"
max_length = 20
training.freeze_layers = 1
btf = {epochs = 1, batch_size = 8, lr = 1e-3}
finetune = {epochs = 2, batch_size = 8, lr = 2e-2}
selftrain.rounds = 1
selftrain.voters = 2
selftrain.soft = {epochs = 3, batch_size = 8, lr = 2e-2}
selftrain.hard = {epochs = 1, batch_size = 8, lr = 1e-3}
selftrain.alpha.rule = "fixed:0.1"
[model]
path = "model"
[source]
language = "en"
train = "en.conll"
test = "en.conll"
[[targets]]
language = "de"
unlabelled = ["de.txt"]
test = "de.conll"
"""
PAIRS = NER.replace('"ner"', '"classification"', 1).replace(".conll", ".tsv").replace("de.txt", "de-pairs.tsv")
PAIRS += '[reader]\npair = "other"\nunlabelled_format = "tsv"\n'


def unigram(lines: Sequence[str]) -> Tokenizer:
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(lines, trainer)
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Tokenizer(inner)


def sentences(language: str) -> list[tuple[list[str], list[str]]]:
    found = []
    for i in range(24):
        marked = SENTENCES[language][i % 2].split()
        words = [w.format(p=PEOPLE[i % 4], l=PLACES[i // 2 % 4]) for w in marked]
        found.append((words, [{"{p}": "B-PER", "{l}": "B-LOC"}.get(w, "O") for w in marked]))
    return found


def write_files(folder: Path) -> None:
    for language in SENTENCES:
        made = sentences(language)
        blocks = ["\n".join(f"{w}\t{t}" for w, t in zip(*one, strict=True)) for one in made]
        (folder / f"{language}.conll").write_text("\n\n".join(blocks) + "\n", "utf-8")
        texts = [" ".join(words) for words, _ in made]
        (folder / f"{language}.txt").write_text("\n".join(f"{t} {i}" for i, t in enumerate(texts)) + "\n", "utf-8")
        rows = [f"{'yes' if i % 2 else 'no'}\t{t}\t{texts[i - 1]} {i}" for i, t in enumerate(texts)]
        (folder / f"{language}.tsv").write_text("label\ttext\tother\n" + "\n".join(rows) + "\n", "utf-8")
        rows = [row.split("\t", 1)[1] for row in rows]
        (folder / f"{language}-pairs.tsv").write_text("text\tother\n" + "\n".join(rows) + "\n", "utf-8")


@dataclass
class Finished:
    kind: str
    folder: Path
    estimate: Estimate

    def stage(self, name: str) -> Path:
        return next(self.folder.glob(f"run/seed-0/**/{name}"))


@pytest.fixture(scope="module", params=[*KINDS, "xlm-roberta pairs", "distilbert pairs"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A model of transformers with random weights, and a run from it; estimated beforehand."""
    kind, _, pairs = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(kind)
    write_files(folder)
    make_model(kind, folder)
    (folder / "xlt.toml").write_text(PAIRS if pairs else NER, "utf-8")
    assert check(folder / "xlt.toml", rate=1e10).problems == []
    expected = estimate(folder / "xlt.toml", rate=1e10)
    run(folder / "xlt.toml", run_dir=folder / "run")
    return Finished(kind, folder, expected)


def make_model(kind: str, folder: Path) -> None:
    lines = [" ".join(words) for language in SENTENCES for words, _ in sentences(language)]
    tokenizer = unigram(lines) if kind == "xlm-roberta" else train_wordpiece(lines, 90)
    classes, values = KINDS[kind]
    torch.manual_seed(1)
    config = getattr(transformers, classes + "Config")(
        vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id, **values
    )
    getattr(transformers, classes + "ForMaskedLM")(config).save_pretrained(folder / "model")
    tokenizer.save(folder / "model", segments=kind == "bert")


def test_all_stages_ran_with_the_estimated_parameters(finished: Finished) -> None:
    assert [stage.kind for stage in finished.estimate.stages] == ["finetune", "btf", "finetune", "soft", "hard"]
    for stage in finished.estimate.stages:
        model: Any = (load_masked_lm if stage.kind == "btf" else load_task_model)(finished.folder / "run" / stage.id)
        assert model.config.model_type == finished.kind
        model.encoder.freeze(True, 1)
        trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert (stage.trainable, stage.frozen) == (trains, sum(p.numel() for p in model.parameters()) - trains)
        assert stage.memory > 4 * (stage.trainable + stage.frozen)
        record = json.loads((finished.folder / "run" / stage.id / "stage.json").read_bytes())
        assert stage.at_most or stage.steps == record["steps"]
        assert stage.at_most or stage.tokens == pytest.approx(record["tokens"], rel=0.1, abs=0)


def test_frozen_weights_are_those_of_the_folder(finished: Finished) -> None:
    """Under the same names, in the last stage too."""
    before = load_file(finished.folder / "model" / "model.safetensors")
    after = load_file(finished.stage("hard1") / "model.safetensors")
    layer, count = LAYERS.get(finished.kind, (".layer.{}.", 21))
    frozen = [n for n in after if "embed" in n or layer.format(0) in n]
    assert len(frozen) == count
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    moved = [n for n in after if layer.format(1) in n]
    assert moved
    assert not any(torch.equal(before[n], after[n]) for n in moved if "k_lin.bias" not in n and "key.bias" not in n)


def test_transformers_opens_the_result(finished: Finished) -> None:
    tuned = finished.stage("btf")
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(tuned, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(theirs).__name__ == KINDS[finished.kind][0] + "ForMaskedLM"
    library, ours = transformers.AutoTokenizer.from_pretrained(tuned), Tokenizer.from_folder(tuned)
    texts = ["Anna wohnt in Москва", "½ Ｂerlin  sah", ""]
    assert library(texts)["input_ids"] == [t.ids for t in ours.encode_texts(texts)]
    pairs = library(texts, texts[::-1])
    assert pairs["input_ids"] == [t.ids for t in ours.encode_texts(texts, texts[::-1])]
    assert ("token_type_ids" in pairs) == (finished.kind == "bert")
    with torch.no_grad():
        theirs.eval()(**library("Anna", return_tensors="pt"))


def test_predict_and_info(finished: Finished) -> None:
    folder = finished.stage("hard1")
    found = describe_model(folder)
    assert found["problems"] == []
    assert (found["layout"], found["kind"], found["max_tokens"]) == (finished.kind, "task", 20)
    if found["task"] == "ner":
        (one,) = predict(folder, [["Anna", "wohnt", "in", "Москва"]])
        assert len(one.labels) == 4
        (long,) = predict(folder, [["Anna"] * 60])
        assert len(long.labels) == 60
    else:
        one, other = predict(folder, ["Anna wohnt", "Anna wohnt"], pairs=["in Paris", "heute"])
        assert one.label in ("yes", "no")
        assert one.probabilities != other.probabilities


def test_pairs_have_the_separators_of_the_tokenizer(finished: Finished) -> None:
    stores = [TokenStore.open(path.parent) for path in finished.folder.glob("run/store/*/store.json")]
    tokenizer = Tokenizer.from_folder(finished.folder / "model")
    paired = json.loads((finished.folder / "run" / "summary.json").read_bytes())["task"] != "ner"
    count = 1 + paired * (2 if finished.kind == "xlm-roberta" else 1)
    assert stores
    for store in stores:
        assert list(store.ids(0)).count(tokenizer.sep_id) == count
        assert (store.second is not None) == (paired and finished.kind != "xlm-roberta")


def test_info_of_the_folder_itself(finished: Finished) -> None:
    found = describe_model(finished.folder / "model")
    assert json.loads(json.dumps(found)) == found
    assert found["problems"] == []
    assert (found["kind"], found["layout"], found["heads_present"]) == ("masked-lm", finished.kind, ["masked-lm"])
    model = load_masked_lm(finished.folder / "model")
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["embedding_parameters"] == sum(p.numel() for p in model.encoder.embeddings.parameters())
    unigrams = finished.kind == "xlm-roberta"
    assert found["vocabulary_kind"] == ("Unigram" if unigrams else "WordPiece")
    assert found["special_tokens"]["cls"] == ({"token": "<s>", "id": 0} if unigrams else {"token": "[CLS]", "id": 2})
    assert found["separators_in_a_pair"] == 1 + unigrams
    assert found["uses"][0] == "model.path of a recipe, all stages"
    assert found["files"].keys() == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_a_length_beyond_the_positions(finished: Finished) -> None:
    """XLM-R has 22 rows for 20 tokens; the recipe cannot ask for 21."""
    recipe, more = finished.folder / "xlt.toml", ["max_length=21"]
    with pytest.raises(ConfigError, match="max_length: is 21, but the encoder has 20 positions"):
        estimate(recipe, overrides=more, rate=1e10)
    problems = check(recipe, more, rate=1e10).problems
    assert any("is 21, but the encoder has 20 positions; lower it" in str(p) for p in problems)


def test_info_names_what_does_not_fit(tmp_path: Path) -> None:
    make_model("xlm-roberta", tmp_path)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    for name in ("lm_head.layer_norm.bias", "roberta.encoder.layer.1.output.dense.bias"):
        del tensors[name]
    save_file(tensors | {"roberta.surprise": torch.ones(2)}, tmp_path / "model" / "model.safetensors")
    problems = describe_model(tmp_path / "model")["problems"]
    assert len(problems) == 3
    for part in (
        "unexpected: roberta.surprise [2]",
        "missing: encoder.layer.1.output.dense.bias [16]",
        "missing: lm_head.layer_norm.bias [16]",
    ):
        assert any(p.startswith(part) for p in problems), part
    (tmp_path / "model" / "model.safetensors").write_bytes(b"1234")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"pad_token_id": 2, "vocab_size": 8}))
    found = describe_model(tmp_path / "model")
    assert found["parameters"] == 0
    assert "model.safetensors: cannot be read" in found["problems"][0]
    assert "the tokenizer has ids up to" in found["problems"][1]
    assert found["problems"][2] == "config.json has pad_token_id 2, the tokenizer's is 1"


def test_info_of_an_encoder_without_masked_lm_head(tmp_path: Path) -> None:
    """As LaBSE is published: BERT with its pooler."""
    config = transformers.BertConfig(vocab_size=90, **BERT, max_position_embeddings=20)
    transformers.BertModel(config).save_pretrained(tmp_path)
    found = describe_model(tmp_path)
    assert (found["kind"], found["heads_present"], found["problems"]) == ("encoder", ["pooler"], [])
    assert found["uses"] == ["none without its tokenizer: copy tokenizer.json or vocab.txt into the folder"]
    train_wordpiece(["Anna wohnt"] * 2, 60).save(tmp_path)
    found = describe_model(tmp_path)
    assert "btf.on = false" in found["uses"][0]
    assert 'pooling = "pooler"' in found["uses"][1]
