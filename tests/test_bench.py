"""The benchmarks' own arithmetic: the bare loop trains what we train, no second is lost, parts keep to their time."""

import dataclasses
import json
import subprocess
import sys
import time

import psutil
import pytest
import torch

from tests.benchmarks import bare_loop, bench, book, efficiency, growth, penalty_cost, prefix, rows
from tests.benchmarks.rows import Row
from tests.few_digits import logits_of, near_ties
from tests.processes import patience
from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.batches import Data, Split
from trainables.data.store import Store
from trainables.prepare import datasets, prepared
from trainables.training.fit import fit

BASE = {"epochs": 2, "batch_size": 64, "flip": False, "crop": 1.0}


@pytest.fixture(scope="module")
def few() -> Data:
    """A quarter of the digits."""
    seen = batches.open_data(datasets.prepare("digits", None, 16))
    return dataclasses.replace(seen, train=_quarter(seen.train), val=_quarter(seen.val))


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    """All of them in one vector, but for the keys' biases: no output depends on those, so that their gradients are
    rounding alone, of which Adam makes whole steps."""
    named = ((name, p.detach()) for name, p in model.named_parameters())
    return torch.cat([(p.view(3, -1)[::2] if name.endswith("qkv.bias") else p).flatten() for name, p in named])


def _quarter(split: Split) -> Split:
    return Split(split.store, split.rows[::4], split.label[::4], split.group[::4])


@pytest.mark.parametrize(
    "values",
    [
        {"method": "lora", "rank": 8, "lr": 5e-3},
        {"method": "lora", "rank": 0, "lr": 5e-3},
        {"method": "fft", "lr": 1e-3, "flip": True, "crop": 0.8, "seed": 3},
        {"method": "fairlora", "rank": 2, "lam": 1.0, "lr": 5e-3},
        {"method": "fairfft", "lam": 1.0, "lr": 1e-3},
    ],
)
def test_the_bare_loop_trains_what_we_train(few, values):
    config = TrainConfig(**{**BASE, **values})
    last = list(fit(config, few))[-1]
    model = bare_loop.build(config, few.manifest.classes, None, bare_loop.last_row_in_use())
    start = weights_of(model)
    trained = bare_loop.train(model, config, bare_loop.in_memory(few.train), bare_loop.in_memory(few.val))
    logits = logits_of(model, few.val, config)
    tied = near_ties(logits) / len(few.val)
    assert trained.accuracy == pytest.approx(last.metrics["val_accuracy"], abs=max(1e-12, tied))
    # The images lie otherwise in memory (by channel, not by pixel), and the penalty is written in other words: sums are
    # rounded otherwise, by 6e-8 of their terms. Adam divides by a gradient's own size, so that of the small ones more
    # is left: of the way of 14 steps 1e-6 with adapters, 2e-4 in fairfft. A learning rate 1/1000 off makes 1e-3.
    apart = (weights_of(last.trainer.model) - weights_of(model)).norm() / (weights_of(model) - start).norm()
    assert apart <= 5e-4
    ours = logits_of(last.trainer.model, few.val, config)
    torch.testing.assert_close(ours, logits, rtol=0, atol=5e-4 * logits.abs().max().item())
    assert min(trained.read, trained.train, trained.validate) > 0


