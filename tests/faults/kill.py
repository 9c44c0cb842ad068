"""Kills runs before, in the middle of and after the n-th system call that changes their folder, and compares bits.

`python tests/faults/kill.py --kills 500` goes through all cases in turn; each run is killed some times in a row, ends
undisturbed, and must then hold, byte for byte, what a run that was left alone holds. The seed says which calls are
struck. Prints a JSON object: kills by case, call and moment, runs, and what was wrong.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import calls
import starts

MOMENTS = ("before", "middle", "after")
IN_A_ROW = 8
_TIMES = re.compile(r"seconds|^workers$|started|updated|created|^time$|^cpu$|^sha256$|^checksum$|reused_from|^out$")
"""Keys of JSON objects that runs need not share: times, processes, what they are hashed into, and paths."""
_NOT_RESULTS = {".lock", "events.jsonl", "status.json", "run.json", "seconds.svg"}

Command = list[str]


def _run(folder: Path, task: str, *values: str) -> Command:
    return ["run", str(starts.write_tiny(folder, task)), *_set(values)]


def plain(folder: Path) -> Command:
    return [*_run(folder, "ner"), *starts.SHORT]


def shards(folder: Path) -> Command:
    """As `plain`, in processes whose stages share what they do not train: so small weights are not worth it."""
    return plain(folder)


def classification(folder: Path) -> Command:
    return [*_run(folder, "classification", "training.keep=best", "selftrain.target_filter=none"), *starts.SHORT]


def options(folder: Path) -> Command:
    values = ("arms.control=true", "selftrain.rounds=1.5", "training.keep=best", "selftrain.target_filter=none")
    return _run(folder, "ner", *values)


def cotrain(folder: Path) -> Command:
    values = ["cotrain.on=true", "cotrain.iterations=2", "cotrain.threshold=0.55", "cotrain.lr=2e-2"]
    values += ["cotrain.epochs=1", "cotrain.batch_size=8", "arms.baseline=false", "selftrain.on=false", "btf.on=false"]
    return _run(folder, "classification", *values)


def contrastive(folder: Path) -> Command:
    values = ("contrastive.on=true", "contrastive.batch_size=8", "selftrain.on=false", "btf.on=false")
    return _run(folder, "classification", *values)


def ablation(folder: Path) -> Command:
    values = ("threads=1", "selftrain.rounds=1", "finetune.epochs=15", "selftrain.soft.epochs=8")
    return ["ablate", str(starts.write_tiny(folder)), "--rows", "no-at", "--seeds", "0", "--jobs", "1", *_set(values)]


def two_targets(folder: Path) -> Path:
    """The tiny recipe with a second target, whose text is a part of the first one's."""
    recipe = starts.write_tiny(folder)
    (folder / "nl.txt").write_text("".join((folder / "de.txt").read_text("utf-8").splitlines(True)[:17]), "utf-8")
    text = recipe.read_text("utf-8")
    table = text[text.index("[[targets]]") : text.index("[pretrain]")]
    table = table.replace('"de"', '"nl"').replace("de.txt", "nl.txt", 1)
    recipe.write_text(text.replace("[pretrain]", table + "[pretrain]"), "utf-8")
    return recipe


def jobs(folder: Path) -> Command:
    """Two stages at once, each in a worker; a kill strikes one of them, or the parent, or the parent by a worker."""
    return ["run", str(two_targets(folder)), *starts.SHORT, "--jobs", "2", *_set(["threads=1"])]


