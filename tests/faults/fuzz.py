"""Damaged and hostile bytes for everything that reads: what is raised is an `XltError`, or nothing.

`python tests/faults/fuzz.py --inputs 1000000 conll` mutates the seeds of a target, from a seed of the generator, and
prints a JSON object: inputs, those that were accepted, the slowest, and the kinds of findings with the first input of
each, which is kept with `--keep FOLDER`. Without names it takes every target. With `--grow 20000` it first looks which
mutants reach a line of the package that none before has reached: these are mutated too, so that they lead further in.
"""

import argparse
import bz2
import gzip
import io
import json
import lzma
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from safetensors.numpy import save

import xlt_engine
from xlt_engine import ModelError, XltError
from xlt_engine.data import Example, Tokenizer, TokenStore, build_store, read_dictionary, read_examples, train_wordpiece
from xlt_engine.data.corpus.wiki_dump import read_articles, read_pages
from xlt_engine.data.corpus.wiki_source import FileWiki, SourceFiles, read_titles
from xlt_engine.data.corpus.wiki_text import to_text
from xlt_engine.engine import load_recipe, predict_file
from xlt_engine.engine.preflight.init_files import read_sample, sniff
from xlt_engine.engine.stages.decision_files import SOFT_LABELS, decided_arrays
from xlt_engine.engine.storage.files import read_json
from xlt_engine.engine.storage.stage_files import decided_damage, write_decided
from xlt_engine.engine.training.checkpoint import load_latest, save_checkpoint
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel, load_task_model, save_model

