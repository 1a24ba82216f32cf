"""AdamW: which parameters have which learning rate and weight decay, and its state in a checkpoint.

On a GPU each learning rate is a tensor there: a recorded step (``cuda_graph.py``) reads it anew each time.
"""

from typing import Any

import torch
from torch import Tensor

from trainables.config import TrainConfig
from trainables.models.weights import Transformer


def adamw(model: Transformer, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """The optimiser of what is trained in ``model``, which lies on ``device``."""
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True, capturable=on_gpu)
    _move_learning_rates(optimizer)
    return optimizer


def parameter_groups(model: Transformer, config: TrainConfig) -> list[dict[str, Any]]:
    """Body and head with their own peak learning rates; weight decay on matrices alone."""
    exempt: set[str] = model.no_weight_decay()  # timm's: tokens, position embeddings, a Swin's position bias
    groups = []
    for is_head, peak in ((False, config.lr), (True, config.head_lr or config.lr)):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and n.startswith("head.") == is_head]
        for decays in (True, False):
            chosen = [p for n, p in named if (p.ndim > 1 and n not in exempt) == decays]
            if chosen:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay})
    return groups


def set_learning_rates(optimizer: torch.optim.AdamW, share: float) -> None:
    """``share`` of the peak learning rates, for the next step."""
    for parameters in optimizer.param_groups:
        if parameters["capturable"]:
            parameters["lr"].fill_(parameters["peak"] * share)
        else:
            parameters["lr"] = parameters["peak"] * share


def _move_learning_rates(optimizer: torch.optim.AdamW) -> None:
    """To where the parameters lie, whatever device the state comes from."""
    for parameters in optimizer.param_groups:
        device = parameters["params"][0].device
        parameters["capturable"] = device.type == "cuda"
        if parameters["capturable"]:
            parameters["lr"] = torch.zeros((), device=device)


def optimizer_state(optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """The optimiser's state, copies on the CPU that fit any device."""
    state: dict[str, Any] = _copied(optimizer.state_dict())
    for parameters in state["param_groups"]:
        parameters["lr"], parameters["capturable"] = float(parameters["lr"]), False
    return state


def restore_optimizer(optimizer: torch.optim.AdamW, state: dict[str, Any]) -> None:
    """Go on from an earlier ``optimizer_state``; before the first step."""
    optimizer.load_state_dict(_copied(state))  # it would train in the caller's tensors
    _move_learning_rates(optimizer)


def _copied(state: Any) -> Any:
    """Nested dicts and lists with copies of their tensors, on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state
