"""docs/api.md: which function for which job, and the signature and first paragraphs of every public name.

    python benchmarks/api_page.py    # writes the page anew, from `__all__` of the rooms and their docstrings

tests/packaging/test_api_page.py fails where the page is not what this makes of the code.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
ROOMS = ("kernels", "data", "model", "engine")
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$", re.M)
JOBS = {
    "Run a recipe, or look at one before": "engine: run load_recipe check estimate",
    "Follow a run, or send it to a tracker": "engine: Progress ConsoleProgress",
    "See what a run made": "engine: answers chosen_model stage_table write_summary write_report",
    "Label new text": "engine: Predictor predict predict_file",
    "Score": "engine: evaluate evaluate_files entity_f1 accuracy macro_f1",
    "Choose a threshold, accept pseudo-labels": "engine: choose_threshold decide source_consistency",
    "Train in one loop": "engine: train Loop OptimizerConfig; data: TaskBatches MlmBatches PairBatches",
    "Read files": "data: read_examples read_text Example build_store TokenStore",
    "Cut text into tokens": "data: Tokenizer train_wordpiece",
    "Pack a batch yourself": "data: pack PackedBatch; model: Encoder",
    "Long sentences, large files": "data: window_rows row_batches inference_batches inference_tokens",
    "Load and save models": "model: load_encoder load_masked_lm load_tagger load_classifier save_model read_info",
    "A head on an encoder": "model: TaskModel LinearHead VoterHeads Pooler",
    "A loss over a vocabulary without its logits": "kernels: linear_cross_entropy",
    "Losses of voters, by class or by a teacher": "kernels: voter_cross_entropy soft_label_loss votes",
    "Parts of a layer": "kernels: embedding_layer_norm packed_attention dropout_residual_layer_norm linear_gelu",
    "Keyed randomness": "data: derive_seed rng_for",
    "Made text": "data: make_world",
    "Text of the task out of a large corpus": "engine: build_corpus CorpusConfig",
    "What a model folder or a machine is": "engine: describe_model describe_environment",
}
HEAD = """# API

Written by `benchmarks/api_page.py` from the docstrings; `help(...)` of a name has its arguments, shapes and errors.
Names are imported from their room, as in `from xlt_engine.data import pack`.

## Which function for which job

| job | names |
|---|---|
"""


def render() -> str:
    """The page."""
    rooms = {room: importlib.import_module(f"xlt_engine.{room}") for room in ROOMS}
    lines = [HEAD]
    for job, places in JOBS.items():
        names = [(room, name) for place in places.split("; ") for room, name in _names(place)]
        unknown = [name for room, name in names if name not in rooms[room].__all__]
        assert not unknown, f"{job}: {', '.join(unknown)} is not public"
        lines.append(f"| {job} | {', '.join(f'[`{name}`](#{room}.{name})' for room, name in names)} |\n")
    for room, module in rooms.items():
        lines.append(f"\n## xlt_engine.{room}\n")
        for name in module.__all__:
            lines.append(f'\n### <a id="{room}.{name}"></a>{name}\n\n' + _entry(name, getattr(module, name)))
    return "".join(lines)


def _names(place: str) -> Iterator[tuple[str, str]]:
    room, names = place.split(": ")
    return ((room, name) for name in names.split())


def _entry(name: str, value: Any) -> str:
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"`{name} = {value!r}`\n"
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    text = f"```python\n{_signature(name, node)}\n```\n\n{_paragraphs(value)}\n"
    methods = [part for part in getattr(node, "body", ()) if _is_public(part)] if inspect.isclass(value) else []
    if methods:
        text += "\n" + "".join(f"* `{_call(part.name, part)}`: {_line(part)}\n" for part in methods)
    return text


def _is_public(part: ast.stmt) -> bool:
    return isinstance(part, ast.FunctionDef) and part.name[0] != "_" and bool(ast.get_docstring(part))


def _signature(name: str, node: ast.stmt) -> str:
    """That of a function; of a class, what makes one: `__init__`, or the fields of a dataclass or named tuple."""
    if isinstance(node, ast.FunctionDef):
        return _wrapped(_call(name, node))
    assert isinstance(node, ast.ClassDef)
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _wrapped(_call(name, part))
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    kinds = [ast.unparse(part) for part in (*node.decorator_list, *node.bases)]
    made = any(kind.startswith(("dataclass", "NamedTuple")) for kind in kinds)
    return _wrapped(f"{name}({', '.join(map(ast.unparse, fields))})") if made else f"class {name}"


def _call(name: str, node: ast.FunctionDef) -> str:
    if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return f"{name}: {ast.unparse(node.returns)}" if node.returns else name
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    returns = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    return f"{name}({arguments}){returns}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))


def _line(node: ast.FunctionDef) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _paragraphs(value: Any) -> str:
    """A docstring up to its first section."""
    return SECTION.split(inspect.cleandoc(value.__doc__))[0].strip()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(render(), encoding="utf-8")
