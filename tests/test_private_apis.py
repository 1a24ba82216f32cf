"""Every part of other libraries that this tree uses though it is private, or relies on though nothing documents it.

An upgrade of a library is a walk along this list: a test for each name says that it is there, with the shape that is
relied on. The last test finds private names in the source that the list lacks.
"""

import argparse
import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("trainables", "search_spaces", "analysis", "tune_fairlora")
# Where a private name stands in the source: (file, name). The test beside it says what is relied on.
PRIVATE = {
    ("tune_fairlora/execution/fast_start.py", "ray._private.node"): "test_ray_node",
    ("tune_fairlora/algorithms/study.py", "optuna.storages.journal._storage"): "test_optuna_journal",
    ("trainables/models/forward.py", "_pos_embed"): "test_timm_vision_transformer",
    ("trainables/training/prefix_cache.py", "_DropoutNd"): "test_torch_dropout",
    ("tune_fairlora/startup.py", "_run_exitfuncs"): "test_standard_library",
    ("tune_fairlora/startup.py", "_exit"): "test_standard_library",  # os._exit is documented
    ("tune_fairlora/cli.py", "_actions"): "test_standard_library",
    ("tune_fairlora/cli.py", "_option_string_actions"): "test_standard_library",
    ("tune_fairlora/plan/search_options.py", "_ArgumentGroup"): "test_standard_library",  # in annotations
}


def test_ray_node():
    """fast_start.bare_ray replaces three methods, of whose results nobody makes use."""
    from ray._private.node import Node

    from tune_fairlora.execution.fast_start import NEEDLESS_PROGRAMS

    assert NEEDLESS_PROGRAMS == ("start_monitor", "start_log_monitor", "start_api_server")
    assert [list(inspect.signature(getattr(Node, name)).parameters) for name in NEEDLESS_PROGRAMS] == [
        ["self"],
        ["self"],
        ["self", "include_dashboard", "raise_on_failure"],
    ]
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(Node).strip())) if isinstance(node, ast.Expr)]
    alone = {call.value.func.attr for call in calls if isinstance(getattr(call.value, "func", None), ast.Attribute)}
    assert alone >= set(NEEDLESS_PROGRAMS)


def test_ray_class_cache():
    """fast_start.shared_workers empties both, and trials then want no environment of their own."""
    from ray.tune.execution import class_cache

    from tune_fairlora.execution.fast_start import shared_workers

    assert class_cache.DEFAULT_ENV_VARS == {"PL_DISABLE_FORK": "1"} and "AWS_SESSION_TOKEN" in (
        class_cache.ENV_VARS_TO_PROPAGATE
    )
    with shared_workers(local=True):
        options = class_cache._ActorClassCache().get(type("Trainable", (), {}))._default_options
    assert not options["runtime_env"].get("env_vars")


def test_ray_settings():
    """fast_start.worker_settings and startup.quiet_libraries set them; Ray would not say that it knows one no more."""
    import ray

    from tune_fairlora.execution import fast_start
    from tune_fairlora.startup import quiet_libraries

    package = Path(ray.__file__).parent
    raylet = (package / "core/src/ray/raylet/raylet").read_bytes()
    idle = "RAY_idle_worker_killing_time_threshold_ms"
    for name in (fast_start.PRELOAD, fast_start.PRESTART, idle):
        assert name.removeprefix("RAY_").encode() in raylet, name
    code = "".join(
        path.read_text() for part in ("tune", "_private", "_common") for path in (package / part).rglob("*.py")
    )
    constants = [constant for constant in quiet_libraries.__code__.co_consts if isinstance(constant, str | tuple)]
    names = {name for each in constants for name in ([each] if isinstance(each, str) else each)}
    ours = {name for name in names if isinstance(name, str) and name.startswith(("RAY_", "TUNE_"))}
    assert len(ours) >= 6 and not {name for name in ours if name not in code}


def test_ray_trial():
    """ray_executor: a trial's actor is killed when it hangs, and its exception is read when it fails."""
    from ray import cloudpickle
    from ray.exceptions import RayTaskError
    from ray.tune.experiment import Trial
    from ray.tune.experiment.trial import _TemporaryTrialState

    from trainables.config import ConfigError

    assert _TemporaryTrialState().ray_actor is None
    assert isinstance(Trial.pickled_error_file, property) and isinstance(Trial.error_file, property)
    error = RayTaskError("step", "Traceback", ConfigError("no"), "proctitle", 1, "ip")
    for each in (error, error.as_instanceof_cause()):
        cause = cloudpickle.loads(cloudpickle.dumps(each)).cause
        assert isinstance(cause, ConfigError) and str(cause) == "no"


def test_optuna_journal(tmp_path):
    """study.py cuts and rewrites the lines of the journal, and makes trials of a study by their number."""
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._storage import JournalOperation

    path = tmp_path / "journal"
    backend = JournalFileBackend(str(path))
    assert backend._file_path == str(path)  # of a subclass: `self._file_path`
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend), directions=["minimize", "maximize"])
    number = study.ask().number
    assert optuna.Trial(study, number).number == number
    study.tell(number, [1.0, 2.0])
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES and last["trial_id"] == number == 0
    assert last["state"] == optuna.trial.TrialState.COMPLETE and last["values"] == [1.0, 2.0]
    (tmp_path / "journal.lock").touch()  # locks are files of these names, which a crash leaves behind
    assert {p.name for p in tmp_path.glob("journal.lock*")} == {"journal.lock"}


