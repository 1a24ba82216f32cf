"""AdamW: which parameters have which learning rate and weight decay, and its state in a checkpoint.

On a GPU each learning rate is a tensor there: a recorded step (``cuda_graph.py``) reads it anew each time.
"""

import copy
from typing import Any

import torch

from trainables.config import TrainConfig
from trainables.models.weights import Transformer


def adamw(model: Transformer, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """The optimiser of what is trained in ``model``, which lies on ``device``."""
    optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True, capturable=device.type == "cuda")
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
    state = optimizer.state_dict()
    copies = {i: {k: v.to("cpu", copy=True) for k, v in values.items()} for i, values in state["state"].items()}
    groups = [{**values, "lr": float(values["lr"]), "capturable": False} for values in state["param_groups"]]
    return {"state": copies, "param_groups": groups}


def restore_optimizer(optimizer: torch.optim.AdamW, state: dict[str, Any]) -> None:
    """Go on from an earlier ``optimizer_state``; before the first step."""
    optimizer.load_state_dict(copy.deepcopy(state))  # it would train in the caller's tensors
    _move_learning_rates(optimizer)
