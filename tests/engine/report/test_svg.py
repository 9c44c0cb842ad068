import math
import re
import xml.etree.ElementTree as ET

import pytest

from xlt_engine.engine.report.svg import (
    GREY,
    Key,
    Panel,
    clean,
    colour,
    figure,
    nice_ticks,
    padded_range,
    shape_name,
    standalone,
    style,
    tick_text,
)

SVG = "{http://www.w3.org/2000/svg}"


def draw(panel: Panel) -> ET.Element:
    return ET.fromstring(figure([panel], title="t", description="d", columns=1))


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 100.0, 4, [0.0, 25.0, 50.0, 75.0, 100.0]),
        (37.0, 83.0, 5, [40.0, 50.0, 60.0, 70.0, 80.0]),
        (-0.3, 0.3, 6, [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]),
        (0.0, 0.02, 4, [0.0, 0.005, 0.01, 0.015, 0.02]),
    ],
)
def test_nice_ticks(low: float, high: float, count: int, expected: list[float]) -> None:
    assert nice_ticks(low, high, count) == expected


@pytest.mark.parametrize("count", [2, 3, 5, 9])
@pytest.mark.parametrize("span", [(1e-7, 3e-7), (12.3, 987.0), (-5.0, 4.0), (99.1, 99.2)])
def test_ticks_stay_inside_and_are_evenly_spaced(span: tuple[float, float], count: int) -> None:
    ticks = nice_ticks(*span, count)
    width = span[1] - span[0]
    assert all(span[0] - 1e-6 * width <= t <= span[1] + 1e-6 * width for t in ticks)
    gaps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
    assert all(math.isclose(g, gaps[0], rel_tol=1e-4) for g in gaps)
    texts = [tick_text(t, ticks) for t in ticks]
    assert len(set(texts)) == len(texts)


def test_degenerate_ranges_do_not_fail() -> None:
    assert nice_ticks(3.0, 3.0) == [3.0]
    assert nice_ticks(math.nan, 1.0) == [0.0]
    low, high = padded_range([5.0])
    assert low < 5.0 < high
    assert padded_range([]) != (0.0, 0.0)
    assert padded_range([2.0, 4.0], zero=True)[0] == 0.0
    assert padded_range([-2.0, 4.0], zero=True)[0] < -2.0


def test_positions_follow_the_axes() -> None:
    panel = Panel("", (0.0, 10.0), (0.0, 100.0), width=200, height=100, left=40, right=10)
    assert panel.px(0.0) == 40
    assert panel.px(10.0) == 190
    assert panel.px(5.0) == 115
    assert panel.py(100.0) == panel.top
    assert panel.py(0.0) == 100 - panel.bottom
    assert panel.py(50.0) < panel.py(25.0)


def test_points_bars_and_lines_are_drawn_where_the_data_is() -> None:
    panel = Panel("p", (0.0, 4.0), (0.0, 8.0))
    for x in range(4):
        panel.point(x, 2.0 * x, 0, shape=x, tip=f"point {x}")
    panel.point(1.0, math.nan, 0)
    panel.bar((1.0, 0.0), (2.0, 4.0), 1, tip="bar")
    panel.bar((3.0, 0.0), (2.0, -1.0), 1, tip="down")
    panel.line([(0, 0), (1, 1), (2, math.nan), (3, 3)], 2)
    root = draw(panel)
    points = [e for e in root.iter() if "pt" in (e.get("class") or "").split()]
    assert [p.find(f"{SVG}title").text for p in points] == [f"point {x}" for x in range(4)]  # type: ignore[union-attr]
    first = points[0]
    assert float(first.get("cx") or 0) == pytest.approx(panel.px(0.0), abs=0.06)
    bars = [e for e in root.iter(f"{SVG}rect") if "bar" in (e.get("class") or "")]
    assert float(bars[0].get("height") or 0) == pytest.approx(panel.py(0.0) - panel.py(4.0), abs=0.11)
    assert all(float(b.get("width") or -1) > 0 and float(b.get("height") or -1) > 0 for b in bars)
    path = next(e for e in root.iter(f"{SVG}path") if "line" in (e.get("class") or ""))
    assert len(re.findall("M", path.get("d") or "")) == 2


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a & b", "\"quoted\" 'name'", "nul\x00 bell\x07 \ufffe"])
def test_hostile_names_stay_text(name: str) -> None:
    panel = Panel(name, (0.0, 1.0), (0.0, 1.0), name, name, x_ticks=[(0.5, name)])
    panel.point(0.5, 0.5, 0, tip=name)
    panel.label(0.5, 0.5, name)
    text = figure([panel], title=name, description=name, columns=1, keys=[Key(name, 0)])
    root = ET.fromstring(standalone(text))
    assert not list(root.iter(f"{SVG}script"))
    shown = re.sub("[\x00\x07\ufffe]", "\ufffd", name)
    assert root.find(f"{SVG}title").text == shown  # type: ignore[union-attr]
    assert root.get("aria-label") == shown
    assert ET.fromstring(f"<p>{clean(name)}</p>").text == shown


def test_a_file_of_its_own_carries_its_style_and_a_background() -> None:
    text = standalone(figure([Panel("p", (0, 1), (0, 1))], title="t", description="d", columns=1))
    root = ET.fromstring(text)
    assert root.find(f"{SVG}style").text == style()  # type: ignore[union-attr]
    assert "prefers-color-scheme:dark" in style()
    back = next(e for e in root.iter(f"{SVG}rect") if e.get("class") == "bg")
    assert root.get("viewBox") == f"{back.get('x')} {back.get('y')} {back.get('width')} {back.get('height')}"
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_panels_and_legend_stay_inside_the_picture() -> None:
    panels = [Panel(str(i), (0, 1), (0, 1), width=200, height=100) for i in range(5)]
    keys = [Key("a rather long entry of a legend", i, "line") for i in range(6)]
    root = ET.fromstring(figure(panels, title="t", description="d", columns=2, keys=keys))
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    moves = [e.get("transform") or "" for e in root.iter(f"{SVG}g")]
    places = [tuple(map(float, re.findall(r"[\d.]+", m))) for m in moves]
    assert len(places) == 5
    assert all(x + 200 <= width and y + 100 <= height for x, y in places)
    texts = [e for e in root if e.tag == f"{SVG}text"]
    assert len(texts) == 6
    assert all(float(e.get("y") or 0) < places[0][1] for e in texts)


def test_colours_never_fall_on_the_grey() -> None:
    assert {colour(i) for i in range(20)} == set(range(GREY))
    assert len({shape_name(i) for i in range(5)}) == 5
