"""How the result file of each benchmark becomes the tables of the pages (tables.py)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from common import markdown
from truth_world.tables import all_tables

from xlt_engine.engine.lab.ablation.rows import ROWS
from xlt_engine.engine.summary.seeds import Stat, Step, paired_step, stat
from xlt_engine.engine.summary.stage_table import METRIC_NAMES, aggregate

Json = dict[str, Any]
STEPS = {"btf": "BTF step", "finetune": "NER fine-tuning step", "teacher": "teacher inference"}
ORDERS = ("random", "sorted")
SHAPES = {"mbert": "mBERT", "small": "small", "modern": "ModernBERT's"}


TUNED = "transformers, SDPA, fused AdamW"
PEERS = {TUNED: "transformers", f"{TUNED}, torch.compile": "torch.compile", "transformers, onnxruntime": "onnxruntime"}


def _sides(result: Json, task: str) -> list[tuple[Json, Json]]:
    """Our row and that of transformers, for random and for sorted batches of sentences."""
    found = [result["tasks"][task]["rows"][f"sentences, {order}"] for order in ORDERS]
    return [(rows["xlt-engine"], rows[TUNED]) for rows in found]


ONE_ROUND = ("zero-shot", "btf", "soft1", "hard1")
RUNS = {
    "demo: made text, de and es": "entity F1",
    "WikiNEuRal, de and fr": "entity F1",
    "xSID, seven intents, de and nl": "accuracy",
}


def overview(*runs: Json) -> str:
    """Target averages after each stage of the first round, a line for each run; README."""
    header = ["data", "score", "fine-tuning alone", "BTF, fine-tuning", "soft 1", "hard 1", "numerics"]
    lines = []
    for (name, metric), run in zip(RUNS.items(), runs, strict=True):
        averages = [str(stage.average) for stage in aggregate(run).stages if stage.stage in ONE_ROUND]
        lines.append([name, metric, *averages, str(run["made"]["numerics"])])
    return markdown(header, lines)


def rates(result: Json) -> str:
    """Tokens a second of all sides, and how many times as long as ours each takes."""
    size = f"V {result['config']['vocab_size']:,}, H {result['config']['hidden_size']}"
    header = [f"{SHAPES[result['shape']]} shape ({size}, {result['config']['num_hidden_layers']} layers)", "xlt-engine"]
    header += [f"{peer}, {order}" for peer in PEERS.values() for order in ORDERS]
    lines = []
    for task, name in STEPS.items():
        found = [result["tasks"][task]["rows"][f"sentences, {order}"] for order in ORDERS]
        ours = " / ".join(f"{rows['xlt-engine']['tokens_per_second']:,.0f}" for rows in found)
        theirs = [rows.get(peer) for peer in PEERS for rows in found]
        lines.append(
            [
                name,
                ours,
                *(f"{r['tokens_per_second']:,.0f} ({r['times_ours']['p50']:.2f})" if r else "" for r in theirs),
            ]
        )
    return markdown(header, lines)


def steps(*results: Json) -> str:
    """Rates of each shape, then the memory of all."""
    return "\n\n".join([*map(rates, results), memory(*results)])


def memory(*results: Json) -> str:
    """Peak resident memory of a process, and what is above the built model."""
    header = ["peak memory, MiB", *(f"{side}, {order}" for order in ORDERS for side in ("xlt-engine", "transformers"))]
    lines = []
    for result in results:
        for task, name in STEPS.items():
            found = [row["memory_mib"] for pair in _sides(result, task) for row in pair]
            cells = [f"{own['peak']:,.0f} ({own['above_built']:,.0f})" for own in found]
            lines.append([f"{SHAPES[result['shape']]}, {name}", *cells])
    return markdown(header, lines)


def corpus_speed(result: Json) -> str:
    """The corpus builder on a made dump; a recall is that of all sentences, where the selection has no cap."""
    names = {"xml": "XML", "text": "text", "dense": "a title in each line, 40 of each title"}
    header = ["run", "workers", "MB per processor second", "precision", "recall", "peak memory, MiB", "of each worker"]
    lines = []
    for run in result["runs"]:
        kind, _, more = run["run"].partition("-")
        settings = {"all": "no cap, no control", "small": "an eighth of the dump"}.get(more, "default settings")
        exact = run["selected"] < 60_000 or run["control"] == 0
        parts = [
            f"{run['peak_memory_mib'][key]:.0f}" if run["peak_memory_mib"][key] else "" for key in ("parent", "worker")
        ]
        precision = f"{run['precision']:.3g}" if "precision" in run else ""
        recall = (f"{run['recall']:.3g}" if "recall" in run else "") if exact else "cap of 60,000"
        rate = f"{run['megabytes_per_cpu_second']:.1f}"
        lines.append([f"{names[kind]}, {settings}", str(run["workers"]), rate, precision, recall, *parts])
    return markdown(header, lines)


def export_speed(result: Json) -> str:
    """Graphs in onnxruntime against `predict`, on the same texts."""
    header = ["model", "read by", "MB", "tokens a second", "of `predict`", "equal tags"]
    names = {"predict": "`predict`", "onnx": "onnxruntime", "int8": "onnxruntime, `--int8`"}
    lines = []
    for model, figures in result["models"].items():
        first = figures["rows"]["predict"]["tokens_per_second"]
        for way, row in figures["rows"].items():
            speed = row["tokens_per_second"]
            equal = f"{row['percent_equal']:.2f} %"
            lines.append([model, names[way], f"{row['megabytes']:.1f}", f"{speed:,}", f"{speed / first:.2f}", equal])
    return markdown(header, lines)


def _over(values: Sequence[float], digits: int) -> str:
    found = stat(values)
    assert found is not None
    spread = f" ± {found.std:.{digits}f}" if found.std else ""
    return f"{found.mean:.{digits}f}{spread}"


DATA_SETS = {
    "demo": "demo (made world, entity F1)",
    "intents": "xSID intents",
    "slots": "xSID slots",
    "uner": "UniversalNER",
    "wikiann": "WikiANN",
    "wikineural": "WikiNEuRal",
    "xed": "XED",
}


def ablations(*results: Json) -> str:
    """Every row on each data set: mean over the targets, and what it is above its reference.

    Left out are rows that equal their reference, or one above them with an equal reference, and those of options that
    are gone.
    """
    header = ["row"]
    for result in results:
        header += [f"{DATA_SETS[result['name']]}, {METRIC_NAMES[result['metric']]}", "minus", "up"]
    lines: list[list[str]] = []
    shown: list[tuple[Json, Json]] = []
    for group in results[0]["groups"]:
        reference = _row(results[0], group["reference"])
        lines.append([f"**{group['title']}, minus {reference['label']}**", *[""] * 3 * len(results)])
        for name in [name for name in group["rows"] if name in ROWS]:
            label, scores = (_row(results[0], name)[key] for key in ("label", "targets"))
            if (scores != reference["targets"] or not shown) and (reference["targets"], scores) not in shown:
                shown.append((reference["targets"], scores))
                cells = [cell for result in results for cell in _score_and_difference(result, group["name"], name)]
                lines.append([label, *cells])
    return markdown(header, lines)


def _score_and_difference(result: Json, group: str, name: str) -> list[str]:
    row = _row(result, name)
    if not row or row["error"]:
        return ["failed" if row else "", "", ""]
    average = row["average"]
    return [str(Stat(average["mean"], average["std"], average["n"])), *_difference(result, group, name)]


def _row(result: Json, name: str) -> Json:
    """A row of an ablation; empty where it has none of this name."""
    return next((row for row in result["rows"] if row["name"] == name), {})


def _difference(result: Json, group: str, name: str) -> list[str]:
    """Paired difference of a row to its group's reference, and how many pairs rose; two empty cells without one."""
    pairs = (c for c in result["comparisons"] if (c["group"], c["row"]) == (group, name))
    step = next(pairs, {"differences": {}})["differences"].get("average")
    return (
        [str(Step(Stat(step["mean"], step["std"], step["n"]), step["up"], "")), f"{step['up']}/{step['n']}"]
        if step
        else ["", ""]
    )