ODD = [b"\0", b"\n", b"\r", b"\t", b'"', b"\\", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc2\x85"]
ODD += [b"\xe2\x80\xa8", b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"[" * 3000, b"{" * 500, b'{"a":']
ODD += [b"\x1b[31m", b"' '", b"(1,2),", b"2147483648", b"9223372036854775808", b"I-", b"<page>", b"</text>"]
ODD += [b"&#x110000;", b"&#99999999999;", b"[[", b"{{"]
"""What is written into files in odd places."""


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four changes: flipped, cut, repeated, moved, replaced by something odd."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(out) + 1)
        length = draw.choice([1, 1, 2, 4, 16, 200])
        kind = draw.randrange(7)
        if kind == 0 and out:
            out[place % len(out)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del out[place : place + length]
        elif kind == 2:
            out[place:place] = out[place : place + length] * draw.choice([1, 2, 30])
        elif kind == 3:
            out[place:place] = draw.choice(ODD)
        elif kind == 4:
            out[place : place + length] = draw.choice(ODD)
        elif kind == 5:
            del out[place:]
        else:
            other = draw.randrange(len(out) + 1)
            out[place:place] = out[other : other + length]
    return bytes(out)


def json_mutated(data: bytes, draw: random.Random) -> bytes:
    """A JSON object in which one value, somewhere, is another; or its bytes, mutated."""
    if draw.random() < 0.3:
        return mutated(data, draw)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # a seed that was grown from bytes
        return mutated(data, draw)
    node, path = value, []
    while isinstance(node, dict | list) and node:
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        path.append((node, key))
        node = node[key]
    if path:
        parent, key = draw.choice(path)
        strange: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, 10**9, 1.5, 1e308, "", "\ud800", "x" * 300, [], {}]
        strange += [[[]], {"": 0}, "../x", "/etc/passwd", "\0", [1] * 50]
        if draw.random() < 0.2:
            with suppress(TypeError):
                del parent[key]
        else:
            parent[key] = draw.choice(strange)
    return json.dumps(value).encode()


@dataclass(frozen=True)
class Target:
    """What reads a file.

    Attributes:
        seeds: good files.
        read: reads the file of this name in a folder, to the end.
        mutate: makes another file of a good one.
    """

    seeds: list[bytes]
    read: Callable[[Path], Any]
    mutate: Callable[[bytes, random.Random], bytes] = mutated


CONLL = "Anna\tB-PER\nwohnt\tO\nin\tO\nKöln\tB-LOC\n\nPaul\tB-PER\nsagt\tO\n".encode()
CONLLU = (
    b"# text = Anna wohnt\n1\tAnna\tAnna\tPROPN\t_\t_\t2\tnsubj\t_\t_\n2\twohnt\twohnen\tVERB\t_\t_\t0\troot\t_\t_\n\n"
    b"1-2\tim\t_\t_\t_\t_\t_\t_\t_\t_\n1\tin\tin\tADP\t_\t_\t_\t_\t_\t_\n2\tdem\tder\tDET\t_\t_\t_\t_\t_\t_\n"
)
TABLE = b'text\tlabel\tid\nein gutes Buch\tgood\t1\nein "schlechtes\tbad\t2\n'
CSV = b'text,label\n"ein ""gutes"" Buch",good\n"zwei\nZeilen",bad\n'
LINES = b'{"text": "ein Buch", "label": "good", "id": 1}\n{"text": "zwei", "label": "bad"}\n'
WORDS = b'{"words": ["Anna", "wohnt"], "labels": ["B-PER", "O"]}\n'
XNLI = b"language\tgold_label\tsentence1\tsentence2\nde\tneutral\tein Satz\tnoch einer\nde\tentailment\ta\tb\n"
PAGES = (
    "<mediawiki><siteinfo><sitename>W</sitename></siteinfo>\n<page>\n<title>K&amp;ln</title>\n<ns>0</ns>\n<id>7</id>\n"
    '<redirect title="Köln" />\n<revision><id>1</id>\n'
    "<text xml:space=\"preserve\">Köln ist '''eine''' [[Stadt|gro&#223;e Stadt]]"
    " am {{Fluss|Rhein}}. {| class=x\n|-\n| a || b\n|}</text>\n</revision>\n</page>\n</mediawiki>\n"
).encode()
SQL = b"""-- c
INSERT INTO `page` VALUES (1,0,'K\\'ln',0,1,0.5,'20','20',1,2,'wikitext',NULL),(2,0,'B',1,0,0.1,'2','2',3,4,'w',NULL);
"""
LANGLINKS = b"INSERT INTO `langlinks` VALUES (1,'de','K\xc3\xb6ln'),(2,'fr','Cologne');\n"
ARTICLES = '{"id": "1", "url": "u", "title": "Köln", "text": "Köln ist eine Stadt.\\nAm Rhein."}\n'.encode()
RECIPE = b"""name = "tiny"
task = "ner"
max_length = 16
[model.new]
vocab_size = 120
hidden_size = 16
[source]
language = "en"
train = "train.conll"
[[targets]]
language = "de"
unlabelled = ["de.txt"]
[selftrain.alpha]
rule = "fixed:0.2"
"""


SPANS = (
    '{"text": "Anna wohnt in Köln.", "spans": [{"start": 0, "end": 4, "label": "PER"}], "answer": "accept"}\n'
    '{"text": "Paul sagt", "label": [[0, 4, "PER"]], "id": 7}\n'
    '{"data": {"text": "Bonn"}, "annotations": [{"result": [{"value": {"start": 0, "end": 4, "labels": ["LOC"]}}]}]}\n'
).encode()
ENTITIES = (
    b"line\tstart\tend\tlabel\ttext\tscore\tsentence\n1\t0\t4\tPER\tAnna\t0.9\tAnna wohnt\n"
    b"2\t0\t4\tLOC\tBonn\t1\tBonn\n3\t\t\t\t\t\tnichts\n"
)
ANN = b"T1\tPER 0 4\tAnna\nT2\tLOC 14 18\tK\xc3\xb6ln\n#1\tNote T1\tx\nR1\tlives Arg1:T1 Arg2:T2\n"
REVIEWS = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<items>\n<item><text>ein &lt;gutes&gt; Buch &#252;ber</text><rating>4.0'
    b"</rating><title>x</title></item>\n<item>\n<rating>1.0</rating><text><![CDATA[schlecht]]></text></item>\n</items>\n"
)
MARC = (
    b'{"review_body": "gut", "stars": "5", "language": "de"}\n{"review_body": "so so", "stars": 3, "language": "de"}\n'
)


