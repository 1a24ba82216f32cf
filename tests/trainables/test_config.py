"""The configuration refuses what breaks a rule, says so in one form, and names each configuration."""

import dataclasses
import subprocess
import sys

import pytest

from trainables.config import (
    ALPHA_MODES,
    BACKBONE_NAMES,
    BALANCES,
    CENTERS,
    DATA_NAMES,
    DTYPES,
    FIELDS,
    GROUPS,
    HEADS,
    METHODS,
    REDUCTIONS,
    TARGETS,
    ConfigError,
    TrainConfig,
    absent_for,
    lookup,
    parse,
)
from trainables.models import create
from trainables.prepare.sources import SOURCES

FLOATS = [name for name, spec in FIELDS.items() if spec.type is float]
LORA_ONLY = {
    "rank": 4,
    "alpha": 3.0,
    "alpha_mode": "rslora",
    "dropout": 0.2,
    "targets": "all",
    "last_blocks": 1,
    "cache_prefix": False,
}
FAIR_ONLY = {"lam": 0.5, "groups": "sensitive", "reduction": "mean", "penalty_center": "running", "penalty_decay": 0.9}
# Fields that matter only beside another one's value, and that value.
NEEDS = {
    "head": {"backbone": "clip_b32"},
    "penalty_decay": {"penalty_center": "running"},
    "per_group": {"balance": "class"},
    "cache_prefix": {"last_blocks": 1},
}


def message(**values) -> str:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("image_size", 7, "image_size >= 8"),
        ("image_size", 1025, "image_size <= 1024"),
        ("rank", -1, "rank >= 0"),
        ("alpha", 0.0, "alpha > 0"),
        ("dropout", -0.1, "dropout >= 0"),
        ("dropout", 0.96, "dropout <= 0.95"),
        ("last_blocks", -1, "last_blocks >= 0"),
        ("lam", -1.0, "lam >= 0"),
        ("penalty_decay", -0.1, "penalty_decay >= 0"),
        ("penalty_decay", 1.0, "penalty_decay < 1"),
        ("micro_batch", -1, "micro_batch >= 0"),
        ("per_group", 0, "per_group >= 1"),
        ("lr", 0.0, "lr > 0"),
        ("head_lr", -0.5, "head_lr >= 0"),
        ("weight_decay", -0.5, "weight_decay >= 0"),
        ("batch_size", 0, "batch_size >= 1"),
        ("epochs", 0, "epochs >= 1"),
        ("warmup", 0.91, "warmup <= 0.9"),
        ("clip_norm", -1.0, "clip_norm >= 0"),
        ("crop", 0.04, "crop >= 0.05"),
        ("crop", 1.5, "crop <= 1"),
        ("views", -1, "views >= 0"),
        ("seed", -1, "seed >= 0"),
        ("seed", 2**31, "seed <= 2147483647"),
        ("lr", float("inf"), "lr < inf"),
    ],
)
def test_a_broken_rule_is_stated_before_the_value(name, value, rule):
    assert message(**{name: value}) == f"`{rule}` must hold, but got {name}={value}"


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_may_be_nan_or_infinite(name, value):
    assert message(**{name: value}).endswith(f"must hold, but got {name}={value}")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("rank", 1.5, "a whole number"),
        ("rank", "8", "a whole number"),
        ("rank", True, "a whole number"),
        ("lr", "0.1", "a number"),
        ("lr", True, "a number"),
        ("flip", 1, "true or false"),
        ("lr", None, "a number"),
    ],
)
def test_a_value_of_another_type_is_refused(name, value, kind):
    assert message(**{name: value}) == f"`{name} is {kind}` must hold, but got {name}={value}"


@pytest.mark.parametrize(
    "name", ["data", "backbone", "method", "targets", "groups", "reduction", "penalty_center", "balance", "dtype"]
)
def test_a_choice_lists_what_is_known(name):
    text = message(**{name: "nothing"})
    assert text.startswith(f"{name} must be one of ") and text.endswith(f", but got {name}=nothing")
    assert all(option in text for option in FIELDS[name].metadata["options"])


