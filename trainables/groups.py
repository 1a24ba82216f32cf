"""The penalty's groups: which group a sample belongs to, and how many there are."""

from torch import Tensor


def group_index(kind: str, label: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """The penalty's group of each sample, int64 ``[n]``; ``kind`` is one of ``config.GROUPS``."""
    return {"class": label, "sensitive": group, "class_x_sensitive": label * n_groups + group}[kind]


def group_count(kind: str, n_classes: int, n_groups: int) -> int:
    """How many penalty groups ``kind`` makes."""
    return {"class": n_classes, "sensitive": n_groups, "class_x_sensitive": n_classes * n_groups}[kind]