def corpus(folder: Path) -> Command:
    starts.write_tiny(folder)
    places = ["Paris", "London", "Berlin", "Oslo"]
    named = [places[i % 4] if i % 3 == 0 else "eine kleine Stadt" for i in range(300)]
    lines = [f"Im Jahr {i} besuchte der Minister {place} und sprach lange.\n" for i, place in enumerate(named)]
    (folder / "raw.de.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "titles.tsv").write_text("".join(f"{place}\t{place}\n" for place in places), encoding="utf-8")
    inputs = [("--entities", "train.conll"), ("--titles", "titles.tsv"), ("--text", "raw.de.txt")]
    return ["corpus", *(part for name, file in inputs for part in (name, str(folder / file))), "--language", "de"]


def _set(values: Iterable[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


CASES: dict[str, Callable[[Path], Command]] = {
    case.__name__: case
    for case in (plain, shards, classification, options, cotrain, contrastive, ablation, jobs, corpus)
}


def results(folder: Path) -> dict[str, str]:
    """The hash of every file below, times left out."""
    out = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name not in _NOT_RESULTS:
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
            if path.suffix in (".html", ".md"):
                data = b""  # made of the others, with their times
            out[name] = hashlib.sha256(data).hexdigest()
    return out


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not _TIMES.search(k)}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def arm(place: str, strike: int, moment: str, log: str | Path | None) -> None:
    """Has this process die at its call of the number `strike`; of a worker an odd number strikes its parent."""
    heard, worker = 0, __name__ == "__mp_main__"

    def hook(name: str, target: str, act: Callable[[], Any], half: Callable[[], Any]) -> Any:
        nonlocal heard
        heard += 1
        if log is not None:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {name}\n")
        if heard != strike:
            return act()
        Path(f"{place}.struck").write_text(f"{'worker ' * worker}{name}", encoding="utf-8")
        if worker and strike % 2:
            os.kill(os.getppid(), signal.SIGKILL)
            return act()
        if moment != "before":
            (half if moment == "middle" else act)()
        os.kill(os.getpid(), signal.SIGKILL)

    calls.watch(place, hook)


_OF_WORKERS = "XLT_KILL"
if __name__ == "__mp_main__" and _OF_WORKERS in os.environ:
    arm(*json.loads(os.environ[_OF_WORKERS]))


class Case:
    """A command, and what it makes when it is left alone."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.command = CASES[name](folder / "data")
        alone = self.place("alone")
        log = folder / "calls"
        code = starts.wait(self.start(alone, log=log))
        assert code == 0, Path(f"{alone}.err").read_text("utf-8")
        processes, self.calls = zip(*(line.split() for line in log.read_text("utf-8").splitlines()), strict=True)
        self.most = max(Counter(processes).values())
        self.expected = results(alone)
        assert len(self.expected) > 3

    def place(self, name: str) -> Path:
        return self.folder / name / ("corpus" if self.name == "corpus" else "")

    def start(self, place: Path, strike: int = 0, moment: str = "", log: Path | None = None) -> int:
        """Starts the command; it dies at its call of the number `strike`, or writes the names of all to `log`."""
        place.mkdir(parents=True, exist_ok=True)
        where = ["--out", str(place / "de.txt")] if self.name == "corpus" else ["--run-dir", str(place)]

        def work() -> int:
            import xlt_engine.model.folder

            os.environ[_OF_WORKERS] = json.dumps([str(place), strike, moment, log and str(log)])
            arm(str(place), strike, moment, log)
            if self.name == "shards":
                xlt_engine.model.folder.WORTH_SHARING = 1
            return starts.command([*self.command, *where, "--quiet"])

        return starts.fork(work, Path(str(place)))

    def trial(self, number: int, draw: random.Random, kills: int) -> tuple[list[tuple[str, str]], list[str]]:
        """A run that is killed up to `kills` times: what was struck and when, and what is wrong at its end."""
        place, struck = self.place(f"trial-{number}"), []
        for _ in range(kills):
            # The first kill anywhere; the next ones in what may be left.
            most = self.most if not struck else max(10, self.most // 3)
            moment = draw.choice(MOMENTS)
            code = starts.wait(self.start(place, draw.randint(1, most), moment))
            if code == 0:
                break
            if code not in (-signal.SIGKILL, *((8,) if self.name == "jobs" else ())):
                return struck, [f"ended with {code}: {Path(f'{place}.err').read_text('utf-8')}"]
            struck.append((Path(f"{place}.struck").read_text("utf-8"), moment))
        if code := starts.wait(self.start(place)):
            return struck, [f"did not go on ({code}): {Path(f'{place}.err').read_text('utf-8')}"]
        ended = results(place)
        differing = sorted(k for k in ended.keys() | self.expected.keys() if ended.get(k) != self.expected.get(k))
        if not differing:
            shutil.rmtree(self.folder / f"trial-{number}")
        return struck, differing


def kill(folder: Path, names: list[str], kills: int, seed: int, seconds: float) -> dict[str, Any]:
    """Goes through the cases until so many kills have struck, or the time is over."""
    starts.load()
    began, draw = time.monotonic(), random.Random(seed)
    cases: dict[str, Case] = {}
    struck: Counter[str] = Counter()
    wrong: list[str] = []
    runs = 0
    while struck["all"] < kills and time.monotonic() - began < seconds:
        name = names[runs % len(names)]
        cases[name] = case = cases.get(name) or Case(name, folder / name)
        runs += 1
        hits, problems = case.trial(runs, draw, min(kills - struck["all"], -(-kills // len(names)), IN_A_ROW))
        wrong += [f"{name}/trial-{runs}: {problem}" for problem in problems]
        struck.update(key for call, moment in hits for key in ("all", name, f"call {call}", moment))
        print(f"{runs} runs, {struck['all']} kills, {len(wrong)} wrong", name, file=sys.stderr)  # noqa: T201
    total = {case.name: len(case.calls) for case in cases.values()}
    spent = round(time.monotonic() - began)
    return {"kills": struck, "runs": runs, "wrong": wrong, "calls": total, "seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after the run that goes on by then")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--folder", type=Path, help="keep what differs there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        outcome = kill(folder, given.case or list(CASES), given.kills, given.seed, given.seconds)
    sys.stdout.write(json.dumps(outcome, indent=1) + "\n")
    sys.exit(1 if outcome["wrong"] else 0)


if __name__ == "__main__":
    main()