def finetune_peer(result: Json) -> str:
    """Zero-shot scores of a plain transformers loop and of the engine: source, and mean over the targets."""
    header = ["recipe", "source: loop, engine", "targets: loop, engine", "engine minus loop, targets", "CPU s"]
    lines = []
    for recipe in dict.fromkeys(row["recipe"] for row in result["rows"]):
        sources, targets, seconds = [], [], []
        for side in ("transformers", "xlt-engine"):
            rows = [row for row in result["rows"] if (row["recipe"], row["side"]) == (recipe, side)]
            scores = [list(row["scores"].values()) for row in rows]  # the source comes first
            sources.append([first for first, *_ in scores])
            targets.append([_mean(rest) for _, *rest in scores])
            seconds.append(f"{_mean(row['cpu_seconds'] for row in rows):.0f}")
        step = stat([engine - loop for loop, engine in zip(*targets, strict=True)])
        scores_shown = [", ".join(_over(values, 1) for values in both) for both in (sources, targets)]
        lines.append([f"`{recipe}`", *scores_shown, str(Step(step, 0, "")) if step else "", ", ".join(seconds)])
    return markdown(header, lines)


def presets(result: Json) -> str:
    """By data set and target: fine-tuning alone, the paper's recipe, the preset best, and how their pairs differ."""
    header = ["data", "target", "fine-tuning alone", "paper", "best", "best minus paper", "best minus fine-tuning"]
    header += ["handed out minus the highest stage", "file as a whole", "CPU time, best over paper"]
    lines = []
    by_target: dict[tuple[str, str], list[Json]] = {}
    for point in result["points"]:
        by_target.setdefault((point["recipe"], point["target"]), []).append(point)
    for (recipe, target), points in by_target.items():
        scores = [_over([point[row] for point in points], 1) for row in ("mbert", "paper", "best")]
        lines.append([recipe, target, *scores, *_gains(points)])
    return markdown(header, [*lines, ["all", "", "", "", "", *_gains(result["points"])]])


