"""Losses, learning rates and scores of a run to MLflow, with the lines of the console:

cd examples && xlt-engine run demo --progress mlflow_progress:MlflowProgress
"""

from xlt_engine.engine import ConsoleProgress


class MlflowProgress(ConsoleProgress):
    def __init__(self):
        import mlflow

        super().__init__()
        mlflow.set_experiment("xlt-engine")
        mlflow.end_run()  # the one before, where a recipe makes several
        mlflow.start_run()
        self.log_metric = mlflow.log_metric

    def turn_to(self, stage):
        super().turn_to(stage)
        self.stage = stage

    def step(self, done, total, loss, tokens, lr):
        super().step(done, total, loss, tokens, lr)
        self.log_metric(f"{self.stage}/loss", loss, step=done)
        self.log_metric(f"{self.stage}/lr", lr, step=done)

    def scored(self, stage, scores):
        for score in scores:
            self.log_metric(f"{stage}/{score['language']}/{score['metric']}", score["value"])