def small_vit() -> nn.Module:
    from timm.models import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5).eval()


def test_timm_vision_transformer():
    """forward.py takes the model apart."""
    from trainables.models.forward import prefix, suffix

    model, images = small_vit(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(suffix(model, prefix(model, images, 1), 1), model(images))
    assert inspect.signature(model._pos_embed).parameters.keys() == {"x"} and model.num_features == 24
    assert {"patch_embed", "patch_drop", "norm_pre", "norm", "blocks", "fc_norm", "head"} <= set(model._modules)


def test_timm_block():
    """class_token.py computes Block and Attention for one token: both say all that their forward passes read."""
    from timm.layers import Attention
    from timm.models.vision_transformer import Block

    model = small_vit()
    block = model.blocks[0]
    assert type(block) is Block and type(block.attn) is Attention and model.attn_pool is None
    names = ["norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"]
    assert list(block._modules) == names and {"qkv", "q_norm", "k_norm", "norm", "proj"} <= set(block.attn._modules)
    assert (block.attn.num_heads, block.attn.head_dim, block.attn.attn_dim) == (3, 8, 24)
    assert block.attn.fused_attn in (True, False, 1, 2) and block.attn.gate is None
    for kind in (Block, Attention):
        assert list(inspect.signature(kind.forward).parameters) == ["self", "x", "attn_mask", "is_causal"]


def test_timm_weights_and_switches():
    """weights.py and load.py call the filters; adapters.py sets the switch."""
    from timm.layers.activations import QuickGELU
    from timm.models import beit, eva, swin_transformer_v2, vision_transformer

    assert issubclass(QuickGELU, nn.Module)
    for module in (vision_transformer, swin_transformer_v2):
        assert list(inspect.signature(module.checkpoint_filter_fn).parameters)[:2] == ["state_dict", "model"]
    for module in (swin_transformer_v2, beit, eva):
        assert "self.qkv_bias_separate" in inspect.getsource(module)


def test_torch_dropout():
    """prefix_cache.py finds every kind of dropout by its base class."""
    base = nn.modules.dropout._DropoutNd
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    assert all(issubclass(kind, base) for kind in kinds)


def test_peft_lora():
    """class_token.py knows the layer by its class, write.py and adapters.py its parameters by their names."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    model = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), nn.Sequential(nn.Linear(4, 6), nn.ReLU()))
    assert type(model[0]) is Linear
    shapes = {name: tuple(p.shape) for name, p in model[0].named_parameters()}
    assert shapes == {
        "base_layer.weight": (6, 4),
        "base_layer.bias": (6,),
        "lora_A.default.weight": (2, 4),
        "lora_B.default.weight": (6, 2),
    }
    assert not model[0].lora_B["default"].weight.any()


def test_mlflow_page_and_store():
    """ui_views.py writes tags that only the page's own code knows; ray_cluster.py imports the store's module early."""
    import importlib

    import mlflow
    from mlflow.utils import mlflow_tags

    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    page = b"".join(p.read_bytes() for p in (Path(mlflow.__file__).parent / "server/js/build").rglob("*.js"))
    for name in (b"mlflow.sharedViewState", b"mlflow.runColor", b"viewStateShareKey", b"runsHiddenMode"):
        assert name in page, name
    assert mlflow_tags.MLFLOW_LOGGED_ARTIFACTS == "mlflow.loggedArtifacts"
    assert mlflow_tags.MLFLOW_PARENT_RUN_ID == "mlflow.parentRunId"


def test_standard_library():
    """startup.leave runs what is registered for the end; cli and plan.options read a parser's options."""
    code = "import atexit, os; atexit.register(os.write, 1, b'called'); atexit._run_exitfuncs(); os._exit(3)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout) == (3, "called")
    parser = argparse.ArgumentParser()
    option = parser.add_argument("--option", "-o")
    assert parser._option_string_actions["--option"] is option
    assert isinstance(parser.add_argument_group("one"), argparse._ArgumentGroup)
    assert parser._actions[-1] is option and option.option_strings == ["--option", "-o"] and option.dest == "option"


def private_names(path: Path) -> set[str]:
    """Private modules that are imported, and private attributes of anything but ``self`` and ``cls``."""
    tree, names = ast.parse(path.read_text()), set()
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in PACKAGES:
            whole = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            names |= {name for name in whole[:1] + whole[1:] * ("._" not in whole[0]) if "._" in name}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if "._" in alias.name}
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            names |= {node.attr} if owner not in ("self", "cls") and node.attr not in own else set()
    return {name for name in names if "__" not in name}


def test_no_private_name_is_missing_from_the_list():
    used = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            used |= {(str(path.relative_to(ROOT)), name) for name in private_names(path)}
    assert used == set(PRIVATE)
    assert all(callable(globals()[test]) for test in PRIVATE.values())


@pytest.mark.parametrize("library", ["ray", "optuna", "timm", "peft", "mlflow"])
def test_a_library_with_private_parts_is_bounded_from_above(library):
    needs = [line.strip() for line in (ROOT / "setup.cfg").read_text().splitlines() if line.strip().startswith(library)]
    assert [need for need in needs if ">=" in need and ",<" in need], needs
