"""Commands that only read files do not load torch, which takes seconds."""

import subprocess
import sys
from typing import Any

import pytest

CODE = """
import sys
sys.modules["torch"] = None  # an import of it is an error
from xlt_engine.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["info", "{model}"], 0, "predict and evaluate: ner, voters head"),
        (["report", "{run}"], 0, "model for de: "),
        (["why", "{run}", "de:99"], 3, "give de:0 to de:"),
    ],
)
def test_torch_is_not_loaded(words: list[str], code: int, said: str, finished: Any) -> None:
    places = {"model": finished.model, "run": finished.folder}
    arguments = [word.format(**places) for word in words]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stderr
