"""A kind of stage and a rule for alpha of your own, from the command line:

    python examples/new_stage.py run demo --set selftrain.alpha.rule='"half-way"'

The stage goes on with the last student of each target and learns the labelled source once more, against forgetting.
A package brings the same by an entry point of the group `xlt_engine.plugins` that names `register`.
"""

import numpy as np

from xlt_engine import cli
from xlt_engine.data import ItemView, Part, TaskBatches
from xlt_engine.engine.plan import Stage
from xlt_engine.engine.pseudolabels.thresholds import register_rule
from xlt_engine.engine.stages.finetune import labelled_examples
from xlt_engine.engine.stages.kind import StageKind, Training, register_kind, register_planner
from xlt_engine.engine.training.objectives import cross_entropy


class Replay(StageKind):
    name = "replay"

    def inputs(self, context, stage):
        return {"source": context.data.source_train}

    def build(self, run):
        model, store = run.context.load_task_model(run.stage, "student"), run.context.data.source_train
        return Training(model, self.batches(run), cross_entropy, {"examples": len(labelled_examples(store))})

    def batches(self, run):
        store, table = run.context.data.source_train, run.stage.training
        part = Part(ItemView(store), labelled_examples(store), labels=np.asarray(store.item_labels))
        return TaskBatches([part], batch_size=table.batch_size, epochs=1, seed=run.seed("batches"))


def plan(config, seed, stages):
    last = {stage.pair: stage for stage in stages if stage.kind == "hard"}
    return [
        Stage(f"{s.id}-replay", "replay", f"{s.name}-replay", s.arm, seed, s.training, s.targets,
              inputs={"student": s.id}, order=s.order + 1)
        for s in last.values()
    ]  # fmt: skip


def register():
    register_kind(Replay())
    register_planner(plan)
    register_rule("half-way", lambda curve, usable: -abs(curve.coverage - curve.coverage[usable].mean()))


if __name__ == "__main__":
    register()
    cli.main()
