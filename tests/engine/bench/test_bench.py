"""`bench kernels`: that it measures what it says, on a CPU. No test looks at how fast anything is."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine import ConfigError, XltError, kernels
from xlt_engine.engine.bench import kernels as bench
from xlt_engine.engine.bench.case import SIZES, Call, Case, Problem, Setting, Shape, Variant, differentiate, lengths
from xlt_engine.engine.bench.cases import OPERATIONS, _loss_truth, cases_of
from xlt_engine.engine.bench.harness import (
    Candidate,
    Run,
    Timer,
    add_bounds,
    beyond,
    errors,
    quantiles,
    time_interleaved,
)
from xlt_engine.engine.bench.kernels import render
from xlt_engine.kernels import dispatch

CPU = torch.device("cpu")
AT = Setting(CPU, torch.float32)


@pytest.fixture(autouse=True)
def _reference_path() -> Iterator[None]:
    with dispatch.using("reference"):
        yield


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    with dispatch.using("reference"):
        return bench.bench_kernels(quick=True, device="cpu")


def case_of(*variants: Variant) -> Case:
    def build(at: Setting, shape: Shape) -> Problem:
        return Problem(variants, lambda: {"out": torch.full((2, 2), 2.0).double()}, {}, moved=1e6)

    return Case("made up", {"N": 1000}, 0, build)


def only(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr(bench, "OPERATIONS", {"made up": []})
    monkeypatch.setattr(bench, "cases_of", lambda operation, sizes: [case])


def constant(value: float) -> Call:
    return Call(lambda: {"out": torch.full((2, 2), value)})


def measure(monkeypatch: pytest.MonkeyPatch, case: Case, file: Path | None = None) -> dict[str, Any]:
    only(monkeypatch, case)
    return bench.bench_kernels(quick=True, device="cpu", json_file=file)


def test_every_public_operation_is_measured(whole: dict[str, Any]) -> None:
    functions = {n for n in kernels.__all__ if not isinstance(getattr(kernels, n), type)}
    # a plan and a table are parts of attention, the norm one of the optimizer's step; the hard-label loss of a few
    # classes is torch's own, and the last one has no kernels
    others = {"attention_plan", "rotary_table", "gradient_norm", "voter_cross_entropy", "supervised_contrastive"}
    assert {case["op"] for case in whole["cases"]} == functions - others


def test_all_rows_agree_with_the_truth(whole: dict[str, Any]) -> None:
    compared = 0
    for case in whole["cases"]:
        assert {row["variant"] for row in case["rows"]} >= {"xlt-engine", "torch eager"}
        for row in case["rows"]:
            assert row["reason"] is None, row
            assert row["ms"]["n"] >= 1
            assert row["percent_of_floor"] == pytest.approx(100 * case["floor_ms"] / row["ms"]["p50"])
            for name, error in (row["error"] or {}).items():
                compared += 1
                assert error["frobenius"] < 2e-6, (case["op"], row["variant"], name)
                assert (error["worst_row"] or 0.0) < 1e-3, (case["op"], row["variant"], name)
    assert compared > 60
    assert bench.own_failures(whole) == []


def test_result_says_where_it_comes_from(whole: dict[str, Any], tmp_path: Path) -> None:
    assert whole["complete"] is True
    assert (whole["device"], whole["path"], whole["dtype"], whole["sizes"]) == ("cpu", "reference", "float32", "tiny")
    assert any("reference path against eager torch" in note for note in whole["notes"])
    assert {"torch", "triton", "liger-kernel", "cut-cross-entropy"} <= whole["environment"]["versions"].keys()
    assert min(whole["ceilings"]["matmul_tflops"], whole["ceilings"]["copy_gb_per_s"]) > 0
    file, lines = tmp_path / "result.json", []
    found = bench.bench_kernels(["dropout"], quick=True, device="cpu", json_file=file, say=lines.append)
    assert json.loads(file.read_text()) == json.loads(json.dumps(found))
    assert [case["op"] for case in found["cases"]] == ["dropout"]
    assert lines[-1].startswith("[1/1, ")


def test_the_table_has_every_row(whole: dict[str, Any]) -> None:
    text = render(whole)
    for case in whole["cases"]:
        assert f"\n{case['op']}\n" in text
        assert case["name"] in text
    assert text.count("\n    torch eager ") == sum(
        r["variant"] == "torch eager" for c in whole["cases"] for r in c["rows"]
    )
    assert "reference path against eager torch" in text


def test_an_absent_or_failing_rival_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent() -> Call:
        raise ImportError("No module named 'nowhere'\nand more")

    def broken() -> Call:
        return Call(lambda: {"out": torch.ones(2, 3) @ torch.ones(2, 3)})

    def later() -> Call:
        calls = iter([0] * 7)  # warm-up, host time and error are fine; the timed calls run out
        return Call(lambda: {"out": torch.full((2, 2), 2.0 + next(calls, "x"))})  # type: ignore[operator]

    variants = (
        Variant("ours", lambda: constant(2.0), own=True),
        Variant("absent", absent, plain=True),
        Variant("broken", broken, plain=True),
        Variant("later", later, plain=True),
        Variant("fine", lambda: constant(3.0), plain=True),
    )
    result = measure(monkeypatch, case_of(*variants), tmp_path / "result.json")
    rows = {row["variant"]: row for row in result["cases"][0]["rows"]}
    assert rows["absent"]["reason"] == "ImportError: No module named 'nowhere'"
    assert rows["broken"]["reason"].startswith("RuntimeError: ")
    assert rows["later"]["reason"].startswith("TypeError: ")
    assert rows["xlt-engine"]["reason"] is None
    error = rows["xlt-engine"]["error"]["out"]
    assert (error["frobenius"], error["worst_row"], error["dtype"]) == (0.0, 0.0, "float32")
    assert rows["fine"]["error"]["out"]["frobenius"] == pytest.approx(0.5)
    assert rows["fine"]["times_ours"] == rows["fine"]["ms"]["p50"] / rows["xlt-engine"]["ms"]["p50"]
    assert bench.own_failures(result) == []
    text = render(result)
    assert "- ImportError: No module named 'nowhere'" in text
    assert "fine " in result["cases"][0]["headline"]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("value", [2.1, float("nan")])
def test_an_error_above_its_bound_is_a_failure(value: float, check: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = (
        Variant("ours", lambda: constant(value), own=True),
        Variant("reference", lambda: constant(2.00001), path="reference"),
        Variant("wrong rival", lambda: constant(3.0), plain=True),
    )
    only(monkeypatch, case_of(*variants))
    result = bench.bench_kernels(quick=True, check=check, device="cpu")
    failed = bench.own_failures(result)
    assert len(failed) == 2, failed
    assert all(text.startswith("made up, N 1,000, xlt-engine: error of out (") for text in failed)
    assert "bound 2.0e-05" in failed[0]
    assert "TOO LARGE: error of out" in result["cases"][0]["headline"]
    assert render(result).count("TOO LARGE: error of out") == 2
    assert all(("ms" in row) != check for row in result["cases"][0]["rows"])


def test_what_eager_torch_cannot_do_better_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = (
        Variant("ours", lambda: constant(2.002), own=True),
        Variant("torch eager", lambda: constant(2.001), plain=True),
    )
    result = measure(monkeypatch, case_of(*variants))
    assert bench.own_failures(result) == []
    assert result["cases"][0]["rows"][0]["error"]["out"]["bounds"][0] == pytest.approx(1.5e-3, rel=1e-3)


def test_bounds_tell_a_wrong_tile_from_rounding() -> None:
    """A matrix gradient rounded to bf16 is below, one with a tile of 467 of another scale is above."""
    truth = AT.normal(467 * 8, 64, key="d_weight").double()
    rounded = truth.to(torch.bfloat16)
    wrong = rounded.clone()
    wrong[-8:] *= 0.5
    for value, expected in ((rounded, 0), (wrong, 2)):
        row = {"variant": "xlt-engine", "own": True, "error": errors({"d_weight": value}, {"d_weight": truth})}
        add_bounds([row])
        assert len(beyond(row)) == expected


def test_a_failure_of_our_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Call:
        raise RuntimeError("out of registers")

    result = measure(monkeypatch, case_of(Variant("ours", broken, own=True)))
    assert bench.own_failures(result) == ["made up, N 1,000, xlt-engine: RuntimeError: out of registers"]
    assert "no time of this package" in result["cases"][0]["headline"]

    def build(at: Setting, shape: Shape) -> Problem:
        raise RuntimeError("out of memory")

    result = measure(monkeypatch, Case("made up", {"N": 7}, 0, build))
    assert result["cases"][0]["reason"] == "RuntimeError: out of memory"
    assert "not built: RuntimeError: out of memory" in render(result)


def test_a_lost_device_ends_it_with_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Call:
        def lost(device: torch.device) -> None:
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(bench, "synchronise", lost)
        raise RuntimeError("launch failed")

    variants = (Variant("ours", broken, own=True), Variant("fine", lambda: constant(2.0), plain=True))
    with pytest.raises(XltError, match="the device was lost in made up: RuntimeError: an illegal memory access"):
        measure(monkeypatch, case_of(*variants), tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["complete"], result["running"]) == (False, "made up: N 1,000")
    assert [row["reason"] for row in result["cases"][0]["rows"]] == ["RuntimeError: launch failed"]


def test_a_part_of_an_operation_is_no_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = {2.0: 5.0, 1.0: 3.0}
    monkeypatch.setattr(Timer, "once_ms", lambda self, run, lead: ticks.get(float(run()["out"].flatten()[0]), 1.0))
    variants = (
        Variant("ours", lambda: constant(2.0), own=True),
        Variant("products", lambda: constant(1.0), plain=True, rival=False),
    )
    ours, products = measure(monkeypatch, case_of(*variants))["cases"][0]["rows"]
    assert (ours["rival"], products["rival"], products["times_ours"]) == (False, False, 3.0 / 5.0)


def test_rounds_are_interleaved_and_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run_of(name: str) -> Run:
        def run() -> dict[str, Tensor]:
            order.append(name)
            return {}

        return run

    candidates = {name: Candidate(run_of(name), nullcontext) for name in "abc"}
    time_interleaved(candidates, Timer(CPU), seconds=0.0, least=3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert [len(c.times) for c in candidates.values()] == [3, 3, 3], "the first round is not counted"


def test_errors_are_relative_to_the_truth_and_to_each_row() -> None:
    truth = {"x": torch.tensor([[3.0, 4.0], [0.0, 0.1], [0.0, 0.0]]).double(), "y": torch.tensor(2.0).double()}
    found = {"x": torch.tensor([[3.0, 4.0], [0.0, 0.2], [0.0, 0.0]]), "y": torch.tensor(1.0)}
    result = errors(found, truth)
    assert result["x"]["frobenius"] == pytest.approx(0.1 / (25.01**0.5))
    assert result["x"]["worst_row"] == pytest.approx(1.0)
    assert result["y"] == {"frobenius": 0.5, "worst_row": None, "dtype": "float32"}
    with pytest.raises(AssertionError):
        errors({"x": torch.zeros(2, 2)}, truth)


def test_quantiles() -> None:
    assert quantiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == {"p20": 2.0, "p50": 3.5, "p80": 5.0, "n": 6}


@pytest.mark.parametrize(("kind", "mean", "most"), [("conll", 25, 128), ("review", 180, 256)])
def test_lengths_are_a_fixed_draw(kind: str, mean: float, most: int) -> None:
    drawn = lengths(kind, 4000)
    assert drawn[:32] == lengths(kind, 32)
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.03)
    assert min(drawn) >= 5
    assert max(drawn) <= most


@pytest.mark.parametrize("frozen", [True, False])
def test_truth_and_floor_of_the_loss(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt_engine.engine.bench.cases._TRUTH_ELEMENTS", 131 * 10)
    hidden, weight, bias = (AT.normal(*s, key=str(s)).double() for s in ((33, 8), (131, 8), (131,)))
    target = AT.integers(131, 33, key="target")
    leaves = {"hidden": hidden.requires_grad_(), "weight": weight.requires_grad_(not frozen), "bias": bias}
    bias.requires_grad_()
    expected = differentiate(
        lambda p: functional.cross_entropy(hidden @ weight.t() + bias, target, reduction="sum"), leaves, 0.0
    )()
    assert ("d_weight" in expected) != frozen
    found = _loss_truth(leaves, target)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)
    (case,) = (
        c for c in cases_of("linear_cross_entropy", SIZES["tiny"])
        if c.shape["N"] == 33 and (c.shape["matrix"] == "frozen") == frozen
    )  # fmt: skip
    problem = case.build(AT)
    assert problem.flops == (4 if frozen else 6) * 33 * 131 * 64
    outputs = 33 * 64 + 131 + (0 if frozen else 131 * 64)
    assert problem.moved == 4 * (33 * 64 + 131 * 64 + 131 + outputs)


def test_the_most_important_cases_come_first() -> None:
    cases = [case for operation in OPERATIONS for case in cases_of(operation, SIZES["full"])]
    first = {(c.op, c.shape.get("N") or c.shape.get("T") or c.shape.get("K")) for c in cases if c.rank == 0}
    assert {("linear_cross_entropy", 614), ("linear_cross_entropy", 1229), ("votes", 1_000_000)} <= first
    assert {("dropout_residual_layer_norm", 8192), ("linear_gelu", 8192), ("embedding_layer_norm", 8192)} <= first
    rows = {(c.shape["N"], c.shape["V"]) for c in cases if c.op == "linear_cross_entropy"}
    assert rows == {(n, 119_547) for n in (300, 614, 1229, 4915, 10_000)} | {
        (n, v) for n in (614, 4915) for v in (250_002, 256_000)
    }


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="did you mean votes"):
        bench.bench_kernels(["vote"])
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            bench.bench_kernels(device="cuda")
