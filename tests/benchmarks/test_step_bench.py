"""The step benchmark: that it measures what it says, on a CPU. No test looks at how fast anything is."""

import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import step as command
import torch
from click.testing import CliRunner
from step_bench import bench as step_bench
from step_bench import peers as step_peers
from step_bench import trace as step_trace
from step_bench.flops import encoder_flops, head_flops, pairs, step_flops
from step_bench.peer import pad
from step_bench.peers import Compiled, Eager, ModernBert, OnnxRuntime, PackedEncoders, Tuned, Unpadded, WithLiger
from step_bench.sides import OURS, Ours, copy_weights, worst_difference
from step_bench.table import render
from step_bench.trace import OTHER, PRODUCTS, parts_of
from step_bench.work import CLASSES, MASK, SHAPES, TASKS, Drawn, Row, draw_texts, make_row, make_work, packed
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from xlt_engine import ConfigError
from xlt_engine.engine.training.device import WORKSPACE, WORKSPACES
from xlt_engine.kernels import dispatch
from xlt_engine.model import EncoderConfig, VoterHeads

CPU = torch.device("cpu")
TINY = SHAPES["tiny"]
MODERN = EncoderConfig.from_hf(
    SHAPES["modern"].to_hf() | {"vocab_size": 500, "hidden_size": 64, "num_attention_heads": 4, "local_attention": 16}
)
TRAINING = [name for name, task in TASKS.items() if task.trains]


