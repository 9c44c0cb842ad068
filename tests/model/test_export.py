"""`torch.export` and `torch.onnx.export` of task models: graphs for batches of any shape, with equal logits."""

from dataclasses import replace

import pytest
import torch

from xlt_engine.model import Encoder, LinearHead, TaskModel, VoterHeads

onnxruntime = pytest.importorskip("onnxruntime")
AXES = [torch.export.Dim("tokens", min=2), torch.export.Dim("starts", min=2), torch.export.Dim("items")]
FIELDS = {"token_ids": 0, "positions": 0, "segments": 0, "cu_seqlens": 1, "item_index": 2}


class FromTensors(torch.nn.Module):
    """A task model as exporters take one: its batch is a tensor for each argument."""

    def __init__(self, model, batch):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, *tensors):
        return self.model(replace(self.batch, **dict(zip(FIELDS, tensors, strict=True))))


def tensors(batch):
    return tuple(getattr(batch, name) for name in FIELDS)


@pytest.fixture
def batches(sequences, packed):
    """One to export with, and others of other shapes."""
    seqs = sequences((5, 9, 3, 14), 97)
    parts = ((seqs[:3], [1, 2, 6, 15]), (seqs[3:], [4]), ([*seqs[::-1], seqs[1]], [0, 13, 14, 20, 39]))
    return [packed(part, items=items) for part, items in parts]


@pytest.fixture(params=["tagger", "mean"])
def model(request, tiny):
    encoder = Encoder(replace(tiny, initializer_range=0.3), seed=1)
    if request.param == "tagger":
        return TaskModel(encoder, VoterHeads(32, 3, seed=2, initializer_range=0.3), "ner", ("O", "B-X", "I-X"))
    return TaskModel(encoder, LinearHead(32, 2, seed=2), "classification", ("a", "b"), pooling="mean")


@pytest.mark.filterwarnings("ignore")
def test_a_graph_has_the_logits_of_the_model(model, batches, error, tmp_path):
    first = batches[0]
    axes = (tuple({0: AXES[axis]} for axis in FIELDS.values()),)
    program = torch.export.export(FromTensors(model, first).eval(), tensors(first), dynamic_shapes=axes)
    torch.onnx.export(program, (), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for batch in batches:
        values = tensors(batch)
        assert error(program.module()(*values), model(batch)) <= 1e-5
        (logits,) = session.run(None, {n: t.numpy() for n, t in zip(names, values, strict=True)})
        assert error(torch.from_numpy(logits), model(batch)) <= 1e-5
