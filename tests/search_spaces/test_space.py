"""A space is data: what it draws, what it refuses, and how a user's own file is read."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import SPACES, resolve
from search_spaces.space import Space
from trainables.config import FIELDS, METHODS, ConfigError, absent_for

LORA_LR, FULL_LR = FloatDistribution(1e-3, 1e-2, log=True), FloatDistribution(1e-5, 1e-4, log=True)


def tiny(**changes) -> Space:
    content = {
        "name": "tiny",
        "about": "for tests",
        "fixed": {"epochs": 2},
        "search": {
            "rank": IntDistribution(1, 4),
            "lr": {"lora": LORA_LR, "fairlora": LORA_LR, "fft": FULL_LR, "fairfft": FULL_LR},
            "lam": FloatDistribution(0.01, 10, log=True),
        },
        "first": {"rank": 2, "lr": {"lora": 3e-3, "fairlora": 3e-3, "fft": 2e-5, "fairfft": 2e-5}},
    }
    return Space(**{**content, **changes})


@pytest.mark.parametrize("name", SPACES)
def test_every_draw_has_exactly_the_hyperparameters_of_its_method(name):
    space = SPACES[name]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        config = space.suggest(trial, seed=3)
        drawn = {key.partition(":")[0] for key in trial.params}
        lora = {"head_lr"} if METHODS[config.method].lora else set()  # whose head has the adapters' rate
        assert drawn == {"method", *space.search} - absent_for(config.method) - lora
        assert config.seed == 3
        assert all(getattr(config, k) == v for k, v in space.fixed.items())
        seen.add(config.method)
    assert seen == set(METHODS)


def test_methods_of_one_distribution_share_its_name_and_others_do_not():
    space = tiny()
    assert space.parameter("lr", "lora") == space.parameter("lr", "fairlora") == "lr:lora+fairlora"
    assert space.parameter("lr", "fft") == "lr:fft+fairfft"
    assert space.parameter("rank", "lora") == "rank"
    assert tiny(methods=("lora", "fft")).parameter("lr", "lora") == "lr:lora"


def test_a_draw_stays_inside_the_distribution_of_its_method():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(60):
        config = tiny().suggest(study.ask(), seed=0)
        low, high = (1e-3, 1e-2) if METHODS[config.method].lora else (1e-5, 1e-4)
        assert low <= config.lr <= high


def test_first_points_take_the_spaces_word_and_else_the_default():
    space = tiny(first={"lr": {"lora": 3e-3, "fairlora": 3e-3, "fft": 2e-5, "fairfft": 2e-5}, "rank": 2})
    assert space.first_point("lora") == {"method": "lora", "rank": 2, "lr": 3e-3}
    assert space.first_point("fairfft") == {"method": "fairfft", "lr": 2e-5, "lam": FIELDS["lam"].default}
    assert space.starts()[2] == {"method": "fft", "lr:fft+fairfft": 2e-5}


def test_the_floor_comes_after_the_methods_where_the_space_has_it():
    assert len(tiny().starts()) == 4
    with_zero = tiny(search={"rank": IntDistribution(0, 4)})
    assert with_zero.starts()[4:] == [{"method": "lora", "rank": 0}]
    assert len(tiny(search={"rank": IntDistribution(0, 4)}, methods=("fft",)).starts()) == 1


def test_pinned_hyperparameters_are_no_longer_searched():
    space = tiny().with_changes({"rank": "3", "flip": "false"}, ("lora",), epochs=5)
    assert space.fixed == {"epochs": 5, "rank": 3, "flip": False}
    assert "rank" not in space.search and space.methods == ("lora",)
    config = space.suggest(optuna.create_study().ask(), seed=0)
    assert (config.rank, config.flip, config.epochs, config.method) == (3, False, 5, "lora")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": {"ranks": 3}}, "unknown hyperparameter 'ranks'"),
        ({"fixed": {"epochs": 0}}, "`epochs >= 1` must hold, but got epochs=0"),
        ({"fixed": {"rank": 3}}, "fixed or searched"),
        ({"search": {"seed": IntDistribution(0, 9)}}, "cannot search ['seed']"),
        ({"methods": ("lora", "dora")}, "unknown method 'dora'"),
        ({"objectives": ("val_fairness",)}, "unknown objective 'val_fairness'"),
        ({"search": {"rank": IntDistribution(16, 32)}}, "starts lora at rank=2, outside of"),
        ({"search": {"targets": CategoricalDistribution(("q",))}}, "starts lora at targets=qkv"),
        ({"search": {"rank": CategoricalDistribution((2, -1))}}, "`rank >= 0` must hold, but got rank=-1"),
        ({"search": {"dropout": FloatDistribution(0, 2)}}, "`dropout <= 0.95` must hold, but got dropout=2.0"),
        ({"objectives": ("val_accuracy",)}, "must have 2 or 3 different objectives"),
        ({"objectives": ("val_accuracy", "val_accuracy")}, "must have 2 or 3 different objectives"),
        ({"methods": ("lora", "lora")}, "methods must be given once each, but got lora, lora"),
        ({"methods": ()}, "methods must be given once each, but got none"),
        ({"name": "my/space"}, "a space's name must do as a folder's name, but is 'my/space'"),
    ],
)
def test_a_wrong_space_is_refused_when_it_is_made(changes, message):
    with pytest.raises(ConfigError) as error:
        tiny(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": "-1"}, "`rank >= 0` must hold, but got rank=-1"),
        ({"rang": "1"}, "unknown hyperparameter 'rang'"),
        ({"method": "fft"}, "has an option of its own"),
        ({"lr": "fast"}, "`lr is a number` must hold, but got lr=fast"),
        ({"lam": "3"}, "lora, fft must have what is set, but none of them has lam"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        tiny().with_changes(settings, ("lora", "fft"))
    assert message in str(error.value)


USER_SPACE = """
from optuna.distributions import FloatDistribution
from search_spaces.space import Space
SPACE = Space(name="mine", about="my own", fixed={"epochs": 1}, search={"lr": FloatDistribution(1e-4, 1e-2)})
"""


def test_a_users_file_is_a_space(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(USER_SPACE)
    assert resolve(str(path)).name == "mine"


def test_a_users_file_may_have_neighbours_and_dataclasses(tmp_path):
    (tmp_path / "my_ranges.py").write_text("EPOCHS = 3\n")
    lines = ["from __future__ import annotations", "import dataclasses, my_ranges", "@dataclasses.dataclass"]
    lines += ["class Note:", "    text: str = ''", USER_SPACE.replace('"epochs": 1', '"epochs": my_ranges.EPOCHS')]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    assert resolve(str(tmp_path / "mine.py")).fixed == {"epochs": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPACE = Space(\n", "line 1"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("SPACE = 3", "must define SPACE = Space(...), but SPACE is int"),
        (USER_SPACE.replace('"epochs": 1', '"epochs": -1'), "`epochs >= 1` must hold"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        resolve(str(path))
    assert message in str(error.value)


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown space 'digit', did you mean digits\? known: aircraft_clip, "):
        resolve("digit")
    with pytest.raises(ConfigError, match=r"none\.py must be a file"):
        resolve(str(tmp_path / "none.py"))


PAPER_SPACES = [
    *(f"{data}_{backbone}" for data in ("geode", "waterbirds", "aircraft") for backbone in ("clip", "dino", "vit")),
    *(f"utkface_{task}_{backbone}" for task in ("gender", "age") for backbone in ("vit", "swinv2")),
]


def test_every_data_set_and_backbone_of_the_papers_has_its_space():
    assert set(PAPER_SPACES) == set(SPACES) - {"digits", "folder_vit_tiny", "folder_clip"}
    for name in PAPER_SPACES:
        config = SPACES[name].config(SPACES[name].first_point("lora"), 0)
        assert name.startswith(config.data) and config.targets == "qv"


@pytest.mark.parametrize("name", PAPER_SPACES[:9])
def test_the_grid_of_fairlora_is_its_ranks_times_its_lambdas(name):
    points = SPACES[name].grid_points()
    got = {(p["method"], p.get("rank"), p.get("lam")) for p in points}
    ranks, lambdas = (8, 16, 32, 64, 128), (0.01, 0.1, 1.0, 10.0, 100.0)
    expected = {("lora", r, None) for r in ranks} | {("fairlora", r, lam) for r in ranks for lam in lambdas}
    assert got == expected | {("fft", None, None)} | {("fairfft", None, lam) for lam in lambdas}
    assert len(points) == 36


@pytest.mark.parametrize("name", PAPER_SPACES[9:])
def test_the_grid_of_ding_et_al_is_learning_rates_times_epochs(name):
    got = [(p["method"], p["lr"], p["epochs"], p.get("rank")) for p in SPACES[name].grid_points()]
    rates = (1e-5, 5e-5, 1e-4, 3e-4)
    expected = {("lora", lr, epochs, 8) for lr in rates for epochs in (2, 4, 6, 8, 12)}
    expected |= {("fft", lr, epochs, None) for lr in rates for epochs in (1, 2, 3, 4, 6, 8)}
    assert set(got) == expected and len(got) == 44
    config = SPACES[name].config(SPACES[name].grid_points()[0], 0)
    assert (config.batch_size, config.warmup, config.crop, config.flip) == (32, 0.01, 1.0, True)
    assert config.weight_decay == 1e-3


def test_a_setting_with_commas_is_searched_over_these_values():
    space = SPACES["geode_clip"].with_changes({"rank": "1, 2,4,8", "batch_size": "32,64", "lam": "1"})
    assert space.search["rank"] == CategoricalDistribution((1, 2, 4, 8))
    assert space.search["batch_size"] == CategoricalDistribution((32, 64)) and "batch_size" not in space.fixed
    assert space.first_point("lora")["rank"] == 8 and space.first_point("lora")["batch_size"] == 64
    assert {p["rank"] for p in space.grid_points() if "rank" in p} == {1, 2, 4, 8}
    assert {p["batch_size"] for p in space.grid_points()} == {32, 64}
    assert len(space.grid_points()) == (4 + 4 + 1 + 1) * 2
    assert SPACES["geode_clip"].with_changes({"rank": "1,2"}).first_point("lora")["rank"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": "8,x"}, "`rank is a whole number` must hold, but got rank=x"),
        ({"rank": "8,-1"}, "`rank >= 0` must hold, but got rank=-1"),
        ({"rank": "8,8"}, "values to search must differ, but got --set rank=8,8"),
        ({"backbone": "vit_b16,dino_b16"}, "cannot search"),
    ],
)
def test_a_wrong_list_of_values_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SPACES["geode_clip"].with_changes(settings)


def test_a_grid_outside_of_its_distribution_is_refused():
    with pytest.raises(ConfigError, match=r"has lam=100\.0 in its grid, outside of"):
        tiny(grid={"lam": (1.0, 100.0)})


def test_a_grid_holds_each_configuration_once_and_is_never_empty():
    space = SPACES["waterbirds_vit"].with_changes({"rank": "0,8", "alpha": "8,16"}, ("lora",))
    assert [(p["rank"], p["alpha"]) for p in space.grid_points()] == [(0, 8.0), (8, 8.0), (8, 16.0)]
    with pytest.raises(ConfigError, match="the grid of space utkface_age_vit has only lora, fft"):
        SPACES["utkface_age_vit"].with_changes({}, ("fairlora",)).grid_points()


def test_alpha_mode_is_set_or_searched_and_2r_needs_no_alpha():
    folder = SPACES["folder_vit_tiny"]
    assert "alpha_mode" not in folder.search
    searched = folder.with_changes({"alpha_mode": "fixed,2r,rslora"})
    assert searched.search["alpha_mode"] == CategoricalDistribution(("fixed", "2r", "rslora"))
    assert searched.first_point("lora")["alpha_mode"] == "fixed" and "alpha_mode" not in searched.first_point("fft")
    pinned = folder.with_changes({"alpha_mode": "rslora"})
    assert pinned.config(pinned.first_point("lora"), 0).lora_scale == 16 / 8**0.5 and "alpha" in pinned.search
    doubled = folder.with_changes({"alpha_mode": "2r"})
    assert doubled.config(doubled.first_point("lora"), 0).lora_scale == 2 and "alpha" not in doubled.search
    for changes in ({"alpha_mode": "2r", "alpha": "8"}, {"alpha_mode": "2r", "alpha": "8,16"}):
        with pytest.raises(ConfigError, match="alpha has no effect while alpha_mode=2r"):
            folder.with_changes(changes)
    with pytest.raises(ConfigError, match="none of them has alpha_mode"):
        folder.with_changes({"alpha_mode": "2r"}, ("fft", "fairfft"))


def test_a_fresh_head_starts_at_the_rate_of_loras_under_full_fine_tuning():
    for name in ("folder_vit_tiny", "folder_clip", "geode_clip", "waterbirds_dino", "aircraft_vit"):
        space = SPACES[name]
        lora, *full = (space.config(space.first_point(method), 0) for method in ("lora", "fft", "fairfft"))
        assert lora.head_lr == 0 and {config.head_lr for config in full} == {lora.lr}
        assert space.parameter("head_lr", "fft") == "head_lr:fft+fairfft"
        assert "head_lr" not in space.with_changes({"head_lr": "0.001"}).search
    head = SPACES["geode_clip"].with_changes({"head_lr": "0.001,0.01"})
    assert head.first_point("lora")["head_lr"] == head.first_point("fft")["head_lr"] == 1e-3
    assert "head_lr" not in SPACES["digits"].search and "head_lr" not in SPACES["utkface_age_vit"].search


def test_the_searches_hold_what_was_found_best():
    """UTKFace's rates are those that the authors' code names as best; photographs are searched where none failed."""
    best = {
        "gender_vit": (3e-4, 3e-5),
        "age_vit": (1e-3, 1e-4),
        "gender_swinv2": (1e-3, 3e-6),
        "age_swinv2": (3e-4, 1e-4),
    }
    for name, rates in best.items():
        for method, rate in zip(("lora", "fft"), rates):
            assert SPACES[f"utkface_{name}"].holds("lr", method, rate)
    for name in ("folder_vit_tiny", "folder_clip"):
        assert SPACES[name].holds("lam", "fairlora", 1.0) and not SPACES[name].holds("lam", "fairlora", 1.01)


def test_a_setting_that_could_change_no_trial_is_refused():
    for settings in ({"penalty_decay": "0.9"}, {"per_group": "8"}):
        with pytest.raises(ConfigError, match="has no effect while"):
            SPACES["digits"].with_changes(settings)
    SPACES["digits"].with_changes({"penalty_decay": "0.9", "penalty_center": "running"})
    SPACES["digits"].with_changes({"per_group": "8", "balance": "none,class"})
