"""The table of docs/reliability.md: its rows, and the tests that try them."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")


def marked() -> dict[int, set[Path]]:
    """The files whose tests name a row: `@pytest.mark.fault(4, 7)`."""
    rows = defaultdict(set)
    for path in ROOT.glob("tests/**/test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                for row in node.args:
                    rows[ast.literal_eval(row)].add(path)
    return rows


def test_every_row_names_the_files_of_its_tests_and_how_many_cases_there_are() -> None:
    links = {name: (ROOT / "docs" / path).resolve() for name, path in re.findall(r"^\[(.+)\]: (\S+)$", PAGE, re.M)}
    rows = re.findall(r"^\|(\d+)\|[^|]+\|[^|]+\|(.+)\|(\d+)\|$", PAGE, re.M)
    assert [int(number) for number, _, _ in rows] == list(range(1, 53))
    assert all(int(cases) > 0 for _, _, cases in rows)
    named = {int(number): {links[name] for name in re.findall(r"\[(.+?)\]", tests)} for number, tests, _ in rows}
    assert named == marked()
