"""Losses, learning rates and scores of a run to Weights & Biases, with the lines of the console:

cd examples && xlt-engine run demo --progress wandb_progress:WandbProgress
"""

from xlt_engine.engine import ConsoleProgress


class WandbProgress(ConsoleProgress):
    def __init__(self):
        import wandb

        super().__init__()
        wandb.finish()  # of the run before, where a recipe makes several
        self.run = wandb.init(project="xlt-engine")

    def begin(self, stage, total, done):
        super().begin(stage, total, done)
        self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")  # every stage counts from 1

    def turn_to(self, stage):
        super().turn_to(stage)
        self.stage = stage

    def step(self, done, total, loss, tokens, lr):
        super().step(done, total, loss, tokens, lr)
        self.run.log({f"{self.stage}/{name}": value for name, value in (("step", done), ("loss", loss), ("lr", lr))})

    def scored(self, stage, scores):
        self.run.summary.update({f"{stage}/{s['language']}/{s['metric']}": s["value"] for s in scores})
