"""What MLflow calls in a logged model: ``mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(images)``.

A copy of this file lies in every logged model, beside the export and its ``load.py``; it imports nothing of ours. An
adapter whose pretrained weights are on no hub needs them as a file, named by TUNE_FAIRLORA_BASE_WEIGHTS.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

VARIABLE = "TUNE_FAIRLORA_BASE_WEIGHTS"


class Classifier:
    """``predict`` takes images as uint8 ``[n, height, width, 3]``, or paths of image files (one, a list, or the first
    column of a DataFrame); returns a DataFrame with a row an image and a column of probabilities for each class."""

    def __init__(self, folder: Path):
        spec = importlib.util.spec_from_file_location("exported_loader", folder / "load.py")
        assert spec is not None and spec.loader is not None
        self.folder, self.loader = folder, importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.loader)
        self.classes = json.loads((folder / "model.json").read_text(encoding="utf-8"))["classes"]
        self.model = self.loader.load(folder, os.environ.get(VARIABLE) or None)

    @torch.inference_mode()
    def predict(self, images: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        if isinstance(images, pd.DataFrame):
            images = images.iloc[:, 0].tolist()
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        batch = torch.stack([self._prepared(image) for image in images])
        return pd.DataFrame(self.model(batch).softmax(dim=1).numpy(), columns=self.classes)

    def _prepared(self, image: Any) -> torch.Tensor:
        if isinstance(image, (str, os.PathLike)):
            with Image.open(image) as opened:
                return self.loader.preprocess(opened, self.folder)
        return self.loader.preprocess(Image.fromarray(np.asarray(image, np.uint8)), self.folder)


def _load_pyfunc(path: str) -> Classifier:
    """The name that MLflow looks for."""
    return Classifier(Path(path))
