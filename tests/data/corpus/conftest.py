import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    """The generator of a pair of wikis with known truth."""
    spec = importlib.util.spec_from_file_location("planted_wiki", Path(__file__).with_name("planted_wiki.py"))
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
