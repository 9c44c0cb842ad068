"""Several processes make the run of one: the same numbers, one writer, and a clear end where one is lost.

All over gloo on the loopback device. The processes are forked by one helper process (this file as a script), which
loads torch once; one test goes the whole way through torchrun.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 900.0
TRAINED = (
    "finetune.epochs=8",
    "selftrain.soft.epochs=8",
    "selftrain.rounds=1",
    "selftrain.alpha.rule='fixed:0.4'",
    "inference_tokens=48",
    "checkpoint.seconds=600",
)
CUT = ("training.micro_batch=4",)


def result_hashes(folder: Path) -> dict[str, str]:
    """Everything a run has found out, by file, without times."""
    found = {}
    for path in sorted(folder.glob("seed-*/**/*")):
        data = path.read_bytes() if path.is_file() else b""
        if path.name == "stage.json":
            record = json.loads(data)
            del record["seconds"], record["cpu_seconds"], record["checksum"]
            data = json.dumps(record, sort_keys=True).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def same(one: Path, other: Path) -> None:
    before, after = result_hashes(one), result_hashes(other)
    assert len(before) > 10
    assert sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k)) == []


# What the processes do. Each function gets its rank's arguments and returns what JSON can hold.


def rows(seed: int, count: int, *, ignored: float) -> list[dict[str, Any]]:
    import numpy as np

    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        length = int(rng.integers(3, 12))
        items = np.arange(1, length - 1)
        labels = rng.integers(3, size=len(items))
        labels[rng.random(len(items)) < ignored] = -100
        soft = rng.dirichlet(np.ones(3), size=len(items)).astype(np.float32)
        ids = [2, *rng.integers(5, 40, size=length - 2).tolist(), 3]
        found.append({"ids": ids, "items": items, "labels": labels, "soft": soft})
    return found


STEPS = ((3, 2), (4,), (1, 2, 1, 3), (2, 2, 2), (0,), (5, 1))
"""Sequences of each micro-batch of each step; the 0 is for one whose targets are all ignored."""
PAIRS = ((3, 2), (4,), (1, 3), (0,), (5, 1))
"""At most one micro-batch for each of two processes: sums of two do not depend on who adds them."""


def steps(shape: Sequence[Sequence[int]], kind: str) -> list[list[Any]]:
    from xlt_engine.data import pack

    made: list[list[Any]] = []
    for number, counts in enumerate(shape):
        made.append([])
        for index, count in enumerate(counts):
            examples = rows(100 * number + index, count or 2, ignored=0.3 if count else 1.0)
            targets = {"soft_targets": [r["soft"] for r in examples]} if kind == "soft" else {}
            labels = targets or {"labels": [r["labels"] for r in examples]}
            made[-1].append(pack([r["ids"] for r in examples], items=[r["items"] for r in examples], **labels))
    return made


def model_and_objective(kind: str) -> tuple[Any, Any]:
    from xlt_engine.engine.training.objectives import cross_entropy, masked_lm, soft_labels
    from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, TaskModel, VoterHeads

    drop = {"dropout": 0.1, "attention_dropout": 0.1}
    config = EncoderConfig(40, 16, 2, 2, 32, max_positions=16, **drop, initializer_range=0.3, pad_token_id=0)
    encoder = Encoder(config, seed=1)
    encoder.freeze(True, 1)
    if kind == "mlm":
        return MaskedLM(encoder, seed=3), masked_lm
    head = VoterHeads(16, 3, (12, 13, 14), 0.1, seed=2, initializer_range=0.5)
    model = TaskModel(encoder, head, "ner", ("O", "B-X", "I-X"))
    return model, soft_labels if kind == "soft" else cross_entropy


def train_here(
    kind: str, shape: Sequence[Sequence[int]], precision: str, out: str, spoilt: int | None = None, parts: int = 0
) -> Any:
    """Trains with dropout; saves the weights, and returns the trace. Several processes cut batches into `parts`."""
    from safetensors.torch import save_file

    from xlt_engine.data.batches.batch import cut
    from xlt_engine.engine import Loop, OptimizerConfig
    from xlt_engine.engine.training.distributed import joined

    model, objective = model_and_objective(kind)
    config = OptimizerConfig(lr=1e-2, warmup=0.3, clip=0.5)
    with joined("cpu", PATIENCE) as processes:

        def objective_with_overflow(model: Any, batch: Any, seed: int) -> Any:
            loss = objective(model, batch, seed)
            return loss * float("inf") if loop.step == spoilt and processes.rank == processes.size - 1 else loss

        size = parts if processes.size > 1 else 0
        batches = [[part for batch in step for part in cut(batch, size)] for step in steps(shape, kind)]
        loop = Loop(
            model, batches, objective_with_overflow, optimizer=config, seed=5, precision=precision, processes=processes
        )
        trace = loop.run()
        loop.close()
        if processes.is_rank_zero:
            save_file({n: p.detach().clone() for n, p in model.named_parameters()}, out)
        assert processes.differing(str([hash(p.detach().numpy().tobytes()) for p in model.parameters()])) == [] or (
            os.environ.get("PYTHONHASHSEED") is None
        )
        return vars(trace)


def infer_here(folder: str, tokens: int, out: str) -> Any:
    """Logits of a model over a store; returns how many batches this process computed."""
    from safetensors.torch import save_file

    from xlt_engine.data import ItemView, TokenStore
    from xlt_engine.engine.evaluation.inference import predict_logits
    from xlt_engine.engine.training.distributed import joined
    from xlt_engine.model import load_task_model

    view = ItemView(TokenStore.open(Path(folder) / "store"))
    model = load_task_model(Path(folder) / "model")
    forwards, whole = [], model.forward
    model.forward = lambda *given, **more: forwards.append(1) or whole(*given, **more)  # type: ignore[func-returns-value]
    with joined("cpu", PATIENCE) as processes:
        logits = predict_logits(model, view, tokens=tokens, processes=processes)
        some = predict_logits(model, view, __import__("numpy").array([], dtype=int), tokens=tokens, processes=processes)
        save_file({"logits": logits, "none": some}, f"{out}.{processes.rank}")
    return len(forwards)


def run_here(arguments: list[str], watch: str = "") -> Any:
    """The command line; returns the files below `watch` that this process opened for writing, made or renamed."""
    touched: list[str] = []

    def audit(event: str, given: tuple[Any, ...]) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree") or (
            event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if writes and watch in str(given[0]):
            touched.append(f"{event} {given[0]}")

    if watch:
        sys.addaudithook(audit)
    from xlt_engine.cli import main

    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
    return touched


ACTIONS = {"train": train_here, "infer": infer_here, "run": run_here}


# The helper process.


def child(action: str, arguments: dict[str, Any], out: Path, environment: dict[str, str]) -> int:
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT), number)
    try:
        Path(f"{out}.json").write_text(json.dumps(ACTIONS[action](**arguments)), "utf-8")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start(action: str, arguments: dict[str, Any], out: Path, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = child(action, arguments, out, environment)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    import torch

    import xlt_engine.engine.lab.studies.sentences
    import xlt_engine.engine.report.write
    import xlt_engine.engine.runs.runner

    assert xlt_engine.engine
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # type: ignore[assignment]
    # A first step loads what torch loads on first use; without it every process would spend its time on that.
    with tempfile.TemporaryDirectory() as folder:
        train_here("hard", PAIRS, "fp32", f"{folder}/weights")
    for line in sys.stdin:
        order = json.loads(line)
        pids = [start(order["action"], **one) for one in (dict(p, out=Path(p["out"])) for p in order["processes"])]
        left, codes, limit = dict(enumerate(pids)), {}, time.monotonic() + PATIENCE
        while left and time.monotonic() < limit:
            for rank, pid in list(left.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
                    del left[rank]
                    for other in left.values() if order["kill_after"] == rank else ():
                        os.kill(other, signal.SIGKILL)
            time.sleep(0.005)
        for pid in left.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        sys.stdout.write(json.dumps([codes.get(rank) for rank in range(len(pids))]) + "\n")
        sys.stdout.flush()


class Worlds:
    """Starts processes that meet each other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        self.helper = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(
        self,
        size: int,
        action: str,
        *,
        faults: dict[int, str] | None = None,
        of_rank: dict[int, dict[str, Any]] | None = None,
        kill_after: int | None = None,
        **arguments: Any,
    ) -> list[Ended]:
        """Runs an action in `size` processes.

        Args:
            faults: rank -> its `XLT_FAULT`.
            of_rank: rank -> arguments that differ there.
            kill_after: rank with whose end the others are killed.
        """
        self.count += 1
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        processes = []
        for rank in range(size):
            world = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
            environment = world | {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"} if size > 1 else {}
            if faults and rank in faults:
                environment["XLT_FAULT"] = faults[rank]
            given = arguments | (of_rank or {}).get(rank, {})
            out = str(self.folder / f"{self.count}-{rank}")
            processes.append({"arguments": given, "out": out, "environment": environment})
        assert self.helper.stdout is not None
        self.helper.stdin.write(json.dumps({"action": action, "processes": processes, "kill_after": kill_after}) + "\n")
        self.helper.stdin.flush()
        codes = json.loads(self.helper.stdout.readline())
        return [Ended(code, Path(str(p["out"]))) for code, p in zip(codes, processes, strict=True)]

    def all_well(self, size: int, action: str, **more: Any) -> list[Any]:
        ended = self.start(size, action, **more)
        assert [e.code for e in ended] == [0] * size, "\n".join(e.text("stderr") for e in ended)
        return [e.result for e in ended]


class Ended:
    """How a process ended; None where it had to be killed."""

    def __init__(self, code: int | None, out: Path) -> None:
        self.code, self._out = code, out

    def text(self, name: str) -> str:
        return Path(f"{self._out}.{name}").read_text("utf-8")

    @property
    def result(self) -> Any:
        return json.loads(self.text("json"))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    found = Worlds(tmp_path_factory.mktemp("worlds"))
    yield found
    assert found.helper.stdout is not None
    found.helper.stdin.close()
    found.helper.wait(PATIENCE)
    found.helper.stdout.close()


def weights(path: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


def compared(worlds: Worlds, size: int, kind: str, shape: Any, precision: str = "fp32", **more: Any) -> float:
    """Trains with one process and with several; the largest relative difference of a weight."""
    results = {}
    for count in (1, size):
        out = str(worlds.folder / f"weights-{count}")
        results[count] = (
            worlds.all_well(count, "train", kind=kind, shape=shape, precision=precision, out=out, **more),
            weights(out),
        )
    (one, *_), before = results[1]
    for trace in results[size][0]:
        assert trace["tokens"] == one["tokens"]
        assert trace["valid"] == one["valid"]
        assert trace["lr"] == one["lr"]
        assert trace["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert trace["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
        assert trace["skipped"] == one["skipped"]
    after = results[size][1]
    assert before.keys() == after.keys()
    for table in (before, after):
        # A softmax does not depend on the bias of the keys: its gradient is rounding alone, and Adam makes steps of it.
        table |= {n: t.view(3, -1)[[0, 2]] for n, t in table.items() if n.endswith("qkv_bias")}
    return max(float((after[n] - t).norm() / t.norm().clamp(min=1e-6)) for n, t in before.items())


@pytest.mark.parametrize(
    ("kind", "precision", "spoilt"),
    [
        *((kind, "fp32", None) for kind in ("mlm", "hard", "soft")),
        *(("hard", precision, None) for precision in ("bf16", "fp16")),
        ("hard", "fp16", 2),
    ],
)
def test_two_processes_equal_one_to_the_bit_where_each_has_one_part(
    worlds: Worlds, kind: str, precision: str, spoilt: int | None
) -> None:
    """With dropout, unequal parts, steps with one part or without a target, and an overflow in one process."""
    assert compared(worlds, 2, kind, PAIRS, precision, spoilt=spoilt) == 0


@pytest.mark.parametrize(("size", "kind"), [(2, "mlm"), (2, "hard"), (3, "soft")])
@pytest.mark.fault(48)
def test_more_parts_than_processes(worlds: Worlds, size: int, kind: str) -> None:
    assert compared(worlds, size, kind, STEPS) < 1e-6


@pytest.mark.parametrize(("size", "kind"), [(2, "mlm"), (2, "hard"), (3, "soft")])
def test_whole_steps_of_one_process_equal_parts_of_several(worlds: Worlds, size: int, kind: str) -> None:
    """With dropout on: the masks are those of the whole step, and five updates differ by the rounding of sums."""
    assert 0 < compared(worlds, size, kind, ((7,), (4,), (8,), (0,), (6,)), parts=3) < 1e-5


def test_a_part_that_is_left_out_is_noticed(worlds: Worlds) -> None:
    """The comparison can fail: with the last part missing, weights are others."""
    results = []
    for shape in (((3, 2), (4,)), ((3,), (4,))):
        out = str(worlds.folder / "weights")
        worlds.all_well(1, "train", kind="hard", shape=shape, precision="fp32", out=out)
        results.append(weights(out))
    assert any(not a.equal(b) for a, b in zip(results[0].values(), results[1].values(), strict=True))


@pytest.fixture(scope="module")
def alone(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recipe, and its run by one process in batches that are cut in two."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("tiny_recipe", Path(__file__).parents[1] / "conftest.py")
    conftest = module_from_spec(spec)
    spec.loader.exec_module(conftest)
    folder = tmp_path_factory.mktemp("tiny")
    conftest.write_tiny(folder)
    worlds.all_well(1, "run", arguments=command(folder, "alone", *CUT))
    return folder


def command(folder: Path, name: str, *overrides: str) -> list[str]:
    values = [part for value in (*TRAINED, "threads=1", *overrides) for part in ("--set", value)]
    return ["run", str(folder / "tiny.toml"), "--run-dir", str(folder / name), "--device", "cpu", *values]


def status(folder: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / name / "status.json").read_bytes())
    return value


@pytest.mark.parametrize(("size", "tokens"), [(2, 24), (3, 24), (2, 4096)])
def test_inference_is_shared_and_equal_to_the_bit(worlds: Worlds, alone: Path, size: int, tokens: int) -> None:
    """Also where there are fewer batches than processes, and where no example was asked for."""
    folder = worlds.folder / "inference"
    if not folder.exists():
        folder.mkdir()
        stores = [p for p in (alone / "alone" / "store").iterdir() if '"ner"' in (p / "store.json").read_text()]
        (folder / "store").symlink_to(stores[0])
        (folder / "model").symlink_to(alone / "alone" / "seed-0" / "de" / "soft1")
    (whole,) = worlds.all_well(1, "infer", folder=str(folder), tokens=tokens, out=str(folder / "one"))
    shares = worlds.all_well(size, "infer", folder=str(folder), tokens=tokens, out=str(folder / "many"))
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1
    assert (max(shares) > 1) == (tokens == 24)
    expected = weights(f"{folder / 'one'}.0")
    assert float(expected["logits"].abs().sum()) > 0
    for rank in range(size):
        found = weights(f"{folder / 'many'}.{rank}")
        assert found["logits"].equal(expected["logits"])
        assert found["none"].equal(expected["none"])


def test_run_through_torchrun_equals_one_process(alone: Path) -> None:
    """Stages, soft labels, decisions, scores and lineage to the bit; one progress, one table on the output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "xlt_engine.cli", *command(alone, "torchrun", *CUT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1
    assert done.stderr.count("seed-0/de/soft1: the teacher labels 24 target examples") == 1
    assert status(alone, "torchrun")["state"] == "done"
    scores = json.loads((alone / "alone" / "seed-0" / "de" / "hard1" / "scores.json").read_bytes())["scores"]
    assert any(0 < row["value"] < 100 for row in scores), "scores that nothing can change show nothing"
    decision = json.loads((alone / "alone" / "seed-0" / "de" / "hard1" / "decision.json").read_bytes())
    assert 0 < decision["accepted"] < decision["items"]
    same(alone / "alone", alone / "torchrun")


def test_batches_are_cut_for_the_processes_and_one_process_writes(worlds: Worlds, alone: Path) -> None:
    """Without a micro-batch in the recipe the parts are those that the run of one process was given."""
    touched = worlds.all_well(2, "run", arguments=command(alone, "cut"), watch=str(alone))
    assert touched[0]
    assert touched[1] == []
    for stage in ("pretrain", "baseline", "de/btf", "de/finetune", "de/soft1", "de/hard1"):
        for file in ("model.safetensors", "trace.json"):
            parts = [(alone / run / "seed-0" / stage / file).read_bytes() for run in ("alone", "cut")]
            assert parts[0] == parts[1], f"{stage}/{file}"
    again = worlds.start(2, "run", arguments=command(alone, "cut"))
    assert [e.code for e in again] == [0, 0]
    assert "all 6 stages are up to date" in again[0].text("stdout")
    assert again[1].text("stdout") + again[1].text("stderr") == ""


def test_results_of_one_process_are_those_of_several(worlds: Worlds, alone: Path) -> None:
    """A finished run is up to date whatever the number of processes that look at it."""
    before = result_hashes(alone / "alone")
    ended = worlds.start(2, "run", arguments=command(alone, "alone", *CUT))
    assert "up to date" in ended[0].text("stdout"), ended[0].text("stderr")
    assert result_hashes(alone / "alone") == before


MIDDLE = "loop.loss:21:{}"
"""In the second half of the fine-tuning of the baseline: after 6 steps of pre-training, in each of two processes."""


@pytest.mark.fault(43, 49)
def test_killed_process_ends_the_run_and_one_process_goes_on(worlds: Worlds, alone: Path) -> None:
    """With parts that the recipe fixes, in the same bits; two go on where the writer was killed, below."""
    name = "killed"
    arguments = command(alone, name, *CUT, "checkpoint.seconds=0")
    begun = time.monotonic()
    first, second = worlds.start(2, "run", arguments=arguments, faults={1: MIDDLE.format("kill")})
    assert time.monotonic() - begun < 60, "a death is seen long before the timeout of 300 s"
    assert (first.code, second.code) == (9, -signal.SIGKILL), first.text("stderr")
    assert "error: process 0 of 2 has lost another" in first.text("stderr")
    assert "Traceback" not in first.text("stderr")
    found = status(alone, name)
    assert (found["state"], found["exit_code"], found["resumable"]) == ("failed", 9, True)
    assert found["stage"] == "seed-0/baseline"
    assert any((alone / name / "seed-0" / "baseline" / "checkpoint").glob("step-*"))
    worlds.all_well(1, "run", arguments=arguments)
    same(alone / "alone", alone / name)
    assert status(alone, name)["state"] == "done"


@pytest.mark.fault(43)
def test_the_writer_is_killed(worlds: Worlds, alone: Path) -> None:
    """Once in a step, once while the other waits for what it writes."""
    arguments = command(alone, "headless", *CUT, "checkpoint.seconds=0")
    for fault in (MIDDLE.format("kill"), "file.written:40:kill"):
        first, second = worlds.start(2, "run", arguments=arguments, faults={0: fault})
        assert (first.code, second.code) == (-signal.SIGKILL, 9), second.text("stderr")
        assert "process 1: error: process 1 of 2 has lost another" in second.text("stderr")
    worlds.all_well(2, "run", arguments=arguments)
    same(alone / "alone", alone / "headless")


@pytest.mark.fault(44)
def test_process_that_hangs_is_lost_after_the_timeout(worlds: Worlds, alone: Path) -> None:
    arguments = command(alone, "hung", *CUT, "peer_timeout=5")
    first, second = worlds.start(2, "run", arguments=arguments, faults={1: MIDDLE.format("sleep")}, kill_after=0)
    assert (first.code, second.code) == (9, -signal.SIGKILL)
    assert "5 s" in first.text("stderr")
    assert "Timeout (0:00:04" in second.text("stderr")
    assert "faults.py" in second.text("stderr"), "the place where it hangs"
    assert status(alone, "hung")["resumable"]


ENDS = {
    "raised": ({1: MIDDLE.format("raise")}, (), (9, 1), "process 1: RuntimeError: fault at loop.loss"),
    "nan": ({1: MIDDLE.format("nan")}, (), (7, 7), "seed-0/baseline: step"),
    # A full disk in a step, which the other finds gone; and while the other waits for the file.
    "full": ({0: "checkpoint.begin:2:enospc"}, ("checkpoint.seconds=0",), (5, None), "error: "),
    "full, waited for": ({0: "publish.synced:1:enospc"}, (), (5, 5), "error: "),
}
"""What is planted in which process, settings, both ends (None: any), and what process 0 says."""


@pytest.mark.parametrize("case", ENDS)
def test_error_of_one_process_is_told_once_and_ends_all(worlds: Worlds, alone: Path, case: str) -> None:
    faults, options, (code, other), says = ENDS[case]
    first, second = worlds.start(2, "run", arguments=command(alone, case, *CUT, *options), faults=faults)
    assert (first.code, second.code) == (code, second.code if other is None else other), second.text("stderr")
    found = status(alone, case)
    assert found["exit_code"] == code
    assert says in first.text("stderr")
    assert first.text("stderr").count("error: ") == 1
    if code == other:
        assert second.text("stderr") == ""
    if case == "raised":
        assert says in found["reason"]


@pytest.mark.fault(45)
def test_signal_to_one_process_stops_all_after_the_same_step(worlds: Worlds, alone: Path) -> None:
    for rank in (0, 1):
        name = f"signalled-{rank}"
        arguments = command(alone, name, *CUT)
        ended = worlds.start(2, "run", arguments=arguments, faults={rank: MIDDLE.format("term")})
        assert [e.code for e in ended] == [143, 143], ended[0].text("stderr")
        found = status(alone, name)
        assert (found["state"], found["exit_code"], found["resumable"]) == ("stopped", 143, True)
        assert len(list((alone / name / "seed-0" / "baseline" / "checkpoint").glob("step-*"))) == 1
        assert ended[1].text("stderr") == ""
    worlds.all_well(2, "run", arguments=arguments)
    same(alone / "alone", alone / name)


def test_other_number_of_processes_in_the_middle_of_a_stage_is_noted(worlds: Worlds, alone: Path) -> None:
    arguments = command(alone, "noted", "checkpoint.seconds=0")
    worlds.start(2, "run", arguments=arguments, faults={1: MIDDLE.format("kill")})
    ended = worlds.start(1, "run", arguments=arguments)
    assert ended[0].code == 0
    assert "seed-0/baseline: begun in parts of 4 sequences, goes on in whole batches" in ended[0].text("stderr")


@pytest.mark.fault(47)
def test_processes_with_other_settings_or_files_are_turned_away(worlds: Worlds, alone: Path) -> None:
    other = command(alone, "unlike", *CUT, "finetune.lr=0.5")
    ended = worlds.start(2, "run", arguments=command(alone, "unlike", *CUT), of_rank={1: {"arguments": other}})
    assert [e.code for e in ended] == [2, 2], ended[0].text("stderr")
    assert "process 1 has other recipe or its paths than process 0" in ended[0].text("stderr")


def test_a_folder_that_is_in_use_turns_all_away(worlds: Worlds, alone: Path) -> None:
    from xlt_engine.engine.storage.run_folder import RunDir

    with RunDir(alone / "held"):
        ended = worlds.start(2, "run", arguments=command(alone, "held", *CUT))
    assert [e.code for e in ended] == [6, 6]
    assert "is in use by process" in ended[0].text("stderr")
    assert ended[1].text("stderr") == ""


def test_dry_run_is_printed_once(worlds: Worlds, alone: Path) -> None:
    ended = worlds.start(2, "run", arguments=[*command(alone, "dry"), "--dry-run"])
    assert [e.code for e in ended] == [0, 0]
    assert "pretrain" in ended[0].text("stdout")
    assert ended[1].text("stdout") == ""


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": ""}, "MASTER_"),
    ],
)
def test_half_an_environment_is_an_error(environment: dict[str, str], text: str, monkeypatch: Any) -> None:
    from xlt_engine import ConfigError
    from xlt_engine.engine.training.distributed import joined

    for name, value in environment.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=text), joined("cpu", 1):
        pass


def test_one_process_is_a_world() -> None:
    from xlt_engine.engine.training.distributed import ProcessGroup

    processes = ProcessGroup()
    called: list[int] = []
    assert (processes.is_rank_zero, list(processes.share(3)), processes.all_reduce_max(7, 2)) == (
        True,
        [0, 1, 2],
        [7, 2],
    )
    assert processes.rank_zero_only(lambda: called.append(1)) is None
    assert processes.rank_zero_first(lambda: "found") == "found"
    assert processes.differing("x") == []
    assert called == [1]
    assert (processes.micro_batch(0, 32), processes.micro_batch(5, 32)) == (0, 5)


@pytest.mark.parametrize(
    ("size", "batch", "wanted", "cut"), [(2, 8, 0, 4), (3, 32, 0, 11), (64, 32, 0, 1), (2, 8, 8, 8)]
)
def test_parts_of_a_batch(size: int, batch: int, wanted: int, cut: int) -> None:
    from xlt_engine.engine.training.distributed import ProcessGroup

    processes = ProcessGroup(rank=1, size=size)
    assert processes.micro_batch(wanted, batch) == cut
    shares = [list(ProcessGroup(rank, size).share(7)) for rank in range(size)]
    assert sorted(n for share in shares for n in share) == list(range(7))


@pytest.mark.gpu
def test_processes_on_gpus_equal_one(tmp_path: Path, tiny: Any) -> None:
    """NCCL, one process a device: scores as with one process."""
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, there are {torch.cuda.device_count()}")
    run = tiny("ner")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    values = [part for value in (*TRAINED, *CUT) for part in ("--set", value)]
    given = ["-m", "xlt_engine.cli", "run", str(run.recipe), "--device", "cuda", *values, "--run-dir"]
    for launcher, name in (([sys.executable], "one"), (torchrun, "two")):
        subprocess.run([*launcher, *given, str(tmp_path / name)], check=True, timeout=PATIENCE)
    traces = [
        json.loads((tmp_path / name / "seed-0" / "baseline" / "trace.json").read_bytes()) for name in ("one", "two")
    ]
    assert traces[1]["valid"] == traces[0]["valid"]
    assert traces[1]["loss"] == pytest.approx(traces[0]["loss"], rel=1e-4)


if __name__ == "__main__":
    serve()