def test_a_whole_number_is_taken_as_a_float_where_one_is_wanted():
    config = TrainConfig(alpha=16, lr=1)
    assert type(config.alpha) is float and type(config.lr) is float
    assert config.config_id == TrainConfig(alpha=16.0, lr=1.0).config_id


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rank", "4", 4),
        ("rank", "0", 0),
        ("alpha", "16", 16.0),
        ("lr", "1e-4", 1e-4),
        ("method", "fairfft", "fairfft"),
        ("flip", "False", False),
        ("flip", "yes", True),
        ("flip", "0", False),
    ],
)
def test_text_becomes_the_fields_type(name, text, value):
    parsed = parse(name, text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rank", "many", "`rank is a whole number` must hold, but got rank=many"),
        ("rank", "1.5", "`rank is a whole number` must hold, but got rank=1.5"),
        ("rank", "", "`rank is a whole number` must hold, but got rank="),
        ("rank", "-1", "`rank >= 0` must hold, but got rank=-1"),
        ("lr", "fast", "`lr is a number` must hold, but got lr=fast"),
        ("lr", "nan", "`lr > 0` must hold, but got lr=nan"),
        ("lam", "inf", "`lam < inf` must hold, but got lam=inf"),
        ("flip", "maybe", "`flip is true or false` must hold, but got flip=maybe"),
        ("targets", "q", "targets must be one of qkv, qv, qkv+proj, all, but got targets=q"),
    ],
)
def test_unusable_text_is_refused(name, text, expected):
    with pytest.raises(ConfigError) as caught:
        parse(name, text)
    assert str(caught.value) == expected


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"^unknown hyperparameter 'rang', did you mean rank\? known: alpha, .*, weight_decay$"
    ):
        parse("rang", "1")
    with pytest.raises(
        ConfigError,
        match=r"^unknown method 'dora', did you mean lora\? known: fairfft, fairlora, fft, lora$",
    ):
        absent_for("dora")
    with pytest.raises(ConfigError, match=r"^unknown thing 'FO', did you mean folder or fog\? known: fog, folder, of$"):
        lookup(dict.fromkeys(["of", "folder", "fog"]), "FO", "thing")
    with pytest.raises(ConfigError, match=r"^unknown thing 'c'; known: a, b$"):
        lookup({"b": 1, "a": 2}, "c", "thing")


@pytest.mark.parametrize(
    ("method", "absent"),
    [("fairlora", set()), ("lora", {*FAIR_ONLY}), ("fairfft", {*LORA_ONLY}), ("fft", {*LORA_ONLY, *FAIR_ONLY})],
)
def test_each_method_has_its_own_hyperparameters(method, absent):
    assert absent_for(method) == absent
    settings = {"balance": "class", "penalty_center": "running", "micro_batch": 8, "last_blocks": 1, "views": 2}
    settings["alpha_mode"] = "rslora"
    assert set(TrainConfig(method=method, **settings).hyperparameters()) == set(FIELDS) - absent
    assert set(TrainConfig(method=method).hyperparameters()) == set(FIELDS) - absent - {
        "alpha_mode",
        "penalty_decay",
        "per_group",
        "micro_batch",
        "cache_prefix",
        "views",
    }


def test_what_does_nothing_is_no_part_of_the_identity():
    plain = TrainConfig(method="fairlora")
    assert dataclasses.replace(plain, penalty_decay=0.5, per_group=8).config_id == plain.config_id
    assert {dataclasses.replace(plain, micro_batch=n).config_id for n in (32, 99)} == {plain.config_id}
    assert dataclasses.replace(plain, micro_batch=31).config_id != plain.config_id
    assert dataclasses.replace(plain, cache_prefix=False).config_id == plain.config_id
    last = dataclasses.replace(plain, last_blocks=2)
    assert dataclasses.replace(last, cache_prefix=False).config_id != last.config_id  # float16 rounds its numbers
    for nothing in ({"rank": 0}, {"backbone": "swinv2_t", "image_size": 64}, {"method": "fft"}):
        assert "cache_prefix" not in dataclasses.replace(last, cache_prefix=False, **nothing).hyperparameters()
    still = dataclasses.replace(plain, flip=False, crop=1.0)
    assert dataclasses.replace(still, views=3).config_id == still.config_id
    assert len({dataclasses.replace(plain, views=n).config_id for n in (0, 1, 2)}) == 3
    doubled = dataclasses.replace(plain, alpha_mode="2r")
    assert dataclasses.replace(doubled, alpha=8.0).config_id == doubled.config_id  # 2r sets alpha itself
    assert "alpha" not in doubled.hyperparameters()
    assert len({dataclasses.replace(plain, alpha_mode=mode).config_id for mode in ALPHA_MODES}) == 3
    cached = {"last_blocks": 1, "cache_prefix": False, "views": 2}
    modes = ({"alpha_mode": "2r", "alpha": 8.0}, {"alpha_mode": "rslora"}, {"alpha_mode": "fixed"})
    for changes in ({"micro_batch": 8}, {"balance": "class", "per_group": 2}, {"micro_batch": 99}, cached, *modes):
        config = dataclasses.replace(plain, **changes)
        assert TrainConfig(**config.hyperparameters()).config_id == config.config_id  # as a record restores it


