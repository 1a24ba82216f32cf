"""A search that is over, as ``confirm`` and ``export`` read it; and the saved model of one of its trials."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.config import ConfigError, TrainConfig
from tune_fairlora.record.event_log import EVENT_LOG, read_events
from tune_fairlora.record.state import RUNNING, Settings, State

if TYPE_CHECKING:
    from analysis import results
    from trainables.models.weights import Transformer

INPUTS = ("store", "data_fingerprint", "weights_file", "weights")  # settings that say what it was trained on


@dataclass(frozen=True)
class Finished:
    """Settings and tables of a search that is over, and the state that its log adds up to."""

    folder: Path
    settings: Settings
    search: "results.Search"
    state: State

    def config(self, number: int) -> TrainConfig:
        return TrainConfig(**self.state.trials[number].values)


def read(folder: Path, before: str) -> Finished:
    """The search in ``folder``. Raises ConfigError where there is none, or where it is not over, as it must be
    ``before`` what is to be done ("it is confirmed")."""
    from analysis import results  # pandas takes a second to import

    try:
        search = results.read(folder)
        settings = search.settings
        state = State()
        for event in read_events(folder):
            state.apply(event)
        missing = [key for key in INPUTS if key not in settings]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} must be the folder of a search, but: {error}") from error
    if missing:
        raise ConfigError(f"{folder} must be the folder of a search, but its settings lack {missing[0]}")
    if state.status == RUNNING:
        raise ConfigError(f"{folder} must be over before {before}, but is still open: search --resume ends it")
    return Finished(folder, settings, search, state)


def require_images(settings: Settings) -> None:
    """Other images could hold what was trained on in their test split. Raises ConfigError."""
    from trainables.data.store import Store

    store = settings["store"]
    if not Path(store).is_file():
        raise ConfigError(f"the search's images are gone from {store}: prepare them there again")
    if Store(store).manifest.fingerprint != settings["data_fingerprint"]:
        raise ConfigError(f"the images in {store} must be those of the search, but are others now")


def require_weights(settings: Settings) -> None:
    """Other pretrained weights are another model. Raises ConfigError."""
    from trainables.models.backbones import RANDOM, fingerprint

    file = settings["weights_file"]
    if file not in ("", RANDOM) and not Path(file).is_file():
        raise ConfigError(f"the search's weights are gone from {file}: put them there again")
    if file and fingerprint(file) != settings["weights"]:
        raise ConfigError(f"the weights in {file} must be those of the search, but are others now")


def weights_of(folder: Path, number: int) -> Path:
    """Where the trained weights of a trial lie, if they were kept: those of the front are."""
    from trainables.trial.checkpoints import WEIGHTS, trial_folder

    return trial_folder(folder, number) / WEIGHTS


def model_of(finished: Finished, number: int, way_out: str, device: str = "cpu") -> "Transformer":
    """The model of trial ``number`` as it was saved, adapted. Raises ConfigError where its file is damaged or holds
    other weights than those that the trial trained; the message ends in ``way_out``, what to do instead."""
    from safetensors.torch import load_file

    from trainables.models import adapters, create
    from trainables.training.fit import trained_state

    config, weights = finished.config(number), finished.settings["weights_file"] or None
    model = adapters.adapt(create.fresh_model(config, finished.settings["classes"], weights), config).to(device)
    path = weights_of(finished.folder, number)
    try:
        state = load_file(path)
    except Exception as error:  # safetensors' own kind
        raise ConfigError(f"{path} must be whole, but: {error}; {way_out}") from error
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in trained_state(model).items()}:
        raise ConfigError(f"{path} must hold the weights that its trial trained, but holds others; {way_out}")
    model.load_state_dict(state, strict=False)
    return model


def find(name: str, storage: str) -> Path:
    """The folder of the search ``name``: a path, or a name in ``storage``. Raises ConfigError where there is none."""
    for folder in (Path(storage) / name, Path(name)):
        if (folder / EVENT_LOG).is_file():
            return folder.resolve()
    if (Path(storage) / name).is_dir() or Path(name).is_dir():
        raise ConfigError(f"{name} must be the folder of a search, but has no {EVENT_LOG}")
    known = sorted(path.parent.name for path in Path(storage).glob(f"*/{EVENT_LOG}"))
    raise ConfigError(f"{name} must be a search in {storage} or its folder; there are: {', '.join(known) or 'none'}")