def _gains(points: Sequence[Json]) -> list[str]:
    """Of pairs, best minus others with how many rose; what is handed out; CPU seconds, best over paper."""
    cells = [_paired(points, "best", other) for other in ("paper", "mbert")]
    lost = _mean(point["handed_out"] - point["highest"] for point in points)
    best, paper = (_mean(point["cpu_seconds"][row] for point in points) for row in ("best", "paper"))
    return [*cells, f"{lost:.1f}", _paired(points, "together", "handed_out"), f"{best / paper:.2f}"]


def _paired(points: Sequence[Json], now: str, before: str) -> str:
    step = paired_step([point[now] - point[before] for point in points], before)
    assert step is not None
    return f"{step}, {step.up}/{step.stat.n}"


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def compiled_budgets(*results: Json) -> str:
    """The largest figures in bf16 of the kernels that take many registers."""
    parts = {
        (part["capability"], result["triton"]): {kernel["kernel"]: kernel for kernel in part["kernels"]}
        for result in results
        for part in result["parts"]
        if part["dtype"] == "bf16"
    }
    columns = sorted(parts, reverse=True)
    large = {name for kernels in parts.values() for name, kernel in kernels.items() if kernel["registers"] >= 128}

    def cell(kernel: Json | None) -> str:
        return f"{kernel['registers']}/{kernel['stack']}/{kernel['shared'] / 1024:.0f}" if kernel else ""

    lines = [[f"`{name}`", *(cell(parts[column].get(name)) for column in columns)] for name in sorted(large)]
    return markdown(["kernel", *(f"{capability}, triton {triton}" for capability, triton in columns)], lines)


def gpu_estimates(result: Json) -> str:
    """Floors and estimates of operations and steps, beside what a GPU has measured, if one has."""

    def line(what: str, shape: str, row: Json) -> list[str]:
        figures = (row.get(figure) for figure in ("floor_ms", "estimate_ms", "measured_ms"))
        return [what, shape, *("" if ms is None else f"{ms:.3f}" for ms in figures)]

    lines = [line(f"`{row['op']}`", row["name"], row) for row in result["operations"]]
    lines += [line("step", row["task"], row) for row in result["steps"]]
    return markdown(["what", "shape", "floor, ms", "estimate, ms", "measured, ms"], lines)


TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "overview": (("demo", "wikineural", "xsid-intents"), overview),
    "step-cpu": (("step-cpu-mbert", "step-cpu-small"), steps),
    "step-cpu-modern": (("step-cpu-modern",), rates),
    "compiled-budgets": (("compiled-budgets-3.7.1", "compiled-budgets-3.6.0"), compiled_budgets),
    "gpu-estimates": (("gpu-estimates",), gpu_estimates),
    "corpus": (("corpus",), corpus_speed),
    "export-speed": (("export-speed",), export_speed),
    "ablations": (("ablation-wikiann",), ablations),
    "finetune-peer": (("finetune-peer",), finetune_peer),
    "presets": (("presets",), presets),
    "truth-world": (("truth-world",), all_tables),
}
"""Name of a table -> its files, and the function of their contents that makes its text."""
