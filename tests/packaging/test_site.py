"""The site of mkdocs.yml: a strict build, every public name with its docstring, and the pages in a browser."""

import functools
import html
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md", *ROOT.glob("assets/*/*.md")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mkdocs build --strict`: a link or anchor that leads nowhere, or a docstring that is misread, ends it."""
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def public() -> Iterator[tuple[str, str, Any]]:
    for room in ("kernels", "data", "model", "engine"):
        module = importlib.import_module(f"xlt_engine.{room}")
        yield from ((room, name, getattr(module, name)) for name in module.__all__)


def test_the_api_page_has_every_public_name_with_its_docstring_and_parameters(site: Path) -> None:
    page = (site / "api" / "index.html").read_text("utf-8")
    heads = re.split(r'<h3 id="xlt_engine\.(\w+)\.(?:\w+\.)?(\w+)"', page)
    entries = {(room, name): text for room, name, text in zip(heads[1::3], heads[2::3], heads[3::3], strict=True)}
    wanted = {(room, name) for room, name, _ in public()}
    assert set(entries) == wanted, "a name that is also a module's needs a line of its own in docs/api.md"
    for room, name, value in public():
        words = html.unescape(re.sub(r"<[^>]+>", "", entries[room, name]))
        if inspect.isclass(value) or inspect.isfunction(value):
            first = str(inspect.getdoc(value)).split("\n\n")[0].replace("`", "")
            assert " ".join(first.split()) in " ".join(words.split()), name
        if inspect.isfunction(value):
            assert [p for p in inspect.signature(value).parameters if not re.search(rf"\b{p}\b", words)] == [], name
    assert page.count("Parameters:") > 50
    assert "Args:" not in page, "a section that was not understood"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    """As GitHub has them; the site's links are those of the strict build."""
    targets = re.findall(r"(?:\]\(|^\[[^\]]+\]: )(?!https?://|#)([^)\s#]+)", page.read_text("utf-8"), re.M)
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
def test_a_reader_finds_a_function_by_navigation_and_by_search(address: str) -> None:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page()
        errors: list[str] = []
        asked: list[str] = []
        page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.set_default_timeout(20_000)
        function = page.locator('[id="xlt_engine.kernels.linear_cross_entropy.linear_cross_entropy"]')

        page.goto(address)
        assert "xlt-engine" in page.title()
        assert loaded(page) == [True]
        page.get_by_role("navigation").get_by_role("link", name="API", exact=True).click()
        function.scroll_into_view_if_needed()
        entry = function.locator("xpath=following-sibling::*[1]").inner_text()
        assert {"hidden", "weight", "bias", "target"} <= set(re.findall(r"\w+", entry))

        page.get_by_role("textbox").fill("linear_cross_entropy")
        page.keyboard.press("Enter")
        page.locator("#mkdocs-search-results a", has_text="linear_cross_entropy").first.click()
        assert page.url.startswith(f"{address}api/")
        function.wait_for()

        for name in ("design", "demo", "performance", "studies", "truth-world"):
            page.goto(f"{address}{name}/")
            assert all(loaded(page)), name
        browser.close()
    assert errors == []
    assert [url for url in asked if not url.startswith(address)] == [], "the site asks another host"


def loaded(page: Any) -> list[bool]:
    """Of each picture of the text, whether the browser could draw it."""
    pictures = page.locator("[role=main] img")
    return [picture.evaluate("image => image.complete && image.naturalWidth > 0") for picture in pictures.all()]
