"""How many trials share a GPU; what needs a GPU is tests/trainables/test_gpu.py."""

import dataclasses

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from search_spaces import resolve
from trainables.config import ConfigError
from tune_fairlora import cli
from tune_fairlora.execution import gpu_sharing
from tune_fairlora.execution.ray_cluster import RayCluster
from tune_fairlora.execution.terminal import Bars
from tune_fairlora.plan.plan import make_plan
from tune_fairlora.plan.search_options import SearchOptions

GIB = 1 << 30


def test_the_largest_of_a_methods_configurations_takes_most_memory():
    space = resolve("folder_vit_tiny").with_changes(
        {"dtype": "bfloat16,float32", "targets": "all,qkv", "last_blocks": "2,0,4", "micro_batch": "0,8"}, None
    )
    batches = {**space.search, "batch_size": IntDistribution(16, 64)}
    found = gpu_sharing.largest(dataclasses.replace(space, search=batches))
    assert [config.method for config in found] == ["lora", "fairlora", "fft", "fairfft"]
    for config in found:
        assert (config.batch_size, config.dtype, config.micro_batch) == (64, "float32", 0)
        if config.method.endswith("lora"):
            assert (config.rank, config.targets, config.last_blocks) == (64, "all", 0)
        assert config.lr == space.config(space.first_point(config.method), 0).lr  # costs no memory
    parts = {"micro_batch": CategoricalDistribution((8, 32))}
    only = dataclasses.replace(space, search=batches | parts, first=space.first | {"micro_batch": 8})
    assert {config.micro_batch for config in gpu_sharing.largest(only)} == {32}


@pytest.mark.parametrize(
    ("needed", "most", "expected"),
    [(100 * GIB, 16, 1.0), (60 * GIB, 16, 1.0), (40 * GIB, 16, 0.5), (40 * GIB, 1, 1.0), (GIB, 64, 0.5)],
)
def test_as_many_share_a_gpu_as_have_room_and_gain(needed, most, expected):
    assert gpu_sharing.share(needed, 80 * GIB, most) == expected


@pytest.mark.parametrize(
    ("nodes", "cpus", "trials", "expected"),
    [
        ([{"CPU": 16.0, "GPU": 1.0}], 1.0, 24, 16),
        ([{"CPU": 16.0, "GPU": 1.0}], 8.0, 24, 2),
        ([{"CPU": 16.0, "GPU": 1.0}], 1.0, 1, 1),
        ([{"CPU": 16.0, "GPU": 4.0}], 1.0, 4, 1),  # GPUs enough: none is shared
        ([{"CPU": 16.0, "GPU": 4.0}], 1.0, 5, 2),
        ([{"CPU": 8.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 1.0}], 1.0, 99, 1),  # the node with fewest cores a GPU
        ([{"GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0}], 1.0, 99, 8),  # one that holds none does not count
    ],
)
def test_trials_share_a_gpu_where_there_are_too_few(nodes, cpus, trials, expected):
    assert gpu_sharing.most_on_one(nodes, cpus, trials) == expected


def test_three_thirds_are_no_more_than_a_gpu(monkeypatch):
    monkeypatch.setattr(gpu_sharing, "MOST_ON_ONE", 3)
    assert gpu_sharing.share(GIB, 80 * GIB, 8) == 0.3333


def test_auto_is_an_option_and_where_there_is_no_gpu_it_is_none(tmp_path):
    options = SearchOptions(space="digits", gpus_per_trial="auto", storage=str(tmp_path))
    plan = make_plan(options, Bars().images)
    held = RayCluster()
    held.nodes, held.most = [{"CPU": 4.0}], 9
    held.count_slots(1.0, options.gpus_per_trial)
    assert (options.gpus_per_trial, held.gpus, held.at_once) == ("auto", 0.0, 4)
    assert held.share_gpus(plan) == "" and held.at_once == 4
    with pytest.raises(ConfigError, match="a number >= 0 \\(or auto\\) must be given, but got some"):
        SearchOptions(space="digits", gpus_per_trial="some")
    assert cli.share("0.25") == 0.25


def test_a_probe_decides_how_many_are_at_work(tmp_path, monkeypatch):
    """The probe's own numbers are test_gpu.py's matter: here they are given."""
    options = SearchOptions(space="digits", gpus_per_trial="auto", storage=str(tmp_path))
    plan, asked = make_plan(options, Bars().images), []

    def measure(configs, store, weights, cpus):
        asked.append((len(configs), store, cpus))
        return [GIB, GIB, 2 * GIB, 3 * GIB], 80 * GIB

    monkeypatch.setattr(gpu_sharing, "measure", measure)
    held = RayCluster()
    held.nodes, held.most = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}], 24
    held.count_slots(1.0, options.gpus_per_trial)
    assert (held.gpus, held.at_once) == (1.0, 2)
    assert held.share_gpus(plan) == "a trial takes up to 3.0 of 80 GiB (fairfft): --gpus-per-trial 0.5"
    assert (held.gpus, held.at_once) == (0.5, 4) and asked == [(4, str(plan.store), 1.0)]
