"""Transformers in several ways, to compare with. Imported by name at run time; an absent one raises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from kernel_rivals import liger_loss
from torch import Tensor, nn
from torch.nn import functional

from xlt_engine.model import EncoderConfig

from .peer import VOTERS, Peer, Student, encoder_of, layers_of
from .work import CLASSES, PAD, TASKS, Row, Step, frozen_layers


class Eager(Peer):
    """BERT or ModernBERT as transformers has it, with its eager attention and torch's plain AdamW."""

    name = "transformers, eager"
    attention = "eager"

    def build(self) -> nn.Module:
        library: Any = import_module("transformers")
        values = {k: v for k, v in self.config.to_hf().items() if k not in ("model_type", "position_embedding_type")}
        classes = self.config.layout.classes
        config = getattr(library, f"{classes}Config")(**values, num_labels=CLASSES)
        config.sparse_prediction = self.fused  # ModernBERT's own: logits of masked rows alone
        kind = getattr(library, f"{classes}{'ForMaskedLM' if self.task == 'btf' else 'ForTokenClassification'}")
        model: Any = kind(config)
        encoder = model.base_model
        encoder.set_attn_implementation(self.attention)
        if TASKS[self.task].trains:
            encoder.embeddings.requires_grad_(False)
            layers_of(encoder)[: frozen_layers(self.config)].requires_grad_(False)
        found: nn.Module = Student(encoder, self.config) if self.task in VOTERS else model
        return found


class Tuned(Eager):
    """The same with scaled-dot-product attention and fused AdamW."""

    name = "transformers, SDPA, fused AdamW"
    attention = "sdpa"
    fused = True


class Compiled(Tuned):
    """That through torch.compile."""

    name = f"{Tuned.name}, torch.compile"
    compiled = True


class WithLiger(Tuned):
    """The tuned one with Liger's fused loss over the masked rows alone, which are gathered outside the clock.

    Liger's kernels are for GPUs, where the encoder is compiled, too.
    """

    name = f"{Tuned.name}, Liger's loss"
    tasks = ("btf",)  # it is a loss over a vocabulary

    def __init__(self, task: str, config: EncoderConfig, device: torch.device, precision: str = "fp32") -> None:
        self.fused_loss = liger_loss(None)
        self.compiled = device.type == "cuda"
        super().__init__(task, config, device, precision)

    def compile(self, model: nn.Module) -> Callable[..., Any]:
        encoder: Any = encoder_of(model)
        compiled: Callable[..., Any] = torch.compile(encoder, dynamic=True)
        return compiled

    def batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        found = super().batch(rows)
        labels = found.pop("labels").flatten()
        where = (labels >= 0).nonzero().squeeze(1)
        return found | {"rows": where, "targets": labels[where]}

    def loss(self, batch: dict[str, Any]) -> Tensor:
        model: Any = self.model
        run = self.run if self.compiled else encoder_of(model)
        hidden = run(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        bert, targets = hasattr(model, "cls"), batch["targets"]
        transform, decoder = (
            (model.cls.predictions.transform, model.cls.predictions.decoder) if bert else (model.head, model.decoder)
        )
        taken = transform(hidden.flatten(0, 1).index_select(0, batch["rows"]))
        weight, bias = decoder.weight.to(taken.dtype), decoder.bias.to(taken.dtype)
        return self.fused_loss(taken, weight, bias, targets) / len(targets)


class OnnxRuntime(Eager):
    """The graph of transformers' model in onnxruntime: fp32 on the CPU, with as many threads as torch."""

    name = "transformers, onnxruntime"
    attention = "sdpa"
    tasks = ("teacher",)

    def __init__(self, task: str, config: EncoderConfig, device: torch.device, precision: str = "fp32") -> None:
        if (device.type, precision) != ("cpu", "fp32"):
            raise NotImplementedError("compared on a CPU in fp32 alone")
        super().__init__(task, config, device, precision)
        self._session: Any = None

    def load(self, steps: Sequence[Step]) -> None:
        super().load(steps)
        batch = self._loaded[0][0]
        self._session = self._session or self._exported(batch)
        with torch.inference_mode():
            expected = self.model(**batch)["logits"]
        difference = float((torch.from_numpy(self.logits(batch)) - expected).norm() / expected.norm())
        if not difference <= 1e-4:
            raise RuntimeError(f"the graph and the model differ by {difference:.1e}")

    def step(self, index: int) -> None:
        for batch in self._loaded[index]:
            self.logits(batch)

    def logits(self, batch: dict[str, Any]) -> np.ndarray:
        """The graph's output, [S, L, C]."""
        found: np.ndarray = self._session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]
        return found

    def _exported(self, batch: dict[str, Any]) -> Any:
        options = import_module("onnxruntime").SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=self.config.max_positions)}
        with TemporaryDirectory() as folder, torch.no_grad():
            torch.onnx.export(
                _Logits(self.model),
                tuple(batch.values()),
                path := Path(folder, "model.onnx"),
                input_names=list(batch),
                output_names=["logits"],
                dynamic_shapes=(axes,) * len(batch),
                dynamo=True,
                verbose=False,
            )
            return import_module("onnxruntime").InferenceSession(path, options, providers=["CPUExecutionProvider"])


