"""docs/api.md is what benchmarks/api_page.py makes of the code, and what it makes says what the code says."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "data", "model", "engine")


@pytest.fixture(scope="module")
def page() -> str:
    spec = importlib.util.spec_from_file_location("api_page", ROOT / "benchmarks" / "api_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: str = module.render()
    return made


def public(room: str) -> list[str]:
    names: list[str] = importlib.import_module(f"xlt_engine.{room}").__all__
    return names


def test_the_page_is_that_of_the_code(page: str) -> None:
    assert (ROOT / "docs" / "api.md").read_text("utf-8") == page, "run: python benchmarks/api_page.py"


def test_every_public_name_has_its_entry_and_links_lead_somewhere(page: str) -> None:
    entries = re.findall(r'^### <a id="(.+)"></a>(.+)$', page, re.M)
    assert entries == [(f"{room}.{name}", name) for room in ROOMS for name in public(room)]
    links = re.findall(r"\(#(.+?)\)", page)
    assert len(links) > 40
    assert set(links) <= {place for place, _ in entries}


def test_parameters_are_those_that_python_sees(page: str) -> None:
    """By `inspect`, where the page goes by the source."""
    checked = 0
    for room in ROOMS:
        for name in public(room):
            value = getattr(importlib.import_module(f"xlt_engine.{room}"), name)
            if inspect.isfunction(value):
                start = page.index(f'<a id="{room}.{name}">')
                written = page[start : page.index("\n```\n", start)].split("```python\n")[1]
                for parameter in inspect.signature(value).parameters:
                    assert re.search(rf"\b{parameter}\b", written), f"{name}: {parameter}"
                checked += 1
    assert checked > 40