def _arrow(suffix: str) -> Target:
    rows = [{"text": "ein Buch", "label": 1, "words": ["ein", "Buch"]}, {"text": "zwei", "label": 0, "words": ["zwei"]}]
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, out)
    else:
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    return Target([out.getvalue()], _read("arrow", "classification", f"input.{suffix}", tag_names=["a", "b"]))


def _brat(folder: Path) -> Any:
    (folder / "input.txt").write_text("Anna wohnt in Köln\n", encoding="utf-8")
    return _read("spans", "ner", "input.ann")(folder)


def _sniff(suffix: str) -> Callable[[Path], Any]:
    """What `init` makes of a file of which nothing is known."""

    def read(folder: Path) -> Any:
        facts = sniff(folder / f"input{suffix}")
        return read_sample(facts, facts.task or "text", facts.options)

    return read


def _read(name: str, task: str, file: str, **options: Any) -> Callable[[Path], Any]:
    return lambda folder: list(read_examples(folder / file, task=task, format=name, **options))


def _file(read: Callable[..., Any], *more: Any) -> Callable[[Path], Any]:
    return lambda folder: read(folder / "input", *more)


@cache
def models() -> Path:
    """A folder with a small model, its tokenizer, a store, a checkpoint and soft labels; made once in a process."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    tokenizer = train_wordpiece(["Anna wohnt in Köln , sagt Paul"] * 3, 90)
    config = EncoderConfig(tokenizer.vocab_size, 8, 1, 2, 16, 12)
    model = TaskModel(Encoder(config, seed=1), LinearHead(8, 3, 0.1, seed=1), "ner", ("O", "B-PER", "I-PER"))
    save_model(model, folder / "model")
    tokenizer.save(folder / "model")
    rows = [Example(str(i), "de", ("Anna", "wohnt"), None, None, ("B-PER", "O"), "x", i) for i in range(5)]
    labels = ("O", "B-PER", "I-PER")
    build_store(iter(rows), tokenizer, folder=folder / "store", task="ner", labels=labels, max_length=10)
    save_checkpoint(folder / "checkpoint", step=7, tensors={"w": torch.arange(20.0)}, meta={"trace": [1.5, 2.5]})
    (folder / "soft").mkdir()
    write_decided(folder / "soft", SOFT_LABELS, {}, save({"targets": np.full((4, 3), 1 / 3, np.float32)}))
    return folder


def _in_folder(part: str, file: str, read: Callable[[Path], Any], mutate: Any = mutated) -> Target:
    """A file among others: the mutated one is put in the place of the good one."""
    place = models() / part

    def look(folder: Path) -> Any:
        whole = folder / "whole"
        if not whole.exists():
            shutil.copytree(place, whole)
        (folder / "input").replace(whole / file)
        return read(whole)

    return Target([(place / file).read_bytes()], look, mutate)


def _checkpoint(folder: Path) -> None:
    checkpoint = load_latest(folder)
    if checkpoint is not None:
        assert checkpoint.tensors["w"].tolist() == [float(i) for i in range(20)], "a changed checkpoint was loaded"
        assert checkpoint.meta == {"trace": [1.5, 2.5]}, "a changed checkpoint was loaded"


def _soft(folder: Path) -> None:
    if not decided_damage(folder):
        assert (abs(decided_arrays(folder, SOFT_LABELS)["targets"] - 1 / 3) < 1e-6).all(), (
            "changed soft labels were read"
        )


def _predict(folder: Path) -> None:
    (folder / "out").unlink(missing_ok=True)
    predict_file(models() / "model", folder / "input", folder / "out", device="cpu")


def _rows(file: str, table: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        other = folder / "other.sql"
        other.write_bytes(LANGLINKS if table == "page" else SQL)
        pair = {"page": folder / file, "langlinks": other}
        if table != "page":
            pair = {"page": other, "langlinks": folder / file}
        wiki = FileWiki(SourceFiles(**pair), "en", "de", say=lambda path: None, poll=lambda: None)
        return wiki.links({title: facts.page_id for title, facts in wiki.pages({"K'ln", "B"}).items()})

    return read


def _pages(folder: Path) -> None:
    for page in read_pages(folder / "input"):
        to_text(page.text, "de")


def _override(folder: Path) -> None:
    recipe = folder / "good.toml"
    recipe.write_bytes(RECIPE)
    load_recipe(recipe, [(folder / "input").read_bytes().decode("utf-8", "replace")])


def _tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer.encode_words([("Anna", "wohnt")], max_length=10)


def targets() -> dict[str, Callable[[], Target]]:
    """Name -> what makes the target."""
    tensors, opened = "model.safetensors", partial(TokenStore.open, verify=True)
    step = "step-00000007"
    ner, classes = partial(_read, task="ner", file="input"), partial(_read, task="classification", file="input")
    return {
        "conll": lambda: Target([CONLL], ner("conll")),
        "conllu": lambda: Target([CONLLU], _read("conllu", "tag", "input")),
        "tsv": lambda: Target([TABLE], classes("tsv")),
        "csv": lambda: Target([CSV], classes("csv")),
        "jsonl": lambda: Target([LINES], classes("jsonl")),
        "jsonl-words": lambda: Target([WORDS], ner("jsonl")),
        "text": lambda: Target([CONLL, LINES], _read("text", "text", "input")),
        "xnli": lambda: Target([XNLI], classes("xnli", language="de")),
        "spans": lambda: Target([SPANS], ner("spans")),
        "entities": lambda: Target([ENTITIES], ner("spans", cut_spans="drop")),
        "brat": lambda: Target([ANN], _brat),
        "webis-cls": lambda: Target([REVIEWS], classes("webis-cls")),
        "marc": lambda: Target([MARC], classes("marc", language="de")),
        "parquet": lambda: _arrow("parquet"),
        "arrow": lambda: _arrow("arrow"),
        "sniff": lambda: Target([CONLL, TABLE, CSV, LINES, WORDS, SPANS], _sniff("")),
        "sniff-csv": lambda: Target([CSV, CSV.replace(b",", b";"), b"1,ein Buch,pos\n2,zwei,neg\n"], _sniff(".csv")),
        "sniff-jsonl": lambda: Target([LINES, WORDS, SPANS], _sniff(".jsonl")),
        "gz": lambda: Target([gzip.compress(CONLL)], _read("conll", "ner", "input.gz")),
        "xz": lambda: Target([lzma.compress(CONLL)], _read("conll", "ner", "input.xz")),
        "bz2": lambda: Target([bz2.compress(CONLL)], _read("conll", "ner", "input.bz2")),
        "dictionary": lambda: Target([b"house\tHaus\ncat\tKatze\n"], _file(lambda path: read_dictionary([path]))),
        "titles": lambda: Target(["Cologne\tKöln\nParis\tParis\n".encode()], _file(read_titles)),
        "pages": lambda: Target([PAGES], _pages),
        "articles": lambda: Target([ARTICLES], _file(lambda path: list(read_articles(path)))),
        "sql-page": lambda: Target([SQL], _rows("input", "page")),
        "sql-langlinks": lambda: Target([LANGLINKS], _rows("input", "langlinks")),
        "recipe": lambda: Target([RECIPE], lambda folder: load_recipe(folder / "input.toml")),
        "set": lambda: Target([b'targets.0.unlabelled=["a.txt", "b.txt"]', b"selftrain.rounds=2.5"], _override),
        "weights": lambda: _in_folder("model", tensors, load_task_model),
        "config": lambda: _in_folder("model", "config.json", load_task_model, json_mutated),
        "xlt": lambda: _in_folder("model", "xlt.json", load_task_model, json_mutated),
        "tokenizer": lambda: _in_folder("model", "tokenizer.json", _tokenizer, json_mutated),
        "store-manifest": lambda: _in_folder("store", "store.json", opened, json_mutated),
        "store-array": lambda: _in_folder("store", "token_ids.npy", opened),
        "checkpoint": lambda: _in_folder("checkpoint", f"{step}/tensors.safetensors", _checkpoint),
        "checkpoint-manifest": lambda: _in_folder("checkpoint", f"{step}/manifest.json", _checkpoint, json_mutated),
        "soft-labels": lambda: _in_folder("soft", "soft_labels.safetensors", _soft),
        "stage": lambda: Target([STAGE], _file(read_json, ModelError), json_mutated),
        "predict": lambda: Target([b"Anna wohnt in K\xc3\xb6ln .\nPaul sagt\n"], _predict),
    }


STAGE = b'{"stage": "seed-0/de/hard1", "hashes": {"model.safetensors": "ab"}, "seconds": 1.5, "sha256": "00"}'
SUFFIXES = {"gz": ".gz", "xz": ".xz", "bz2": ".bz2", "recipe": ".toml", "brat": ".ann", "parquet": ".parquet"}
SUFFIXES |= {"arrow": ".arrow", "sniff-csv": ".csv", "sniff-jsonl": ".jsonl"}
LARGEST_SEED = 1 << 14


def grow(name: str, target: Target, inputs: int, draw: random.Random) -> None:
    """Adds to the seeds of a target the mutants that reach lines of the package which none before has reached."""
    root = str(Path(xlt_engine.__file__).parent)
    reached: set[tuple[Any, int]] = set()
    fresh = False

    def line(frame: Any, event: str, _: Any) -> Any:
        nonlocal fresh
        if (key := (frame.f_code, frame.f_lineno)) not in reached:
            reached.add(key)
            fresh = True
        return line

    def call(frame: Any, event: str, _: Any) -> Any:
        return line(frame, event, _) if frame.f_code.co_filename.startswith(root) else None

    with tempfile.TemporaryDirectory() as place:
        for number in range(-len(target.seeds), inputs):
            data = target.seeds[number] if number < 0 else target.mutate(draw.choice(target.seeds), draw)
            (Path(place) / f"input{SUFFIXES.get(name, '')}").write_bytes(data)
            fresh = False
            sys.settrace(call)
            with suppress(Exception):
                target.read(Path(place))
            sys.settrace(None)
            if fresh and number >= 0 and len(data) <= LARGEST_SEED:
                target.seeds.append(data)


def _processor_seconds(target: Target, folder: Path) -> float:
    """Read again, by the processor's clock, which is no slower on a busy machine but costs more than most readings."""
    began = time.process_time()
    with suppress(BaseException):
        target.read(folder)
    return time.process_time() - began


