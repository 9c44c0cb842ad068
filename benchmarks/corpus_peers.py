"""The corpus builder's own readers beside the libraries that do the same: `mwxml`, `mwparserfromhell`, `sentencex`.

    XLT_DATA=DATA OMP_NUM_THREADS=1 python benchmarks/corpus_peers.py --json benchmarks/results/corpus-peers.json

The dump is that of `benchmarks/corpus.py`, smaller. Rates are for each second of processor time, best of three. What
is lost is counted against known sentences: those that were planted in the dump, and those of the parallel treebanks
(PUD, cut by hand; UniversalNER's files below XLT_DATA), words joined to running text, eight sentences a paragraph.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import mwparserfromhell
import mwxml
import sentencex
from common import made
from corpus import planted

from xlt_engine.data import read_conll
from xlt_engine.data.corpus.sentence_split import sentences
from xlt_engine.data.corpus.wiki_dump import clean_title, read_pages
from xlt_engine.data.corpus.wiki_text import to_text

T = TypeVar("T")
COLUMNS = [
    "library",
    "text",
    "ours, MB/s",
    "library, MB/s",
    "pages or sentences",
    "not whole",
    "marks left",
    "cut within",
]
NONE = (-1, -1)
_MARKS = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|'''|</?[a-z]+[ >]|\|mini\||\|thumb\|")
_BEFORE, _AFTER = re.compile(r" ([.,;:!?)\]}»”’%])"), re.compile(r"([(\[{«„]) ")
LANGUAGES = ("en", "de", "pt", "sv", "ru")
PARAGRAPH = 8


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result, and the processor seconds of the fastest of three calls."""
    best = float("inf")
    for _ in range(3):
        begun = time.process_time()
        result = work()
        best = min(best, time.process_time() - begun)
    return result, best


def cells(
    library: str, text: str, megabytes: float, seconds: tuple[float, float], of: int, *counts: tuple[int, int]
) -> list[str | int]:
    """A row: rates of ours and of the library, and what each has lost, left and cut; "" where that is not looked at."""
    rates = [f"{megabytes / s:.1f}" for s in seconds]
    return [library, text, *rates, of, *(f"{ours}, {other}" if ours >= 0 else "" for ours, other in counts)]


def dumps(path: Path) -> list[str | int]:
    """Articles of a pages-articles dump, with their text."""

    def ours() -> list[tuple[str, str]]:
        return [(p.title, p.text) for p in read_pages(path, namespaces=(0,))]

    def library() -> list[tuple[str, str]]:
        with path.open("rb") as file:
            pages = mwxml.Dump.from_file(file)
            return [(clean_title(p.title), next(iter(p)).text or "") for p in pages if p.namespace == 0]

    (one, a), (other, b) = timed(ours), timed(library)
    lost = (0, len(set(one) - set(other)))
    return cells("mwxml", "made, de", path.stat().st_size / 1e6, (a, b), len(one), lost, NONE, NONE)


def markup(pages: list[str], expected: list[str], language: str, name: str) -> list[str | int]:
    """Known sentences that stand whole in the text, and marks of markup that are left."""
    ours, a = timed(lambda: [to_text(text, language) for text in pages])
    library, b = timed(lambda: [mwparserfromhell.parse(text).strip_code() for text in pages])
    whole = [" ".join(unicodedata.normalize("NFC", " ".join(texts)).split()) for texts in (ours, library)]
    lost = [sum(sentence not in text for sentence in expected) for text in whole]
    left = [len(_MARKS.findall(text)) for text in whole]
    size = sum(len(text.encode()) for text in pages) / 1e6
    counts = ((lost[0], lost[1]), (left[0], left[1]), NONE)
    return cells("mwparserfromhell", f"{name}, {language}", size, (a, b), len(expected), *counts)


def splitting(gold: list[str], language: str) -> list[str | int]:
    """Known sentences that come out whole, and the places where one is cut within."""
    groups = [gold[at : at + PARAGRAPH] for at in range(0, len(gold), PARAGRAPH)]
    texts = [" ".join(group) for group in groups]
    ours, a = timed(lambda: [sentences(text, language) for text in texts])
    library, b = timed(lambda: [[str(s) for s in sentencex.segment(language, text)] for text in texts])
    lost, cut = [], []
    for split in (ours, library):
        got = [[s.strip() for s in part if s.strip()] for part in split]
        lost.append(sum(s not in part for part, group in zip(got, groups, strict=True) for s in group))
        cut.append(sum(len(_borders(part) - _borders(group)) for part, group in zip(got, groups, strict=True)))
        if any(max(_borders(part)) != max(_borders(group)) for part, group in zip(got, groups, strict=True)):
            raise RuntimeError(f"{language}: characters are lost")
    size = sum(len(text.encode()) for text in texts) / 1e6
    counts = ((lost[0], lost[1]), NONE, (cut[0], cut[1]))
    return cells("sentencex", f"PUD, {language}", size, (a, b), len(gold), *counts)


def _borders(parts: list[str]) -> set[int]:
    at, out = 0, set[int]()
    for part in parts:
        at += len("".join(part.split()))
        out.add(at)
    return out


def running(path: Path, language: str) -> list[str]:
    """Sentences of a labelled file that end as sentences do, as running text."""
    joined = (" ".join(e.words or ()) for e in read_conll(path, language=language))
    texts = (_AFTER.sub(r"\1", _BEFORE.sub(r"\1", text)) for text in joined)
    return [text for text in texts if text[-1:] in ".!?" and text[:1].isupper()]


def in_markup(gold: list[str], language: str) -> list[str]:
    """Pages with the sentences, the longest word of each written in one of the generator's ways."""
    module = planted()
    module._TEMPLATES["en"] = ("Disambiguation", "File", "Category", "Redirect", "thumb")
    forms = [form for form in module.FORMS if form not in ("half-link", "comment")]
    out = []
    for at in range(0, len(gold), PARAGRAPH):
        words = [max(re.findall(r"\w+", text), key=len) for text in gold[at : at + PARAGRAPH]]
        lines = [
            module.marked(text, word, forms[(at + n) % len(forms)])
            for n, (text, word) in enumerate(zip(gold[at:], words, strict=False))
        ]
        out.append(f"{module.hidden_markup(words[0], language)}\n\n{' '.join(lines)}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=10_000_000, help="size of the XML dump")
    parser.add_argument("--json", type=Path, help="where the result goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xlt-corpus-") as folder:
        plan = planted().make_planted(
            Path(folder), language="de", bulk_entities=10_000, target_bytes=arguments.bytes, packed=False
        )
        rows = [dumps(plan.files["target_xml"])]
        pages = [p.text for p in read_pages(plan.files["target_xml"], namespaces=(0,)) if p.redirect is None]
        rows.append(markup(pages, sorted(plan.expected), "de", "made"))
    root = os.environ.get("XLT_DATA")
    for language in LANGUAGES if root else ():
        gold = running(Path(str(root), "ner", "uner", f"{language}_pud", "test.txt"), language)
        if language in ("en", "de"):
            rows.append(markup(in_markup(gold, language), gold, language, "PUD"))
        rows.append(splitting(gold, language))
    command = "XLT_DATA=DATA OMP_NUM_THREADS=1 python benchmarks/corpus_peers.py --json FILE"
    head = made(command, (), trained=False)
    head["versions"] |= {name: version(name) for name in ("mwxml", "mwparserfromhell", "sentencex")}
    text = json.dumps({"shape": "columns", "made": head, "columns": COLUMNS, "rows": rows}, indent=2) + "\n"
    print(text)
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
