"""The optimizer: AdamW and its schedule, and what happens to a step's gradients. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ... import ModelError
from ...kernels import adamw_step, gradient_norm
from ..storage.text import some
from .config import OptimizerConfig
from .precision import LossScaler, MasterWeights

SKIPS_IN_A_ROW = 50
"""Overflows in a row after which fp16 training has failed: the scale is then far below one."""
SCALER, MOMENTS = "scaler.", "optimiser."


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, device: torch.device
) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that train; biases and LayerNorms have no weight decay, as in BERT.

    Parameters below `head` get `head_lr`. Each group carries its peak rate under "peak". On a GPU rates are tensors
    there, so that a captured step can be replayed at another rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            peak = config.head_lr if config.head_lr is not None and name.startswith("head.") else config.lr
            decay = 0.0 if name.endswith("bias") or "norm" in name else config.weight_decay
            groups.setdefault((peak, decay), []).append(parameter)
    on_gpu = device.type == "cuda"
    param_groups = [
        {
            "params": members,
            "lr": torch.full((), peak, device=device) if on_gpu else peak,
            "peak": peak,
            "weight_decay": decay,
        }
        for (peak, decay), members in groups.items()
    ]
    return torch.optim.AdamW(
        param_groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True, capturable=on_gpu
    )


def lr_factor(step: int, total: int, warmup: float, decay: float) -> float:
    """Share of the peak rate at `step` (from 0) of `total`: linear warm-up, a constant middle, linear decay to zero.

    With a middle (arXiv 2404.06395, section 4) training can go on from any step of it, and be finished from there. The
    first step already moves (factor 1 / warm-up steps), the last one still does.

    Args:
        warmup: share of all steps.
        decay: share of the steps after warm-up; 1 leaves no middle.
    """
    warm = max(1, round(total * warmup)) if warmup > 0 else 0
    if step < warm:
        return (step + 1) / warm
    falling = max(1, (total - warm) * decay)
    return 1.0 if decay == 0 else min(1.0, (total - step) / falling)


class OptimizerStep:
    """AdamW over the fp32 weights and their 16-bit copies, with loss scaling in fp16.

    A step whose loss or gradient is not finite is skipped: it changes no weight. In fp16 that is an overflow, and the
    scale is lowered; otherwise all later steps are skipped too, so that the weights stay those before the fault until
    the host has seen it.
    """

    def __init__(self, weights: MasterWeights, config: OptimizerConfig, device: torch.device, precision: str) -> None:
        self._weights, self._trainable, self._config = weights, weights.trainable, config
        self.optimizer = make_optimizer(weights.trainable, config, device)
        self.scaler = LossScaler(device) if precision == "fp16" else None
        self._skipped = torch.zeros((), dtype=torch.float32, device=device)

    def set_lr(self, step: int, total: int) -> float:
        """The learning rate of a step, into the optimizer; returns that of the first group."""
        factor = lr_factor(step, total, self._config.warmup, self._config.decay)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["peak"] * factor)
            else:
                group["lr"] = group["peak"] * factor
        return float(self.optimizer.param_groups[0]["peak"]) * factor

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        return loss if self.scaler is None else loss * self.scaler.scale

    def apply(self, loss: Tensor) -> Tensor:
        """Unscales, checks, clips and applies the gradients of the weights, and rounds these into their copies.

        Args:
            loss: the step's mean loss, a scalar on the device.

        Returns:
            fp32 [4] on the device: loss, gradient norm before clipping, whether the step was skipped (1 or 0), and
            how many were in a row.
        """
        gradients = self._weights.gradients()
        scale = None if self.scaler is None else self.scaler.inverse()
        norm = gradient_norm(list(gradients.values())).to(self._skipped.device)
        norm = norm if scale is None else norm * scale
        skipped = (~(norm.isfinite() & loss.isfinite())).float()
        if self.scaler is not None:
            self.scaler.update(skipped)
            in_a_row = self.scaler.skipped_in_a_row.float()
        else:
            in_a_row = skipped = self._skipped.copy_(torch.maximum(skipped, self._skipped))
        if self._config.clip > 0:
            # A skipped step's gradients stay what they are: on a CPU, which clears none ahead, the first bad one is
            # named in the error.
            harmless = torch.where(skipped > 0, self._config.clip, norm)
            clipping = (self._config.clip / (harmless + 1e-6)).clamp(max=1.0)
            scale = clipping if scale is None else clipping * scale
        self._update(gradients, scale, skipped)
        return torch.stack([loss.float(), norm.float(), skipped, in_a_row])

    def _update(self, gradients: Mapping[nn.Parameter, Tensor], scale: Tensor | None, skipped: Tensor) -> None:
        groups = [(p, group) for group in self.optimizer.param_groups for p in group["params"] if p in gradients]
        states = [self._state(parameter) for parameter, _ in groups]
        adamw_step(
            [p for p, _ in groups],
            [gradients[p] for p, _ in groups],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["step"] for state in states],
            [self._weights.copies.get(p) for p, _ in groups],
            [group["lr"] for _, group in groups],
            [group["weight_decay"] for _, group in groups],
            betas=(self._config.beta1, self._config.beta2),
            eps=self._config.eps,
            scale=scale,
            skip=skipped,
        )

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The moments of a weight, made when it has its first gradient."""
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state

    def failure(self, loss: float, norm: float) -> str:
        """What is wrong with a step that was skipped, whose gradients are still there."""
        names = {parameter: name for name, parameter in self._trainable.items()}
        bad = [names[p] for p, gradient in self._weights.gradients().items() if not gradient.isfinite().all()]
        reason = f"loss {loss}, gradient norm {norm}" + (f"; first bad gradient: {bad[0]}" if bad else "")
        if self.scaler is not None:
            reason += f", the {SKIPS_IN_A_ROW}th overflow of fp16 in a row; bf16 has more range"
        return reason

    def state(self) -> dict[str, Tensor]:
        """Moments by parameter name, and the loss scale; a weight that has not had a step yet is at step 0."""
        tensors = {}
        for name, parameter in self._trainable.items():
            for key, value in (self.optimizer.state.get(parameter) or {"step": torch.zeros(())}).items():
                tensors[f"{MOMENTS}{name}.{key}"] = value.detach()
        if self.scaler is not None:
            tensors |= {SCALER + name: tensor for name, tensor in self.scaler.state().items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave; other entries of `tensors` are left alone.

        Raises:
            ModelError: it does not fit the weights; nothing was taken over.
        """
        stored = {name.removeprefix(MOMENTS): t for name, t in tensors.items() if name.startswith(MOMENTS)}
        states, problems = dict[nn.Parameter, dict[str, Tensor]](), list[str]()
        for name, parameter in self._trainable.items():
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in stored]
            found = states[parameter] = {key: stored.pop(f"{name}.{key}") for key in keys}
            moments = [t for key, t in found.items() if key != "step"]
            # A first step that overflowed makes moments, too.
            whole = "step" in found and len(moments) == (2 if moments or found["step"].item() > 0 else 0)
            if not whole or any(t.shape != parameter.shape or t.dtype != parameter.dtype for t in moments):
                problems.append(name)
        if problems := [*problems, *stored]:
            raise ModelError(
                f"the optimiser state does not fit the model: {some(problems, 20)}; start this stage afresh"
            )
        for parameter, state in states.items():
            self.optimizer.state.pop(parameter, None)
            if len(state) > 1:
                self.optimizer.state[parameter] = {k: t.to(parameter.device, copy=True) for k, t in state.items()}
        if self.scaler is not None:
            self.scaler.load({n.removeprefix(SCALER): t for n, t in tensors.items() if n.startswith(SCALER)})