def fuzz(name: str, inputs: int, seed: int, keep: Path | None = None, grown: int = 0) -> dict[str, Any]:
    """Reads so many mutated files, after `grown` by which the seeds grow."""
    warnings.simplefilter("ignore")
    target, draw = targets()[name](), random.Random(f"{name} {seed}")
    good = len(target.seeds)
    grow(name, target, grown, draw)
    kinds: dict[str, Any] = {}
    accepted, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(-good, inputs):
            # The good files themselves first: they must be read.
            data = target.seeds[number + good] if number < 0 else target.mutate(draw.choice(target.seeds), draw)
            (folder / f"input{SUFFIXES.get(name, '')}").write_bytes(data)
            began = time.perf_counter()
            try:
                target.read(folder)
                accepted += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if isinstance(error, XltError) and number >= 0:
                    continue
                last = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:80]}"
                kinds[kind] = kinds.get(kind, 0) + 1
                if keep is not None and kinds[kind] == 1:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name}-{number}").write_bytes(data)
            finally:
                if time.perf_counter() - began > slowest:
                    slowest = max(slowest, _processor_seconds(target, folder))
    outcome = {"inputs": inputs, "seeds": len(target.seeds), "accepted": accepted - good}
    return {**outcome, "slowest": round(slowest, 2), "findings": kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(targets()))
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grow", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    outcome = {}
    for name in given.targets or targets():
        outcome[name] = fuzz(name, given.inputs, given.seed, given.keep, given.grow)
        sys.stderr.write(f"{name}: {json.dumps(outcome[name])}\n")
    sys.stdout.write(json.dumps(outcome, indent=1) + "\n")
    sys.exit(1 if any(values["findings"] for values in outcome.values()) else 0)


if __name__ == "__main__":
    main()
