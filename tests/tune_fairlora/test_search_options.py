"""SearchOptions: one rule for flags, YAML and Python; a search can be repeated from what is written down of it."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from trainables.config import ConfigError
from tune_fairlora import cli
from tune_fairlora.plan import resume
from tune_fairlora.plan.search_options import DEFAULTS, OPTIONS, RESEED, SearchOptions, checked, read_config
from tune_fairlora.search import parser

# Of each option: as on the command line, another value than its default, and that value as Python has it.
OTHER = {
    "space": ("mine.py", "mine.py"),
    "data": ("photos", "photos"),
    "weights": ("w.safetensors", "w.safetensors"),
    "image_size": ("32", 32),
    "skip_corrupt": (None, True),
    "allow_overlap": (None, True),
    "methods": ("lora, fft", ("lora", "fft")),
    "set": ("rank=4,8", ("rank=4,8",)),
    "objectives": ("accuracy,eod_max", ("accuracy", "eod_max")),
    "constraint": ("val_accuracy>=0.9", ("val_accuracy>=0.9",)),
    "trials": ("12", 12),
    "epochs": ("3", 3),
    "sampler": ("grid", "grid"),
    "seed": ("7", 7),
    "seeds": ("2", 2),
    "reseed": ("0", 0.0),
    "confirm": (None, True),
    "confirm_seeds": ("2", 2),
    "enqueue": ("points.json", "points.json"),
    "scheduler": ("none", "none"),
    "grace_period": ("1", 1),
    "reduction_factor": ("3", 3),
    "time_budget": ("1h30m", 5400.0),
    "max_failures": ("0", 0),
    "trial_timeout": ("90s", 90.0),
    "cpus_per_trial": ("0.5", 0.5),
    "gpus_per_trial": ("auto", "auto"),
    "max_concurrent": ("3", 3),
    "address": ("host:6379", "host:6379"),
    "storage": ("there", "there"),
    "name": ("2024", "2024"),
    "tracking_uri": ("http://me:secret@host:5000", "http://me:secret@host:5000"),
    "experiment": ("mine", "mine"),
}
GIVEN = {name: value for name, (_, value) in OTHER.items()}


def parsed(*argv: str) -> dict:
    return checked({name: value for name, value in vars(parser().parse_args(argv)).items() if name in OPTIONS})


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_has_a_flag_which_takes_what_python_takes(name):
    text, value = OTHER[name]
    argv = [f"--{name.replace('_', '-')}", *([text] if text else [])]
    assert parsed(*argv) == {name: value} and value != DEFAULTS[name]
    options = SearchOptions(**{"space": "digits"} | {name: value})
    assert getattr(options, name) == value
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, name, value)


def test_nothing_given_is_nothing_and_the_defaults_keep_their_own_rules():
    assert parsed() == {}
    assert vars(SearchOptions(space="digits")) == DEFAULTS | {"space": "digits"}


def test_what_is_written_down_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = SearchOptions(**GIVEN)
    options.write(tmp_path / "config.yaml")
    text, again = (tmp_path / "config.yaml").read_text(), SearchOptions(**read_config("config.yaml"))
    assert again.kept() == options.kept() == yaml.safe_load(text) and "secret" not in text
    for name in ("space", "data", "weights", "enqueue"):  # the same file from any folder
        assert getattr(again, name) == str(tmp_path / GIVEN[name])
    assert {n for n in OPTIONS if getattr(again, n) != GIVEN[n] and not OPTIONS[n].path} == {
        *("storage", "name", "tracking_uri"),
    }
    assert SearchOptions(space="digits", weights="random").kept()["weights"] == "random"
    SearchOptions(space="digits", data="a\udce9").write(tmp_path / "latin.yaml")  # a name in another encoding
    assert read_config("latin.yaml")["data"].endswith("a\udce9")


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"set": {"rank": [4, 8], "lr": 0.01, "flip": False}}, {"set": ["rank=4,8", "lr=0.01", "flip=False"]}),
        ({"set": "rank=4"}, {"set": ("rank=4",)}),
        ({"methods": ["lora", "fft"]}, {"methods": "lora,fft"}),
        ({"constraint": "accuracy>=0.9"}, {"constraint": ["accuracy>=0.9"]}),
        ({"data": Path("photos")}, {"data": "photos"}),
        ({"time_budget": 1800}, {"time_budget": "30m"}),
        ({"trials": "12"}, {"trials": 12}),
        ({"cpus_per_trial": 2}, {"cpus_per_trial": "2.0"}),
    ],
)
def test_a_value_may_be_written_in_more_than_one_way(given, same):
    assert SearchOptions(space="digits", **given) == SearchOptions(space="digits", **same)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trails": 3}, "unknown option 'trails', did you mean trials? known: address, "),
        ({"grace_period": 0}, "`grace_period`: a number >= 1, whole must be given, but got 0"),
        ({"grace_period": 1.5}, "`grace_period`: a number >= 1, whole must be given, but got 1.5"),
        ({"grace_period": None}, "`grace_period`: a value must be given, but got none"),
        ({"reduction_factor": 1}, "`reduction_factor`: at least 2 must be given, but got 1"),
        ({"trials": True}, "`trials`: one value must be given, but got True"),
        ({"trials": [3]}, "`trials`: one value must be given, but got [3]"),
        ({"skip_corrupt": "yes"}, "`skip_corrupt`: true or false must be given, but got yes"),
        ({"methods": 3}, "`methods`: a list must be given, but got 3"),
        ({"methods": [["lora"]]}, "`methods`: one value must be given, but got ['lora']"),
        ({"sampler": "TPE"}, "unknown sampler 'TPE', did you mean tpe?"),
        ({"epochs": 0}, "`epochs`: `epochs >= 1` must hold, but got epochs=0"),
        ({"time_budget": -3}, "`time_budget`: a time must be like 30m, 2h or 1h30m, but got -3s"),
        ({"constraint": "acuracy>=0.9"}, "unknown metric of a constraint 'acuracy', did you mean val_accuracy?"),
        ({"experiment": " "}, "`experiment`: a name must be given, but it is empty"),
        ({"space": ""}, "`space` is needed"),
        ({"reseed": 1}, "`reseed`: a share of the trials must be given, from 0 to less than 1, but got 1"),
        ({"reseed": -0.1}, "`reseed`: a share of the trials must be given, from 0 to less than 1, but got -0.1"),
        ({"reseed": "nan"}, "`reseed`: a share of the trials must be given"),
        ({"reseed": "a quarter"}, "`reseed`: a share of the trials must be given"),
        ({"reseed": 0.25, "seeds": 3}, "`reseed` 0.25 and `seeds` 3 say the same twice"),
        ({"confirm_seeds": 0, "confirm": True}, "`confirm_seeds`: a number >= 1, whole must be given, but got 0"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_field(given, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as caught:
        SearchOptions(**checked({"space": "digits"} | given))
    assert "\n" not in str(caught.value)


def test_the_share_for_candidates_follows_the_seeds_unless_it_is_given():
    given = ({}, {"seeds": 3}, {"reseed": 0}, {"reseed": 0.5})
    assert [SearchOptions(space="digits", **each).reseeds for each in given] == [RESEED, 0.0, 0.0, 0.5]


def test_who_says_how_many_fresh_trainings_wants_them():
    assert SearchOptions(space="digits", confirm_seeds=1).confirm and not SearchOptions(space="digits").confirm


def test_errors_name_fields_in_python_and_flags_on_the_command_line(capsys):
    with pytest.raises(ConfigError, match=r"^`max_failures` or --set-up, see --help$"), cli.errors_name_fields(OPTIONS):
        raise ConfigError("--max-failures or --set-up, see --help")

    def command(_) -> int:
        raise ConfigError("`max_failures` and `lr`")

    assert cli.run(parser(), [], command) == 2
    assert capsys.readouterr().err == "error: --max-failures and `lr`\n"


CONFIG = "space: digits\nepochs: 2\ntracking-uri: sqlite:///x.db\nset:\n  rank: [4, 8]\n  batch_size: 128\n"


def test_a_search_is_described_by_a_file_and_flags_go_before_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG)
    assert read_config("c.yaml")["tracking_uri"] == "sqlite:///x.db"
    assert (
        cli.main(["search", "--config", "c.yaml", "--epochs", "3", "--objectives", "accuracy,delta_f1", "--describe"])
        == 0
    )
    shown = capsys.readouterr().out.splitlines()
    assert "  epochs         3" in shown and "  rank           4 | 8" in shown and "  batch_size     128" in shown
    assert shown[1].startswith("objectives: val_accuracy, val_delta_f1;")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: digits\ngrace: 2\n", "unknown option 'grace', did you mean grace_period"),
        ("space: digits\ngrace_period: 0\n", "--grace-period: a number >= 1, whole must be given, but got 0"),
        ("- space\n", "--config c.yaml must hold `option: value` lines, but holds list"),
        ("space: [\n", "--config c.yaml must hold YAML"),
        ("space: !!python/object/apply:os.mkdir [made]\n", "--config c.yaml must hold YAML"),
        ("\x00", "--config c.yaml must hold YAML"),
        (None, "--config c.yaml must be a file that can be read"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("c.yaml").write_text(text)
    assert cli.main(["search", "--config", "c.yaml", "--describe"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not Path("made").exists()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resume_takes_over_changes_or_refuses_each_option(name):
    option, value = OPTIONS[name], GIVEN[name]
    recorded = SearchOptions(space="digits").kept()
    if option.resumable:
        assert getattr(resume._options(recorded, {name: value}), name) == value
    elif option.kept:
        with pytest.raises(ConfigError, match=f"a resumed search keeps its `{name}` "):
            resume._options(recorded, {name: value})
    taken_over = getattr(resume._options(recorded | {name: value}, {}), name)
    assert taken_over == (DEFAULTS[name] if option.once else value)


def test_a_resume_takes_the_same_file_from_another_folder_and_options_of_older_records():
    recorded = SearchOptions(space="mine.py", enqueue="points.json").kept()
    assert resume._options(recorded, {"space": "mine.py", "enqueue": "./points.json"}).kept() == recorded
    older = {"space": "digits", "methods": "lora,fft", "set": ["rank=4"], "objectives": None, "gone": 3}
    assert resume._options(older, {"methods": ("lora", "fft")}).methods == ("lora", "fft")