def changed() -> dict:
    """Another allowed value for every field."""
    options = {
        "data": DATA_NAMES,
        "backbone": BACKBONE_NAMES,
        "method": tuple(METHODS),
        "targets": TARGETS,
        "head": HEADS,
    }
    options |= {"groups": GROUPS, "reduction": REDUCTIONS, "dtype": DTYPES}
    options |= {"penalty_center": CENTERS, "balance": BALANCES, "alpha_mode": ALPHA_MODES}
    numbers = {"penalty_decay": 0.9, "per_group": 2, "micro_batch": 8}
    numbers |= {"image_size": 32, "rank": 4, "alpha": 3.0, "dropout": 0.2, "last_blocks": 1, "lam": 0.5, "lr": 0.02}
    numbers |= {"head_lr": 0.1, "weight_decay": 0.2, "batch_size": 8, "epochs": 3, "warmup": 0.2, "clip_norm": 2.0}
    numbers |= {"cache_prefix": False, "views": 2}
    return {name: choices[-1] for name, choices in options.items()} | numbers | {"flip": False, "crop": 0.5, "seed": 9}


def test_every_field_has_another_value_in_these_tests():
    assert set(changed()) == set(FIELDS)
    assert all(value != getattr(TrainConfig(), name) for name, value in changed().items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FIELDS)
def test_the_identity_changes_with_all_that_matters_and_with_nothing_else(method, name):
    before = TrainConfig(method=method, **NEEDS.get(name, {}))
    value = changed()[name] if name != "method" else next(m for m in METHODS if m != method)
    after = dataclasses.replace(before, **{name: value})
    matters = name != "seed" and name not in absent_for(method)
    assert (after.config_id != before.config_id) == matters


def test_the_identity_is_ten_hexadecimal_digits_and_never_changes_between_processes():
    code = "from trainables.config import TrainConfig; print(TrainConfig(method='fairlora', lam=0.1).config_id)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == TrainConfig(method="fairlora", lam=0.1, seed=5).config_id
    assert len(other) == 10 and int(other, 16) >= 0


def test_a_configuration_is_still_known_by_the_name_that_records_have_of_it():
    """Every default is a part of it: one that changed would make other runs of the same name in a record."""
    everything = {"balance": "class", "penalty_center": "running", "micro_batch": 8, "last_blocks": 1, "views": 2}
    assert {method: TrainConfig(method=method).config_id for method in METHODS} == {
        "lora": "3ad458314d",
        "fairlora": "12da8e4c47",
        "fft": "ed32a6acbb",
        "fairfft": "abb9adb041",
    }
    assert TrainConfig(method="fairlora", **everything).config_id == "b1d1e3b58f"
    assert TrainConfig(alpha_mode="fixed").config_id == "3ad458314d"  # a field that is younger than those records
    assert TrainConfig().seed == 0


def test_the_zeroshot_head_needs_a_clip():
    assert TrainConfig(backbone="clip_b32_openai", head="zeroshot").head == "zeroshot"
    rule = "`head = zeroshot` needs a CLIP backbone (clip_b32, clip_b32_openai), but got backbone=dino_b16"
    assert message(backbone="dino_b16", head="zeroshot") == rule


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().rank = 3


def test_adapters_exist_for_lora_methods_of_positive_rank():
    assert {m: TrainConfig(method=m).adapts for m in METHODS} == {
        "lora": True,
        "fairlora": True,
        "fft": False,
        "fairfft": False,
    }
    assert not TrainConfig(method="lora", rank=0).adapts
    assert TrainConfig(rank=0, alpha=8.0, targets="all").config_id == TrainConfig(rank=0).config_id


@pytest.mark.parametrize(
    ("rank", "fixed", "rslora"), [(1, 16, 16), (4, 4, 8), (16, 1, 4), (64, 0.25, 2)]
)  # 16 / rank, and 16 / √rank
def test_alpha_mode_decides_what_the_update_is_multiplied_with(rank, fixed, rslora):
    scales = {mode: TrainConfig(rank=rank, alpha_mode=mode).lora_scale for mode in ALPHA_MODES}
    assert scales == {"fixed": fixed, "2r": 2, "rslora": rslora}
    alphas = {mode: TrainConfig(rank=rank, alpha_mode=mode).lora_alpha for mode in ALPHA_MODES}
    assert alphas == {"fixed": 16, "2r": 2 * rank, "rslora": 16}


def test_a_record_without_alpha_mode_is_of_a_fixed_one():
    earlier = TrainConfig(rank=4).hyperparameters()
    assert "alpha_mode" not in earlier and TrainConfig(**earlier).alpha_mode == "fixed"


def test_the_names_are_those_of_the_tables():
    assert set(DATA_NAMES) == {"digits", *SOURCES}
    assert set(BACKBONE_NAMES) == set(create.BACKBONES)


def test_the_configuration_needs_nothing_but_the_standard_library():
    code = """
import sys
for name in ("torch", "numpy", "timm", "peft", "ray", "optuna", "mlflow", "pandas", "pyarrow"):
    sys.modules[name] = None
import trainables.config
print(sorted(m for m in sys.modules if m.startswith("trainables")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['trainables', 'trainables.config']", done.stderr