class _Logits(nn.Module):
    """A tagger of transformers whose one output is its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class ModernBert(Peer):
    """ModernBERT of the same width, depth, vocabulary and number of operations; beside a BERT its maths is another.

    Its feed-forward part has three matrices, so that two thirds of BERT's inner size cost the same. The masked-LM loss
    is computed for masked rows alone.
    """

    name = "ModernBERT, SDPA, padded"
    attention = "sdpa"
    fused = True

    def build(self) -> nn.Module:
        library: Any = import_module("transformers")
        config = library.ModernBertConfig(
            vocab_size=self.config.vocab_size,
            hidden_size=self.config.hidden_size,
            num_hidden_layers=self.config.num_layers,
            num_attention_heads=self.config.num_heads,
            intermediate_size=self.config.intermediate_size * (2 if self.config.pre_norm is None else 3) // 3,
            max_position_embeddings=self.config.max_positions,
            attention_dropout=self.config.attention_dropout,
            embedding_dropout=self.config.dropout,
            mlp_dropout=self.config.dropout,
            num_labels=CLASSES,
            sparse_prediction=True,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=None,
            cls_token_id=None,
            sep_token_id=None,
            attn_implementation=self.attention,
        )
        kind = library.ModernBertForMaskedLM if self.task == "btf" else library.ModernBertForTokenClassification
        model: Any = kind(config)
        if TASKS[self.task].trains:
            model.model.embeddings.requires_grad_(False)
            model.model.layers[: frozen_layers(self.config)].requires_grad_(False)
        found: nn.Module = Student(model.model, self.config) if self.task in VOTERS else model
        return found


class Unpadded(ModernBert):
    """The same on packed batches, which transformers computes with the library flash-attn alone."""

    name = "ModernBERT, unpadded"
    attention = "flash_attention_2"

    def batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        padded = super().batch(rows)
        inside = padded.pop("attention_mask").bool()
        sizes = torch.tensor([row.length for row in rows])
        starts = functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
        found: dict[str, Any] = {name: value[inside].unsqueeze(0) for name, value in padded.items()}
        found["position_ids"] = torch.cat([torch.arange(row.length) for row in rows]).unsqueeze(0)
        longest = int(sizes.max())
        return found | {
            "cu_seq_lens_q": starts,
            "cu_seq_lens_k": starts,
            "max_length_q": longest,
            "max_length_k": longest,
        }


class PackedEncoders(ModernBert):
    """The same through `packed-encoders` (GPUs alone): its kernels and its packing in the place of the encoder's."""

    name = "ModernBERT, packed-encoders"

    def build(self) -> nn.Module:
        library: Any = import_module("packed_encoders")
        model = super().build()
        if not TASKS[self.task].trains and self.precision == "bf16":
            model.to(torch.bfloat16)  # as it wants inference; training is fp32 under autocast
        library.pack(encoder_of(model))
        return model


PEERS: dict[str, tuple[type[Peer], ...]] = {
    "eager": (Eager,),
    "tuned": (Tuned,),
    "compiled": (Compiled,),
    "onnx": (OnnxRuntime,),
    "liger": (WithLiger,),
    "modernbert": (Unpadded, ModernBert),
    "packed": (PackedEncoders,),
}
"""By the names of `--peer`; of several the first that works."""
