"""The moments of AdamW, by parameter name: into tensors for a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ... import ModelError


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The state of AdamW under `optimiser.<parameter name>.<exp_avg, exp_avg_sq or step>`.

    torch numbers parameters by position, and would take swapped ones without a word. A parameter that has not had a
    step yet is stored as step 0.
    """
    result: dict[str, Tensor] = {}
    for name, parameter in _named_parameters(optimizer, named_parameters):
        state = optimizer.state.get(parameter) or {"step": torch.zeros(())}
        for key, value in state.items():
            result[f"optimiser.{name}.{key}"] = value.detach()
    return result


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave; other entries of `tensors` are left alone.

    Raises:
        ModelError: names, shapes or dtypes differ; lists them, and the optimiser is unchanged.
    """
    parameters = _named_parameters(optimizer, named_parameters)
    stored = {name: tensor for name, tensor in tensors.items() if name.startswith("optimiser.")}
    states: list[tuple[nn.Parameter, dict[str, Tensor]]] = []
    problems: list[str] = []
    for name, parameter in parameters:
        state: dict[str, Tensor] = {}
        step = stored.pop(f"optimiser.{name}.step", None)
        if step is None:
            problems.append(f"optimiser.{name}.step is missing")
        elif step.item() > 0:
            state["step"] = step.clone()
            for key in ("exp_avg", "exp_avg_sq"):
                value = stored.pop(f"optimiser.{name}.{key}", None)
                problems += _mismatch(f"optimiser.{name}.{key}", value, parameter)
                if value is not None:
                    state[key] = value.to(parameter.device, copy=True)
        states.append((parameter, state))
    problems += [f"{name} belongs to no parameter that trains" for name in stored]
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ModelError(f"the optimiser state does not fit the model: {shown}; start this stage afresh")
    for parameter, state in states:
        optimizer.state.pop(parameter, None)
        if state:
            state["step"] = state["step"].to(_step_device(optimizer, parameter))
            optimizer.state[parameter] = state


def _named_parameters(
    optimizer: torch.optim.Optimizer, named_parameters: Mapping[str, nn.Parameter]
) -> list[tuple[str, nn.Parameter]]:
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named = [(name, parameter) for name, parameter in named_parameters.items() if id(parameter) in trained]
    assert len(named) == len(trained), "every parameter of the optimiser needs exactly one name"
    return named


def _mismatch(name: str, value: Tensor | None, parameter: nn.Parameter) -> list[str]:
    if value is None:
        return [f"{name} is missing"]
    if value.shape == parameter.shape and value.dtype == parameter.dtype:
        return []
    have, want = f"{value.dtype} {list(value.shape)}", f"{parameter.dtype} {list(parameter.shape)}"
    return [f"{name} is {have}, the model has {want}"]


def _step_device(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.device:
    """Fused and capturable AdamW keep their step counter beside the parameter, the others in main memory."""
    for group in optimizer.param_groups:
        if any(parameter is other for other in group["params"]) and (group.get("fused") or group.get("capturable")):
            return parameter.device
    return torch.device("cpu")
