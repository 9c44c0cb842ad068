"""Speed, memory and exactness of the corpus builder on a made pair of wikis of any size, with known truth.

    nice -n 19 python benchmarks/corpus.py --json benchmarks/results/corpus.json
    nice -n 19 python benchmarks/corpus.py --runs xml-small dense --json benchmarks/results/corpus.json

The dump is written to a temporary folder (twice its size is needed) and deleted. Every run is a process of its own.
Speeds are for each second of processor time, summed over all processes, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from common import made

from xlt_engine.data.corpus.wiki_dump import read_pages
from xlt_engine.data.corpus.wiki_text import to_text

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("xml-small", "dense")
RUNS = ("xml", "xml-2", "xml-3", "xml-all", "text", "text-all", *SMALL)
MEMORY_SHARE = 8  # the dump of `xml-small`, for comparing peak memory
DENSE = 40  # lines for each title
RUN = """
import json, resource, sys
from pathlib import Path
from xlt_engine.engine import CorpusConfig, build_corpus
given = json.loads(sys.argv[1])
workers = given.pop("workers")
paths = {k: tuple(map(Path, v)) if isinstance(v, list) else Path(v) for k, v in given.pop("paths").items()}
values = build_corpus(CorpusConfig(**paths, **given), workers=workers).values
who = {"parent": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
peaks = {name: round(resource.getrusage(one).ru_maxrss / 1024, 1) for name, one in who.items()}
print(json.dumps({**values, "peak_memory_mib": peaks}))
"""


def planted() -> ModuleType:
    """The generator of the tests."""
    spec = importlib.util.spec_from_file_location(
        "planted_wiki", ROOT / "tests" / "data" / "corpus" / "planted_wiki.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_text(dump: Path, path: Path, language: str) -> None:
    """The dump's running text, a paragraph a line."""
    with path.open("w", encoding="utf-8") as file:
        for page in read_pages(dump, namespaces=(0,)):
            if page.redirect is None:
                file.write(to_text(page.text, language) + "\n")


def build(name: str, plan: Any, folder: Path, expected: set[str], **given: Any) -> dict[str, Any]:
    """One run in a process of its own: seconds, speed, memory, exactness."""
    out = folder / f"{name}.txt"
    paths = {"entities": [str(plan.files["train"])], "titles": str(plan.files["titles"]), "out": str(out)}
    text_paths = given.pop("paths")
    paths |= text_paths
    text = json.dumps({"paths": paths, "language": plan.language, **given})
    done = subprocess.run([sys.executable, "-c", RUN, text], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    values = json.loads(done.stdout)
    got = set(out.read_text("utf-8").splitlines())
    run = values["run"]
    size = sum(Path(path).stat().st_size for group in text_paths.values() for path in group) / 1e6
    exactness = (
        {"precision": len(got & expected) / len(got), "recall": len(got & expected) / len(expected)} if expected else {}
    )
    result = {
        "run": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "workers": run["workers"],
        "megabytes": round(size, 1),
        "wall_seconds": run["seconds"],
        "cpu_seconds": run["cpu_seconds"],
        "megabytes_per_cpu_second": round(size / run["cpu_seconds"], 2),
        "megabytes_per_wall_second": round(size / run["seconds"], 2),
        "peak_memory_mib": values["peak_memory_mib"],
        "matched": values["matched"]["sentences"],
        "selected": len(got),
        "control": values.get("control", {}).get("sentences", 0),
        **exactness,
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }
    print(json.dumps(result), flush=True)
    return result


def write_dense(titles: list[str], path: Path) -> None:
    """Text in which every line holds a title, each title often: the most that matching and selecting can have to do."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(DENSE):
            lines = (
                f"Im Jahr {number} sprach der Minister in {t} über den Hafen, Brief {at}.\n"
                for at, t in enumerate(titles)
            )
            file.writelines(lines)


def measure(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The runs that were asked for, each when it is done."""
    module, language = planted(), "de"
    large = any(name not in SMALL for name in arguments.runs)
    begun = time.monotonic()
    plan = module.make_planted(
        folder,
        language=language,
        bulk_entities=arguments.titles,
        target_bytes=arguments.bytes if large else arguments.bytes // MEMORY_SHARE,
        packed=False,
    )
    source = plan.files["target_xml"]
    seconds = time.monotonic() - begun
    print(f"made {source.stat().st_size / 1e6:.0f} MB of XML in {seconds:.0f} s", flush=True)
    expected = set(plan.expected)
    exact = {"cap": len(expected) + 1000, "control": False, "language_check": False, "min_chars": 1}
    xml = {"target_dump": [str(source)]}
    if any(name.startswith("text") for name in arguments.runs):
        write_text(source, folder / "large.txt", language)
    text = {"text": [str(folder / "large.txt")]}
    if "dense" in arguments.runs:
        write_dense(sorted(plan.links.values()), folder / "dense-lines.txt")
    dense = {"text": [str(folder / "dense-lines.txt")]}
    known: dict[str, dict[str, Any]] = {
        "xml": {"paths": xml, "workers": 1},
        "xml-2": {"paths": xml, "workers": 2},
        "xml-3": {"paths": xml, "workers": 3},
        "xml-all": {"paths": xml, "workers": 2, **exact},
        "text": {"paths": text, "workers": 1},
        "text-all": {"paths": text, "workers": 2, **exact},
        "xml-small": {"paths": xml, "workers": 1},
        "dense": {"paths": dense, "workers": 1},
    }
    for name in arguments.runs:
        yield build(name, plan, folder, set() if name == "dense" else expected, **known[name])


def merged(path: Path | None, runs: list[dict[str, Any]], titles: int) -> dict[str, Any]:
    """These runs, and those of other names that the file has."""
    before = json.loads(path.read_text("utf-8"))["runs"] if path and path.exists() else []
    by_name = {run["run"]: run for run in [*before, *runs]}
    compared = [by_name[name]["sha256"] for name in ("xml", "xml-2", "xml-3") if name in by_name]
    same = {"same_bytes_for_1_2_3_workers": len(set(compared)) == 1} if len(compared) == 3 else {}
    command = "python benchmarks/corpus.py --json FILE; python benchmarks/corpus.py --runs xml-small dense --json FILE"
    head = made(command, (), trained=False)
    head["versions"] |= {name: version(name) for name in ("ahocorasick_rs", "py3langid")}
    return {"made": head, "titles": titles, **same, "runs": list(by_name.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=1_100_000_000, help="size of the XML dump")
    parser.add_argument("--titles", type=int, default=100_000, help="entities that are looked for")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS[:-2], help="which  [default: all of the large]")
    parser.add_argument("--json", type=Path, help="where the result goes; runs of other names that it has are kept")
    arguments = parser.parse_args()
    small = [name in SMALL for name in arguments.runs]
    if any(small) and not all(small):
        parser.error(f"{' and '.join(SMALL)} need a smaller dump: run them by themselves")
    with tempfile.TemporaryDirectory(prefix="xlt-corpus-") as folder:
        runs = list(measure(arguments, Path(folder)))
    text = json.dumps(merged(arguments.json, runs, arguments.titles), indent=2) + "\n"
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