def test_the_bare_loop_takes_the_trials_of_a_record():
    values = TrainConfig(**BASE, method="lora").hyperparameters()
    settings = {"store": "s.arrow", "weights_file": ""}
    events = [{"event": "search", "settings": settings}, {"event": "start", "values": values}]
    events += [{"event": "epoch"}] * 2
    assert bare_loop.task_of(events, True) == bare_loop.Task("s.arrow", None, [TrainConfig(**values)], True)
    with pytest.raises(ValueError):
        bare_loop.task_of(events[:-1])  # a trial that was stopped
    other = bare_loop.Task("s.arrow", None, [TrainConfig(**BASE, method="lora", dropout=0.1)], False)
    with pytest.raises(ValueError):
        bare_loop.run(other, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_bare_processes_share_the_trials(few):
    configs = [TrainConfig(**BASE, method="fft", lr=1e-3, seed=seed) for seed in range(3)]
    task = bare_loop.Task(str(few.train.store.path), None, configs, False)
    bare, images = bare_loop.run(task, 2), batches.open_data(few.train.store.path)
    for config, trial in zip(configs, bare.trials, strict=True):
        model = bare_loop.build(config, images.manifest.classes, None, False)
        alone = bare_loop.train(model, config, bare_loop.in_memory(images.train), bare_loop.in_memory(images.val))
        assert trial.accuracy == alone.accuracy
    busy = sum(trial.read + trial.train + trial.validate for trial in bare.trials) / 2
    assert bare.seconds - bare.idle == pytest.approx(busy, rel=0.3)


def epoch(pid: int, number: int, time: float, seconds: float, **times: float) -> dict:
    return {"event": "epoch", "pid": pid, "number": number, "time": time, "seconds": seconds, "times": times}


EVENTS = [
    {"event": "search", "time": 100.0},
    *({"event": "start", "number": i, "time": t} for i, t in ((0, 102.0), (1, 104.0), (2, 114.0))),
    epoch(1, 0, 110.0, 3.0, start=0.5, save=0.2, read=0.1, train=1.5, validate=1.0, metrics=0.1),
    epoch(1, 0, 113.5, 3.0, save=0.2, read=0.1, train=1.5, validate=1.0, metrics=0.1),
    epoch(1, 2, 117.0, 2.0, start=0.4, save=0.2, read=0.1, train=1.5, validate=0.2, metrics=0.1),
    epoch(2, 1, 120.0, 10.0),  # a record without times
    {"event": "close", "time": 125.0},
]


def test_where_the_time_goes():
    parts = efficiency.parts_of(EVENTS)
    expected = {
        efficiency.PLAN: 0.0,
        efficiency.LEAD: 2.0 + 4.0,
        efficiency.PROCESS: 4.3 + 6.0,
        efficiency.RESET: 0.5 + 0.4,
        efficiency.HANDOVER: 0.5 + 0.4,
        efficiency.READ: 0.3,
        efficiency.TRAIN: 4.5 + 10.0,
        efficiency.VALIDATE: 2.2,
        efficiency.METRICS: 0.3,
        efficiency.REST: 0.3 + 0.3 + 0.1,
        efficiency.SAVE: 0.6,
        efficiency.WAIT: 0.3,
        efficiency.IDLE: 3.0,
        efficiency.CLOSING: 10.0,
    }
    assert parts == pytest.approx({name: seconds / 2 for name, seconds in expected.items()})
    assert sum(parts.values()) == pytest.approx(efficiency.wall(EVENTS)) == pytest.approx(25.0)
    early = [EVENTS[0] | {"ray_up": 97.0}, *EVENTS[1:]]  # the plan was still being checked
    assert efficiency.parts_of(early) == pytest.approx(parts | {efficiency.PLAN: 3.0})
    assert efficiency.wall(early) == 28.0


def test_a_record_without_times_says_so():
    bare = [{k: v for k, v in event.items() if k != "times"} for event in EVENTS]
    parts = efficiency.parts_of(bare)
    assert sum(parts.values()) == pytest.approx(25.0)
    assert not parts.keys() & {efficiency.RESET, efficiency.READ, efficiency.METRICS, efficiency.SAVE}
    measured = efficiency.Measured(25.0, 10.0, parts, {efficiency.TRAIN: 4.0}, (0.0, 0.0))
    assert "| batches, crops | – | – |" in efficiency.table(measured)
    assert "| training steps | 9.00 | 36.0 % | 4.00 |" in efficiency.table(measured)


def test_an_efficiency_counts_only_where_both_trained_the_same():
    same = efficiency.Measured(10.0, 8.0, {}, {}, (0.0, 0.01))
    other = dataclasses.replace(same, apart=(0.01, 0.0))
    assert efficiency.row("digits", [same]).ok and not efficiency.row("digits", [same, other]).ok
    assert not efficiency.row("signdigits", [same]).ok  # 0.80 of 0.90
    assert efficiency.row("digits", [same, dataclasses.replace(same, bare=9.0)]).spread == "0.80–0.90"


def test_a_table_is_one_whatever_its_cells_hold():
    text = rows.markdown([Row("a|b", "≥ 1", "2 s", "4 s", "2.0", "1.9–2.1", True), rows.skipped("c", "no time")])
    assert text.splitlines()[2] == "| a\\|b | ≥ 1 | 2 s | 4 s | 2.0 (1.9–2.1) | reached |  |"
    assert text.splitlines()[3] == "| c | – | skipped: no time | – | – |  |  |"
    assert rows.spread([3.0]) == "one round"
    assert rows.spread([float(i) for i in range(11)], 0) == "1–9, 10–90 %"


def test_a_penalty_is_measured_as_a_share_of_a_step():
    good, bad = penalty_cost.row(10, [100.0] * 3, [0.9] * 3), penalty_cost.row(10, [100.0] * 3, [0.9, 1.1, 1.2])
    assert (good.ratio, good.ok) == ("0.90 %", True) and (bad.ratio, bad.ok) == ("1.10 %", False)


def test_kept_blocks_are_measured_against_the_same_trials_without(few):
    base = TrainConfig(**BASE, last_blocks=1)
    done = prefix.measure(few, None, base, epochs=1, trials=2)
    assert done.steps == 2 * -(-len(few.train) // 64) and done.megabytes > 0.1
    # Two ways to the same numbers, and not one way twice: tokens in float16, 5e-4 of each, move logits by 1e-3, and of
    # 254 images' two largest logits a few at most are as near. The same in test_prefix_cache.py, against the loss.
    assert done.accuracy <= 5 / len(few.val) and 0 < done.loss < 0.01
    row = prefix.row(dataclasses.replace(done, kept=[(1.0, 1.0), (1.0, 1.0)], anew=[(2.0, 2.0), (4.0, 4.0)]))
    assert (row.ratio, row.spread, row.ok) == ("3.00x", "trials 2.00–4.00", True)
    assert not prefix.row(dataclasses.replace(done, kept=done.anew)).ok


def test_curves_share_searches_and_keep_to_the_time():
    every = growth.chosen(list(growth.CURVES), 1e9)
    assert len(every) == len(set(every)) == 9  # of 11, one is on all three curves
    some = growth.chosen(list(growth.CURVES), 200)
    assert some == every[: len(some)] and 0 < sum(map(growth.estimate, some)) <= 200
    found = {point: growth.Measured(20 + 2.0 * point.trials, dict.fromkeys(growth.KINDS, 1.0)) for point in every}
    assert growth.row("trials", found).ratio == "20.0 s + 2.00 s a trial"
    assert growth.row("trials", {}).ours.startswith("skipped")


def test_repeated_images_are_a_data_set_of_the_same_name(tmp_path):
    source = datasets.prepare("digits", None, 16)
    folder = growth.repeated(source, 3, tmp_path / "x3")
    once, three = Store(source), Store(datasets.prepare("digits", folder, 16))
    assert prepared.read_manifest(folder)["splits"] == prepared.counts(three)
    assert (three.label == once.label.repeat(3)).all() and (three.split == once.split.repeat(3)).all()
    assert (three.images([0, 1, 2, 3]) == once.images([0, 0, 0, 1])).all()
    assert three.manifest.fingerprint != once.manifest.fingerprint


PARENT = """
import subprocess, sys
large = "x = bytearray(60 * 2**20); x[::4096] = b'1' * len(x[::4096]); input()"
child = subprocess.Popen([sys.executable, "-c", large], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def test_memory_is_that_of_the_whole_tree_and_a_part_ends_with_all_below_it():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    watch, end = growth.Watch(parent.pid), time.monotonic() + patience(30)
    while child.memory_info().rss < 60 * 2**20 and time.monotonic() < end:
        watch.look()
        time.sleep(0.05)
    watch.look()
    most = watch.most()
    assert most["Ray"] > 60 > most["driver"] > 3 and most["trials"] == 0
    watch.trials.add(child.pid)
    assert watch.most()["trials"] == most["Ray"]
    bench.stop(parent.pid)
    parent.wait(patience(30))
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_part_that_does_not_fit_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr(bench.parts, "photographs", lambda: None)
    put = {}
    bench.measure_all(["signdigits", "growth"], bench.Budget(0.01), lambda name, *rest: put.update({name: rest}))
    assert [(name, row.ours, whole) for name, ((row,), whole) in put.items()] == [
        ("signdigits", "skipped: no photographs", False),
        ("growth", "skipped: 0 minutes are left, run it again", False),
    ]


def test_the_next_run_begins_with_what_was_left_out_and_the_table_keeps_the_rest(tmp_path):
    out = tmp_path / "table.md"
    first = book.Book(out, "abc")
    first.put("digits", [Row("digits", ours="1 s", ok=True)])
    first.put("until", [rows.skipped("until", "no time")])
    assert "skipped: no time" in out.read_text()
    again = book.Book(out, "abc")
    assert again.order(["digits", "growth", "until"]) == ["growth", "until", "digits"]
    again.put("until", [Row("until", ours="2 s")])
    again.put("digits", [rows.skipped("digits", "no time")])
    assert "1 s" in out.read_text() and "2 s" in out.read_text() and "skipped" not in out.read_text()
    assert out.read_text().count(", abc |") == 2
    changed = book.Book(out, "abd")
    assert changed.order(["digits", "growth", "until"]) == ["digits", "growth", "until"]
    assert changed.table(["until"]).count("\n") == 3


def test_what_parts_took_corrects_what_they_will_take():
    budget = bench.Budget(10)
    part = bench.Part("a", 4, None)
    assert budget.fits(part) and budget.pace == 1
    budget.took(bench.Part("b", 1, None), 3)
    assert budget.pace == 3 and not budget.fits(part)
    budget.took(bench.Part("c", 5, None), 1)
    assert budget.pace == 1  # 4 minutes for 6: a fast machine is not trusted


def test_the_same_code_s_whole_rows_stay_and_those_of_a_cut_off_part_are_measured_again(tmp_path):
    cut = [Row("digits", ours="1 s", spread="1 of 2 rounds"), rows.skipped("digits", "cut off")]
    first = book.Book(tmp_path / "table.md", "abc")
    first.put("growth", [Row("growth", ours="3 s")])
    first.put("digits", cut, whole=False)
    assert book.Book(first.out, "abc").order(["growth", "digits"]) == ["digits", "growth"]
    for name in ("growth", "digits"):
        first.put(name, [rows.skipped(name, "no time")], whole=False)
    assert "3 s" in first.table() and "1 of 2 rounds" in first.table() and "no time" not in first.table()
    first.put("digits", [Row("digits", ours="2 s")])
    first.put("digits", cut, whole=False)
    assert "2 s" in first.table() and "1 of 2 rounds" not in first.table()
    changed = book.Book(first.out, "abd")
    changed.put("digits", cut, whole=False)
    assert "1 of 2 rounds" in changed.table() and "2 s" not in changed.table()


PART = """
import sys, time
from tests.benchmarks import bench
from tests.benchmarks.rows import Row

def rounds(work, minutes):
    yield [Row("first", spread="1 of 3 rounds")]
    yield [Row("first", spread="2 of 3 rounds")]
    time.sleep(600) if "hangs" in sys.argv else sys.exit(3)

for name in ("hangs", "fails"):
    bench.PARTS[name] = bench.Part(name, 1, rounds)
bench.main()
"""


@pytest.fixture
def own_parts(monkeypatch):
    monkeypatch.setattr(bench, "COMMAND", (sys.executable, "-c", PART))
    for name in ("fails", "hangs"):
        monkeypatch.setitem(bench.PARTS, name, bench.Part(name, 1, None))


def test_a_part_runs_in_a_process_of_its_own_and_keeps_the_rounds_before_a_failure(tmp_path, own_parts):
    failed = Row("fails", ours="failed (exit status 3): see above", ok=False)
    assert bench.run("fails", tmp_path, 5) == ([Row("first", spread="2 of 3 rounds"), failed], True)
    assert bench.run("hangs", tmp_path, 0.001) == ([rows.skipped("hangs", "cut off after 0 minutes")], False)


@pytest.mark.slow
def test_a_part_that_is_cut_off_keeps_the_rounds_that_it_has_finished(tmp_path, own_parts):
    start = time.monotonic()
    bench.run("fails", tmp_path, 5)
    minutes = 2 * (time.monotonic() - start) / 60 + 0.02  # in which this machine surely loads the same libraries
    cut = rows.skipped("hangs", f"cut off after {minutes:.0f} minutes")
    assert bench.run("hangs", tmp_path, minutes) == ([Row("first", spread="2 of 3 rounds"), cut], False)


DIGITS = """
import sys, time
from tests.benchmarks import against_glue, bench, parts

def run_round(inputs, work, i, share, really=against_glue.run_round):
    return really(inputs, work, i, share) if i == 0 else time.sleep(600)

against_glue.run_round = run_round
against_glue.SETUPS["digits"] = against_glue.SETUPS["digits"]._replace(trials=4, epochs=1)
parts.ROUNDS_MINUTES["digits"], parts.LEAST_ROUNDS["digits"] = 0, {rounds}
bench.PARTS["digits"] = bench.PARTS["digits"]._replace(minutes=0)
{command}
sys.exit(bench.main())
"""


@pytest.mark.slow
def test_a_round_of_the_digits_is_reported_though_the_second_is_cut_off(tmp_path):
    """A real round: `bench` in its own process, its part in another, the part's search and glue below that. One round
    alone says how long this machine takes for it."""
    start, out = time.monotonic(), tmp_path / "table.md"
    words = ["--part", "digits", "--rows", tmp_path / "whole.json", "--work", tmp_path / "work", "--minutes", "10"]
    subprocess.run([sys.executable, "-c", DIGITS.format(rounds=1, command=""), *words], cwd=bench.ROOT, check=True)
    minutes = 2 * (time.monotonic() - start) / 60
    code = DIGITS.format(rounds=2, command="")
    command = f"bench.COMMAND = (sys.executable, '-c', {code!r}); bench.wait_for_quiet = lambda: None"
    words = ["--only", "digits", "--minutes", f"{minutes:.2f}", "--out", out]
    # Its exit status says whether goals were reached, which so small a search need not.
    subprocess.run([sys.executable, "-c", DIGITS.format(rounds=2, command=command), *words], cwd=bench.ROOT)
    whole = [Row(*row) for row in json.loads((tmp_path / "whole.json").read_text())]
    note = json.loads(out.with_suffix(".json").read_text())["digits"]
    kept = [Row(*row) for row in note["rows"]]
    assert [row.measure for row in kept] == [*(row.measure for row in whole), "digits against glue and bare loop"]
    assert note["code"] is None and "1 of 2 rounds" in out.read_text()
    assert kept[0].ok is None and float(kept[0].ratio[:-1]) > 0 and kept[1].ours.endswith("after Ray's start")
    assert whole[0].ok is not None and kept[2].ours.startswith("skipped: cut off after")


def test_rows_survive_their_file():
    made = [Row("m", ok=True), Row("n", ours="1", ok=None)]
    assert [Row(*row) for row in json.loads(json.dumps(made))] == made
