"""Files of hostile sizes, each read in a process of its own: what is said, its CPU seconds and its largest memory.

`python tests/faults/hostile.py` prints a JSON object and ends with 1 where something took more than 2 seconds of the
processor or 500 MB, or was no `XltError`. Smaller ones are in the tests of the readers, for each build.
"""

import gzip
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import fuzz

MILLION = 10**6
SECONDS, MEGABYTES = 2.0, 500
_READ = """
import resource, sys
from xlt_engine import XltError
from xlt_engine.data import read_examples
from xlt_engine.model import load_encoder, load_task_model
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
path, before, said = sys.argv[1], used(), "accepted"
try:
    {call}
except XltError as error:
    said = str(error)
# Not ru_maxrss, which begins with that of the process that this one was split from.
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
print(used() - before, peak, said)
"""


def columns(folder: Path) -> str:
    (folder / "a.csv").write_text(",".join(f"c{i}" for i in range(MILLION)) + "\n", encoding="utf-8")
    return 'read_examples(path + "/a.csv", task="classification")'


def keys(folder: Path) -> str:
    text = ", ".join(f'"k{i}": 0' for i in range(MILLION))
    (folder / "a.jsonl").write_text("{" + text + "}\n", encoding="utf-8")
    return 'read_examples(path + "/a.jsonl", task="classification")'


def header(folder: Path) -> str:
    """13 MB of tensors that no encoder has."""
    model = shutil.copytree(fuzz.models() / "model", folder / "model")
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"tensor.number.{i}": entry for i in range(180_000)}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert len(text) > 13 * MILLION
    return 'load_encoder(path + "/model")'


def labels(folder: Path) -> str:
    config = shutil.copytree(fuzz.models() / "model", folder / "model") / "config.json"
    values = json.loads(config.read_text("utf-8")) | {"id2label": {str(i): f"l{i}" for i in range(MILLION // 10)}}
    config.write_text(json.dumps(values), encoding="utf-8")
    return 'load_task_model(path + "/model")'


def packed(folder: Path) -> str:
    """2 GB of zeros in 2 MB."""
    with gzip.open(folder / "a.tsv.gz", "wb", compresslevel=9) as file:
        for _ in range(2000):
            file.write(bytes(MILLION))
    return 'read_examples(path + "/a.tsv.gz", task="classification")'


CASES: tuple[Callable[[Path], str], ...] = (columns, keys, header, labels, packed)


def read(case: Callable[[Path], str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        code = _READ.replace("{call}", case(Path(folder)))
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    seconds, megabytes, said = done.stdout.split(maxsplit=2) if done.stdout else ("inf", "0", done.stderr)
    return {"seconds": round(float(seconds), 2), "megabytes": int(megabytes), "said": said.strip()[:200]}


def main() -> None:
    outcome = {case.__name__: read(case) for case in CASES}
    sys.stdout.write(json.dumps(outcome, indent=1) + "\n")
    wrong = [
        name
        for name, got in outcome.items()
        if got["seconds"] > SECONDS or got["megabytes"] > MEGABYTES or got["said"] == "accepted"  # type: ignore[operator]
    ]
    sys.exit(f"too much, or no error: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
