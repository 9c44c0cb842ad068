"""Training on texts that are longer than `max_length`: all of each, in windows."""

from typing import Any

from xlt_engine.engine.preflight.cost import Estimate, estimate

SHORT = ("max_length=8", "selftrain.rounds=1", 'selftrain.soft.positions="all"', "arms.baseline=false")
WINDOWS = (*SHORT, "long_texts=windows")


def test_every_stage_learns_what_lies_beyond_the_maximum_length(tiny: Any) -> None:
    """No word is unseen, in as many steps as the forecast says, which are more than where texts are cut."""
    run = tiny("ner")

    def steps(forecast: Estimate) -> dict[str, int]:
        return {stage.id: stage.steps for stage in forecast.stages if stage.kind != "hard"}

    done = run.run(*WINDOWS)
    planned, cut = (steps(estimate(run.recipe, overrides=options, rate=1e9)) for options in (WINDOWS, SHORT))
    assert planned == {name: len(run.json(f"{name.partition('/')[2]}/trace.json")["loss"]) for name in planned}
    assert all(planned[name] > cut[name] for name in planned)
    words = [line.split() for line in set((run.folder / "de.txt").read_text("utf-8").splitlines())]
    assert run.json("de/hard1/decision.json")["items"] == sum(map(len, words))
    assert "cut-by-maximum-length" not in str(done.summary["warnings"])