@pytest.fixture(autouse=True)
def _reference_path() -> Any:
    with dispatch.using("reference"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    with dispatch.using("reference"):
        return step_bench.bench_step(
            quick=True,
            device="cpu",
            repeats=2,
            peers=("eager", "tuned", "modernbert"),
            trace_folder=folder / "trace",
            json_file=folder / "step.json",
        )


def rows_of(task: str, count: int = 4, kind: str = "conll") -> list[Row]:
    texts = draw_texts(kind, count, vocabulary=TINY.vocab_size)["en"]
    return [make_row(task, text, i, TINY.vocab_size) for i, text in enumerate(texts)]


def quick(task: str, **options: Any) -> dict[str, Any]:
    options = {"peers": ("tuned",), "quick": True, "device": "cpu"} | options
    result = step_bench.bench_step([task], **options)
    entry: dict[str, Any] = result["tasks"][task]
    return entry | {"failures": step_bench.own_failures(result)}


def test_every_task_is_measured_and_agrees(whole: dict[str, Any]) -> None:
    assert list(whole["tasks"]) == list(TASKS) == ["btf", "finetune", "soft", "hard", "teacher"]
    assert step_bench.own_failures(whole) == []
    for task, entry in whole["tasks"].items():
        assert entry["difference_fp32"] < 1e-5, task
        assert set(entry["rows"]) == {"conll, random", "conll, sorted"}
        for rows in entry["rows"].values():
            assert list(rows) == [OURS, Eager.name, Tuned.name, ModernBert.name]
        assert list(entry["failed"]) == [Unpadded.name], "transformers needs flash-attn for it"
        assert ("idle" in entry) == ("pass" not in entry) == (task != "teacher")


def test_the_teachers_whole_pass_has_its_rate(whole: dict[str, Any]) -> None:
    """Of 16 sentences, by the ceiling of the same file; operations as those of a step over the same sentences."""
    found = whole["tasks"]["teacher"]["pass"]["conll"]
    texts = draw_texts("conll", 200, vocabulary=500, scale="tiny")["de"][:16]
    assert found["tokens"] == sum(len(text.ids) for text in texts)
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
    rows = [Row(text.ids, text.positions, text.labels) for text in texts]
    flops = step_flops("teacher", TINY, rows)
    assert found["mfu"] == pytest.approx(flops / found["seconds"] / whole["ceilings"]["matmul_tflops"] / 1e12)
    assert f"conll: {found['headline']}" in render(whole)
    assert f"MFU {100 * found['mfu']:.0f} %" in found["headline"]


def test_numbers_fit_together(whole: dict[str, Any]) -> None:
    peak = whole["ceilings"]["matmul_tflops"] * 1e12
    for entry in whole["tasks"].values():
        for rows in entry["rows"].values():
            ours = rows[OURS]
            assert ours["times_ours"]["p50"] == ours["times_ours"]["total"] == 1
            for row in rows.values():
                seconds = [ms / 1e3 for ms in row["raw_ms"]]
                assert len(seconds) == row["ms"]["n"] == row["wall_ms"]["n"] == 2
                rate = median(t / s for t, s in zip(ours["tokens"], seconds, strict=True))
                assert row["tokens_per_second"] == pytest.approx(rate)
                assert row["mfu"] == pytest.approx(
                    median(f / s / peak for f, s in zip(ours["flops"], seconds, strict=True))
                )
                ratios = [a / b for a, b in zip(row["raw_ms"], ours["raw_ms"], strict=True)]
                assert row["times_ours"]["p50"] == pytest.approx(median(ratios))
                assert row["memory_mib"] is None


def test_result_says_where_it_comes_from(whole: dict[str, Any], folder: Path) -> None:
    assert whole["complete"] is True
    assert (whole["device"], whole["path"], whole["precision"], whole["shape"]) == ("cpu", "reference", "fp32", "tiny")
    assert whole["clock"] == ("cpu" if torch.get_num_threads() == 1 else "wall")
    assert {"torch", "transformers", "liger-kernel"} <= whole["environment"]["versions"].keys()
    assert whole["environment"]["cpu"]
    assert any("no CUDA device in use: tiny shape" in note for note in whole["notes"])
    assert json.loads((folder / "step.json").read_text()) == json.loads(json.dumps(whole))


def test_table(whole: dict[str, Any]) -> None:
    text = render(whole)
    assert "cpu, tiny shape, fp32, 4 sequences a step" in text
    assert text.count("losses and gradients agree within") == 5
    assert "ModernBERT, unpadded: not measured: ImportError" in text
    assert "waits for batches" in text
    assert f"%  {PRODUCTS}" in text
    assert len(whole["headlines"]) == 10
    assert all("x our time" in line for line in whole["headlines"])


def test_orders_draw_from_one_window() -> None:
    texts = draw_texts("review", 400, vocabulary=500)
    given = {"vocabulary": 500, "repeats": 5, "batch_size": 8, "batches": 2}
    found = {order: make_work("finetune", texts, order, **given) for order in ("random", "sorted")}
    for work in found.values():
        assert [len(step) for step in work] == [2] * 5
        assert {len(rows) for step in work for rows in step} == {8}

    def padding(order: str) -> float:
        batches = [[row.length for row in rows] for step in found[order] for rows in step]
        return 1 - sum(map(sum, batches)) / sum(max(lengths) * len(lengths) for lengths in batches)

    assert padding("sorted") < 0.05 < 0.2 < padding("random")
    again = make_work("finetune", texts, "random", **given)
    assert all(
        (a.ids == b.ids).all()
        for x, y in zip(again, found["random"], strict=True)
        for a, b in zip(x[0], y[0], strict=True)
    )


@pytest.mark.parametrize("task", ["btf", "finetune", "soft"])
@pytest.mark.parametrize("kind", [Eager, Tuned])
def test_sides_of_a_modern_shape_agree(task: str, kind: type[Eager]) -> None:
    torch.manual_seed(0)
    peer, ours = kind(task, MODERN, CPU), Ours(task, MODERN, CPU)
    rows = [make_row(task, text, i, 500) for i, text in enumerate(draw_texts("review", 3, vocabulary=500)["en"])]
    assert max(row.length for row in rows) > 64
    assert worst_difference(peer, ours, rows) < 1e-5


@pytest.mark.parametrize("config", [EncoderConfig(500, 64, 4, 4, 96, 64), MODERN], ids=["bert", "modern"])
@pytest.mark.parametrize("task", ["btf", "finetune", "teacher"])
def test_operations_are_those_that_torch_counts(task: str, config: EncoderConfig) -> None:
    """Apart from attention, whose kernel the counter does not know."""
    rng = np.random.default_rng(0)
    rows = [
        Row(rng.integers(5, 500, n), np.arange(1, 2 + n // 4), rng.integers(9, size=1 + n // 4)) for n in (9, 16, 30)
    ]
    ours = Ours(task, config, CPU)
    batch = packed(task, rows)
    with FlopCounterMode(display=False) as counter:
        if TASKS[task].trains:
            (ours.objective(ours.model, batch, 3) / batch.num_targets).backward()
        else:
            with torch.no_grad():
                ours.model(batch)
    by_name = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    found = sum(count for name, count in by_name.items() if "addmm" in name or ".mm" in name)
    lengths, items = [row.length for row in rows], sum(len(row.positions) for row in rows)
    scores = encoder_flops(config, lengths, items, trains=TASKS[task].trains)
    scores -= encoder_flops(config, [1] * sum(lengths), items, trains=TASKS[task].trains)
    layers = config.num_layers
    scores += 4 * 64 * sum(lengths) * (layers + 2 * (layers - 1) if TASKS[task].trains else layers)
    assert scores > 0
    assert found == step_flops(task, config, rows) - scores


def test_pairs_of_a_window() -> None:
    place = torch.arange(9)
    for window in range(12):
        assert pairs(9, window) == int(((place - place[:, None]).abs() <= window).sum())
    assert pairs(9, None) == 81


def test_operations_of_the_voters() -> None:
    """What is counted does not include the padding of narrow voters, which torch multiplies all the same."""
    x = torch.randn(20, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        VoterHeads(64, CLASSES)(x).sum().backward()
    counted = head_flops("soft", EncoderConfig(500, 64, 4, 4, 96, 64), 20)
    assert counted == head_flops("hard", EncoderConfig(500, 64, 4, 4, 96, 64), 20)
    assert 1 <= counter.get_total_flops() / counted < 1.12


def test_the_comparison_sees_a_difference() -> None:
    rows = rows_of("btf")
    peer, ours = Eager("btf", TINY, CPU), Ours("btf", TINY, CPU)
    assert worst_difference(peer, ours, rows) < 1e-5
    for layer in ours.model.encoder.layers:
        layer.eps = 1e-2
    assert worst_difference(peer, ours, rows) > 1e-4


def test_nothing_is_timed_where_sides_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_bench, "worst_difference", lambda *_: 0.1)
    entry = quick("finetune")
    assert entry["rows"] == {}
    assert "differ by 1.0e-01; nothing was timed" in entry["reason"]
    assert entry["failures"] == [f"finetune: {entry['reason']}"]


def test_an_absent_peer_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("liger_kernel", "liger_kernel.ops", "liger_kernel.ops.fused_linear_cross_entropy", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    entry = quick("btf", peers=("tuned", "liger"))
    assert list(entry["failed"]) == [Tuned.name, WithLiger.name]
    assert all(why.startswith(("ImportError", "ModuleNotFoundError")) for why in entry["failed"].values())
    assert list(entry["rows"]["conll, random"]) == [OURS]
    assert entry["failures"] == []


def test_a_failure_of_this_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Ours, index: int) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(Ours, "step", fail)
    assert quick("teacher")["failures"] == ["teacher: RuntimeError: no luck"]


def test_no_time_left() -> None:
    entry = quick("btf", seconds=0.0)
    assert (entry["reason"], entry["failures"]) == ("no time left", [])


def test_wrong_names() -> None:
    with pytest.raises(ConfigError, match="no task 'ner'; choose from btf, finetune"):
        step_bench.bench_step(["ner"])
    with pytest.raises(ConfigError, match="no peer"):
        step_bench.bench_step(peers=["jax"])
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            step_bench.bench_step(device="cuda")


@pytest.mark.parametrize("task", TRAINING)
def test_sources_are_those_of_a_run(task: str) -> None:
    texts = draw_texts("conll", 60, vocabulary=500)
    source = Drawn(task, texts, vocabulary=500, batch_size=6, steps=25)
    assert len(source) == 25
    for step in (0, 24):
        (batch,) = source[step]
        assert len(batch.example_ids) == 6
        assert batch.num_targets == len(batch.item_index) > 0
        (size,) = source.sizes(step)
        assert size.tokens == batch.num_tokens
        if task == "btf":
            masked = (batch.token_ids[batch.item_index] == MASK).float().mean()
            assert batch.num_targets < 0.3 * batch.num_tokens
            assert masked > 0.5
        if task == "soft":
            assert torch.allclose(batch.soft_targets.sum(1), torch.ones(batch.num_targets))
        assert (batch.weights is not None) == (task == "hard")


def test_idle_share(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = draw_texts("conll", 40, vocabulary=500, scale="tiny")
    source, ours = Drawn("finetune", texts, vocabulary=500, batch_size=2, steps=4), Ours("finetune", TINY, CPU)
    fast = ours.idle(source, 1)
    assert fast["steps"] == 3
    assert 0 < fast["share"] < 1
    make = Drawn.__getitem__

    def slow(self: Drawn, step: int) -> Any:
        time.sleep(0.2)
        return make(self, step)

    monkeypatch.setattr(Drawn, "__getitem__", slow)
    found = ours.idle(source, 1)
    assert 0.6 <= found["waited_s"] <= found["seconds"]
    assert found["share"] == pytest.approx(found["waited_s"] / found["seconds"], rel=0.1)


def test_trace_is_a_chrome_trace(whole: dict[str, Any], folder: Path) -> None:
    for task, entry in whole["tasks"].items():
        found = entry["trace"]["conll"]
        events = json.loads((folder / "trace" / found["file"]).read_text())["traceEvents"]
        assert sum(event.get("name") == "xlt:packed_attention" for event in events) == 3 * TINY.num_layers
        shares = found["shares"]
        assert sum(shares.values()) == pytest.approx(1)
        assert set(shares) <= set(step_trace.PARTS)
        assert {PRODUCTS, "attention", "gelu", "embedding"} <= set(shares)
        assert ("linear_cross_entropy" in shares) == (task == "btf")
        assert ("optimiser" in shares) == ("collation" in shares) == (task != "teacher")
    from xlt_engine.kernels import packed_attention
    from xlt_engine.model import layers

    assert layers.packed_attention is packed_attention, "marks are gone"


def event(name: str, parent: Any = None, spent: float = 0.0, number: int = -1, start: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        cpu_parent=parent,
        self_cpu_time_total=spent,
        sequence_nr=number,
        time_range=SimpleNamespace(start=start),
        device_type=SimpleNamespace(name="CPU"),
    )


def test_parts_of_a_profile() -> None:
    gelu, loss = event("xlt:linear_gelu", spent=1), event("xlt:linear_cross_entropy")
    layer = event("aten::linear", number=1)
    forward = [
        gelu,
        event("aten::addmm", gelu, 10, number=2, start=1),
        event("aten::gelu", gelu, 100, number=3, start=2),
        loss,
        event("aten::mm", loss, 1000, number=4, start=3),
        layer,
        event("aten::addmm", layer, 1e4, number=1, start=4),
    ]
    nodes = [event("autograd::engine::evaluate_function: B", number=n) for n in (3, 4, 1, 2)]
    stray = event("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", number=3)
    apply = event("xlt:optimiser")
    backward = [
        event("aten::gelu_backward", nodes[0], 2),
        event("aten::mm", nodes[1], 2000),
        event("aten::mm", nodes[2], 2e4),
        event("aten::mm", nodes[3], 20),
        event("aten::add_", stray, 5),
        event("aten::mm", apply, 7),
        event("xlt::packed_attention_backward", None, 9),
    ]
    found = parts_of([*forward, *nodes, stray, apply, *backward], device=False)
    assert {part: spent for part, spent in found.items() if spent} == {
        "gelu": 103,
        "linear_cross_entropy": 3000,
        PRODUCTS: 3e4 + 30,
        "optimiser": 7,
        "attention": 9,
        OTHER: 5,
    }


def test_ligers_loss_is_that_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(hidden: Any, weight: Any, bias: Any, target: Any) -> Any:
        return functional.cross_entropy(functional.linear(hidden, weight, bias), target, reduction="sum")

    monkeypatch.setattr(step_peers, "liger_loss", lambda accumulate: fused)
    rows = rows_of("btf")
    plain, liger = Tuned("btf", TINY, CPU), WithLiger("btf", TINY, CPU)
    liger.model.load_state_dict(plain.model.state_dict())
    losses = [side.loss(side.batch(rows)) for side in (plain, liger) if side.model.eval()]
    assert torch.allclose(*losses)


@pytest.mark.filterwarnings("ignore")  # what the compilers say of themselves
def test_a_graph_of_the_teacher_agrees_and_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    peer, rows = OnnxRuntime("teacher", TINY, CPU), rows_of("teacher")
    peer.load([[rows[:2]], [rows, rows[1:]]])
    expected, logits = peer.loss_and_gradients(rows), peer.logits(peer.batch(rows))
    for i, row in enumerate(rows):
        found, wanted = torch.from_numpy(logits[i, row.positions]), expected[f"logits {i}"]
        assert (found - wanted).norm() < 1e-5 * wanted.norm()
    ran: list[tuple[int, ...]] = []
    with monkeypatch.context() as patch:
        patch.setattr(peer, "logits", lambda batch: ran.append(tuple(batch["input_ids"].shape)))
        peer.step(1)
    assert ran == [(n, max(row.length for row in part)) for n, part in ((4, rows), (3, rows[1:]))]
    with torch.no_grad():
        peer.model.classifier.weight *= 1.01
    with pytest.raises(RuntimeError, match="the graph and the model differ by 9"):
        peer.load([[rows]])
    with pytest.raises(NotImplementedError, match="on a CPU in fp32"):
        OnnxRuntime("teacher", TINY, CPU, "bf16")


def test_the_compiled_peer_is_compiled_for_any_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options) or model)
    assert Tuned("finetune", TINY, CPU).run is not None
    assert asked == []
    peer = Compiled("finetune", TINY, CPU)
    peer.load([[rows_of("finetune")]])
    peer.step(0)
    assert (asked, peer.run) == ([{"dynamic": True}], peer.model)


@pytest.mark.parametrize(("task", "dtype"), [("teacher", torch.bfloat16), ("soft", torch.float32)])
def test_packed_encoders_gets_the_encoder(task: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packed_encoders", None)  # also where it is installed
    with pytest.raises(ModuleNotFoundError):
        PackedEncoders(task, TINY, CPU, "bf16")
    taken: list[Any] = []
    monkeypatch.setitem(sys.modules, "packed_encoders", SimpleNamespace(pack=taken.append))
    peer = PackedEncoders(task, TINY, CPU, "bf16")
    assert [type(model).__name__ for model in taken] == ["ModernBertModel"]
    assert {weight.dtype for weight in peer.model.parameters()} == {dtype}


def test_unpadded_batches() -> None:
    rows = rows_of("soft", 3)
    side = object.__new__(Unpadded)
    side.task = "soft"
    found, padded = side.batch(rows), pad("soft", rows)
    assert found["cu_seq_lens_q"].tolist() == [0, *np.cumsum([row.length for row in rows])]
    for i, row in enumerate(rows):
        part = slice(int(found["cu_seq_lens_q"][i]), int(found["cu_seq_lens_q"][i + 1]))
        assert found["input_ids"][0, part].tolist() == row.ids.tolist()
        assert found["position_ids"][0, part].tolist() == list(range(row.length))
        assert torch.equal(found["soft"][0, part], padded["soft"][i, : row.length])
    assert found["max_length_q"] == max(row.length for row in rows)


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(AssertionError):
        copy_weights(ModernBert("btf", TINY, CPU).model.state_dict(), Ours("btf", TINY, CPU))


def test_nothing_looks_at_the_device_before_it_is_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking starts CUDA, and after that it could only refuse."""

    def look(device: str) -> None:
        raise ZeroDivisionError(os.environ.get(WORKSPACE))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setenv("NCCL_ALGO", "")
    monkeypatch.delenv("NCCL_ALGO")
    monkeypatch.setattr(step_bench, "choose_device", look)
    with pytest.raises(ZeroDivisionError, match=WORKSPACES[0]):
        step_bench.bench_step(["btf"], deterministic=True)


def test_the_command(tmp_path: Path) -> None:
    file, traces = tmp_path / "result.json", tmp_path / "traces"
    options = ["--quick", "--device", "cpu", "--task", "teacher", "--peer", "tuned"]
    answer = CliRunner().invoke(command.main, [*options, "--json", str(file), "--trace", str(traces)])
    assert answer.exit_code == 0, answer.output
    result = json.loads(file.read_text())
    assert list(result["tasks"]) == ["teacher"]
    assert result["headlines"][0] in answer.stderr
    assert "\nteacher: teacher inference, 9 classes\n" in answer.stdout
    assert [path.name for path in traces.iterdir()] == ["teacher-conll.json"]


def test_errors_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    for wrong in (["--task", "walk"], ["--memory"], ["--sentences", "--quick"], ["--sentences", "--shape", "tiny"]):
        assert run(command.main, wrong).exit_code == 2, wrong
    monkeypatch.setattr(command, "own_failures", lambda result: ["teacher: RuntimeError: x"])
    answer = run(command.main, ["--quick", "--device", "cpu", "--task", "teacher", "--alone"])
    assert answer.exit_code == 1
    assert "teacher inference" in answer.stdout, "what was measured is shown all the same"
    assert answer.stderr.splitlines()[-1] == "Error: 1 tasks of this package failed: teacher: RuntimeError: x"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("task", TASKS)
def test_on_a_gpu(task: str, tmp_path: Path) -> None:
    with dispatch.using("auto"):
        entry = quick(task, device="cuda", shape="tiny", peers=("eager",), trace_folder=tmp_path)
    assert entry["failures"] == []
    for rows in entry["rows"].values():
        assert all(row["memory_mib"]["peak"] > 0 for row in rows.values())
    assert entry["launches"][OURS] is not None
    if task != "teacher":
        assert entry["idle"]["conll"]["graph_steps"] > 0
        assert entry["launches"][OURS]["launches"] < entry["launches"][Eager.name]["launches"]
    assert sum(entry["trace"]["conll"]["shares"].values()) == pytest.approx(1)
