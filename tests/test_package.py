"""What the project promises about itself: the licence is there, every version is pinned, torchvision fits torch."""

import re
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_licence_is_the_one_that_the_metadata_names():
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert "license = Apache-2.0" in (ROOT / "setup.cfg").read_text()


def test_every_requirement_is_pinned_and_installed_as_pinned():
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split(" ;")[0].split("==") for line in lock if "==" in line.split(" ;")[0])
    wanted = re.findall(r"^    ([A-Za-z_-]+)(?:\[tune\])?[><=]", (ROOT / "setup.cfg").read_text(), flags=re.M)
    assert {"ray", "torch", "torchvision", "mlflow", "ruff", "hypothesis"} <= set(wanted)
    for name in wanted:
        assert name.replace("_", "-") in pins, name
    for name in ("ray", "torch", "torchvision", "timm", "peft", "optuna", "mlflow"):
        assert version(name).split("+")[0] == pins[name]


def test_torchvision_fits_torch():
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    # Fails where torchvision was built for another torch: "operator torchvision::nms does not exist".
    assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]
