"""Waterbirds: two kinds of birds, land or water behind them as sensitive groups (FairLoRA, tables 2 and 3)."""

from search_spaces import fairlora_paper

SPACES = fairlora_paper.spaces(
    "waterbirds", "Waterbirds: 2 classes, 2 grounds", epochs=(5, 10, 20), fixed={"batch_size": 64}
)
