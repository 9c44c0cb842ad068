"""Speed, memory and exactness of the corpus builder on a made pair of wikis of any size, with known truth.

    nice -n 19 python benchmarks/corpus.py --bytes 1100000000 --titles 100000 --json benchmarks/results/corpus.json

The dump is written to a temporary folder (twice its size is needed) and deleted. Every run is a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from xlt_engine.data.wiki_dump import read_pages
from xlt_engine.data.wiki_text import to_text

ROOT = Path(__file__).resolve().parent.parent
MEMORY_SHARE = 8  # the small dump, for comparing peak memory
RUN = """
import json, sys
from pathlib import Path
from xlt_engine.engine import CorpusConfig, build_corpus
given = json.loads(sys.argv[1])
workers = given.pop("workers")
paths = {k: tuple(map(Path, v)) if isinstance(v, list) else Path(v) for k, v in given.pop("paths").items()}
print(json.dumps(build_corpus(CorpusConfig(**paths, **given), workers=workers).values))
"""


def planted() -> ModuleType:
    """The generator of the tests."""
    spec = importlib.util.spec_from_file_location("planted_wiki", ROOT / "tests" / "data" / "planted_wiki.py")
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
    paths |= given.pop("paths")
    text = json.dumps({"paths": paths, "language": plan.language, **given})
    done = subprocess.run([sys.executable, "-c", RUN, text], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    values = json.loads(done.stdout)
    got = set(out.read_text("utf-8").splitlines())
    run = values["run"]
    size = run["bytes"] / 1e6
    result = {
        "run": name,
        "workers": run["workers"],
        "megabytes": round(size, 1),
        "wall_seconds": run["seconds"],
        "cpu_seconds": run["cpu_seconds"],
        "megabytes_per_cpu_second": round(size / run["cpu_seconds"]["reading"], 2),
        "megabytes_per_wall_second": round(size / run["seconds"]["reading"], 2),
        "peak_memory_mib": run["peak_memory_mib"],
        "matched": values["matched"]["sentences"],
        "selected": len(got),
        "control": values.get("control", {}).get("sentences", 0),
        "precision": len(got & expected) / len(got),
        "recall": len(got & expected) / len(expected),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }
    print(json.dumps(result), flush=True)
    return result


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    module, language = planted(), "de"
    begun = time.monotonic()
    plans = {}
    for name, size in (("large", arguments.bytes), ("small", arguments.bytes // MEMORY_SHARE)):
        (folder / name).mkdir()
        plans[name] = module.make_planted(
            folder / name, language=language, bulk_entities=arguments.titles, target_bytes=size, packed=False
        )
    large, small = plans["large"], plans["small"]
    text = folder / "large.txt"
    write_text(large.files["target_xml"], text, language)
    made = round(time.monotonic() - begun, 1)
    print(f"made {large.files['target_xml'].stat().st_size / 1e6:.0f} MB of XML in {made} s", flush=True)
    xml = {"target_dump": [str(large.files["target_xml"])]}
    expected = set(large.expected)
    exact = {"cap": len(expected) + 1000, "control": False, "language_check": False, "min_chars": 1}
    runs = [
        build("xml", large, folder, expected, paths=xml, workers=1),
        build("xml-2", large, folder, expected, paths=xml, workers=2),
        build("xml-3", large, folder, expected, paths=xml, workers=3),
        build("xml-all", large, folder, expected, paths=xml, workers=2, **exact),
        build("text", large, folder, expected, paths={"text": [str(text)]}, workers=1),
        build("text-all", large, folder, expected, paths={"text": [str(text)]}, workers=2, **exact),
    ]
    target = {"target_dump": [str(small.files["target_xml"])]}
    runs.append(build("xml-small", small, folder, set(small.expected), paths=target, workers=1))
    same = len({run["sha256"] for run in runs[:3]}) == 1
    return {
        "titles": len(large.links),
        "planted_sentences": len(expected),
        "seconds_to_make": made,
        "same_bytes_for_1_2_3_workers": same,
        "runs": runs,
    }


def environment() -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ahocorasick_rs", "py3langid", "numpy")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=1_100_000_000, help="size of the XML dump")
    parser.add_argument("--titles", type=int, default=100_000, help="entities that are looked for")
    parser.add_argument("--json", type=Path, help="where the result goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xlt-corpus-") as folder:
        result = {**environment(), **measure(arguments, Path(folder))}
    text = json.dumps(result, indent=2) + "\n"
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
