"""The frozen blocks' outputs are kept once an image: the same numbers, one filling for all, and never a wrong file."""

import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer

from tests.few_digits import few, few_digits
from tests.processes import patience, refusal, started, until
from trainables.config import TrainConfig
from trainables.data import batches
from trainables.data.batches import Data, draws, open_confirmation, training_batches
from trainables.models import create
from trainables.models.adapters import adapt
from trainables.models.forward import forward, prefix, suffix
from trainables.models.weights import read
from trainables.training import prefix_cache
from trainables.training.fit import Trainer, fit, trained_state

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = TrainConfig(last_blocks=1, epochs=2, batch_size=32, flip=False, crop=1.0, lr=5e-3)
AUGMENTED = {"flip": True, "crop": 0.6}
ROUNDING = 2e-4  # of the loss after two epochs over 100 digits, where float16 rounds the tokens


@pytest.fixture(scope="module")
def seen() -> Data:
    """100 digits to train on: two batches of the filler's, and four of the training's."""
    return few_digits(100, 80)


@pytest.fixture(scope="module")
def weights() -> str:
    return str(create.weights_file("vit_nano", None))


@pytest.fixture
def cache(seen, weights, tmp_path, monkeypatch) -> Path:
    """An empty cache folder; data and weights lie elsewhere."""
    monkeypatch.setenv("TUNE_FAIRLORA_CACHE", str(tmp_path))
    return tmp_path


def files(cache: Path) -> dict[str, tuple]:
    """All that lies there, with what would change if it were written again."""
    found = {path.name: path.stat() for path in cache.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def run(config: TrainConfig, seen: Data, weights: str, checkpoint=None) -> tuple[list[dict], dict]:
    """All epochs' metrics and the weights at the end."""
    metrics = []
    for epoch in fit(config, seen, weights, checkpoint=checkpoint):
        metrics.append(epoch.metrics)
        state = trained_state(epoch.trainer.model)
    return metrics, state


def assert_same(one, other) -> None:
    np.testing.assert_equal(one[0], other[0])
    assert all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())


def change(config: TrainConfig, **changes) -> TrainConfig:
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_nano", 16), ("vit_tiny", 32), ("vit_b16", 32), ("clip_b32", 64), ("clip_b32_openai", 64)]
)
def test_the_two_halves_make_the_whole(name, size):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = create.create(name, size)
        for m in (2, 1):
            config = TrainConfig(backbone=name, image_size=size, last_blocks=m, targets="all", dropout=0.5)
            model = adapt(model.eval(), config) if m == 2 else model
            images = torch.randn(3, 3, size, size)
            tokens = prefix(model, images, m)
            assert tokens.shape == (3, model.patch_embed.num_patches + 1, model.embed_dim)
            # Features of about 1, of at most 12 blocks: float32's 6e-8 grow to some 1e-6.
            torch.testing.assert_close(suffix(model, tokens, m), model(images), rtol=0, atol=1e-5)


def first_logits(trainer: Trainer, tokens, config: TrainConfig, epoch: int = 0) -> torch.Tensor:
    batch = next(training_batches(trainer.data.train, config, epoch, tokens=tokens))[0]
    assert batch.ndim == (4 if tokens is None else 3)
    with torch.no_grad():
        return forward(trainer.model.eval(), batch, config)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-6), ("bfloat16", 4e-3)])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("views", [0, 2])
def test_kept_in_full_precision_the_first_logits_are_those_of_the_images(
    seen, weights, cache, monkeypatch, dtype, most, m, views
):
    monkeypatch.setattr(prefix_cache, "LARGEST", 0.0)  # everything is beyond it
    config = change(CONFIG, dtype=dtype, last_blocks=m, views=views, **(AUGMENTED if views else {}))
    trainer = Trainer(config, seen, weights, "cpu", None)
    for epoch in range(3):
        tokens = trainer.prefix_cache.training(epoch)
        assert tokens.dtype == np.float32 and tokens.shape == (100, 17, 64)
        got, expected = first_logits(trainer, tokens, config, epoch), first_logits(trainer, None, config, epoch)
        assert got.dtype == expected.dtype and expected.std() > 0.01
        torch.testing.assert_close(got, expected, rtol=0, atol=most)


@pytest.mark.parametrize("changes", [{}, {"views": 2, **AUGMENTED}, {"micro_batch": 12, "method": "fairlora"}])
def test_kept_in_float16_a_run_ends_within_its_rounding(seen, weights, cache, changes):
    kept = run(change(CONFIG, **changes), seen, weights)[0]
    assert len(files(cache)) == (3 if "views" in changes else 2)
    assert {np.load(path).dtype for path in cache.iterdir()} == {np.dtype(np.float16)}
    anew = run(change(CONFIG, cache_prefix=False, **changes), seen, weights)[0]
    for one, other in zip(kept, anew, strict=True):
        for name in ("train_loss", "val_loss"):
            assert one[name] == pytest.approx(other[name], rel=ROUNDING)
            assert one[name] != other[name]  # or nothing was kept


def test_only_what_is_the_same_in_every_epoch_is_kept(seen, weights, cache):
    kept = Trainer(change(CONFIG, **AUGMENTED), seen, weights, "cpu", None).prefix_cache
    assert kept.training(0) is None and kept.validation().shape == (80, 17, 64)
    assert len(files(cache)) == 1  # what is drawn anew every epoch is not made


@pytest.mark.parametrize(
    "changes", [{"cache_prefix": False}, {"last_blocks": 0}, {"last_blocks": 3}, {"rank": 0}, {"method": "fft"}]
)
def test_nothing_is_kept_where_no_frozen_block_comes_first(seen, weights, cache, changes):
    run(change(CONFIG, **changes, epochs=1), seen, weights)
    assert not files(cache)


@pytest.mark.parametrize("chance", ["drop_path_rate", "attn_drop_rate", "pos_drop_rate", "proj_drop_rate"])
def test_a_backbone_that_is_random_before_its_last_blocks_is_not_kept(seen, cache, chance):
    def applies(kind=VisionTransformer, **options) -> bool:
        model = kind(img_size=16, patch_size=4, embed_dim=64, depth=3, num_heads=4, num_classes=10, **options)
        return prefix_cache.PrefixCache(model.requires_grad_(False), CONFIG, seen, "cpu").applies

    class Another(VisionTransformer):
        """Whose forward pass may be another."""

    assert applies() and not applies(**{chance: 0.1}) and not applies(Another)


def test_later_trials_of_any_seed_read_what_the_first_has_made(seen, weights, cache):
    run(CONFIG, seen, weights)
    made = files(cache)
    assert len(made) == 2 and all(name.startswith("prefix-") and name.endswith(".npy") for name in made)
    for changes in ({"seed": 5}, {"lr": 1e-3, "rank": 2}, {"method": "fairlora", "targets": "qv"}, AUGMENTED):
        run(change(CONFIG, **changes), seen, weights)
    assert files(cache) == made


@pytest.mark.parametrize(
    ("changes", "new"), [({"last_blocks": 2}, 2), ({"dtype": "bfloat16"}, 2), ({"crop": 0.9, "views": 2}, 2)]
)
def test_what_the_numbers_depend_on_makes_another_file(seen, weights, cache, changes, new):
    run(CONFIG, seen, weights)
    made = files(cache)
    run(change(CONFIG, **changes), seen, weights)
    after = files(cache)
    assert made.items() <= after.items() and len(after) == len(made) + new


def test_another_crop_other_weights_and_other_images_make_other_files(seen, weights, cache, tmp_path_factory):
    views = change(CONFIG, views=1, crop=0.8, epochs=1)
    run(views, seen, weights)
    names = set(files(cache))
    runs = [(change(views, crop=0.7), seen, weights), (change(views, flip=True), seen, weights)]
    state = read(weights)
    state["blocks.1.mlp.fc2.bias"][0] += 1e-6
    torch.save(state, other := tmp_path_factory.mktemp("weights") / "other.pt")
    runs += [(views, seen, str(other))]
    runs += [(views, Data(dataclasses.replace(seen.manifest, fingerprint="another"), seen.train, seen.val), weights)]
    for new, arguments in zip((1, 1, 2, 2), runs, strict=True):
        run(*arguments)
        assert len(set(files(cache)) - names) == new
        names = set(files(cache))


def test_the_last_blocks_and_the_head_are_no_part_of_the_key(seen, weights, cache, tmp_path_factory):
    run(CONFIG, seen, weights)
    names, state = set(files(cache)), read(weights)
    state["blocks.2.mlp.fc2.bias"][0] += 1.0
    torch.save(state, other := tmp_path_factory.mktemp("weights") / "other.pt")
    run(CONFIG, seen, str(other))
    assert set(files(cache)) == names


class Guarded:
    """The store, but it notes which rows are read."""

    def __init__(self, store):
        self.store, self.path, self.manifest, self.read = store, store.path, store.manifest, set()

    def images(self, rows, out):
        self.read |= set(rows.tolist())
        return self.store.images(rows, out)


def test_a_search_never_computes_the_test_split_and_confirming_has_a_file_of_its_own(seen, weights, cache):
    guarded = Guarded(seen.train.store)
    train, val = (dataclasses.replace(split, store=guarded) for split in (seen.train, seen.val))
    run(CONFIG, Data(seen.manifest, train, val), weights)
    assert guarded.read == {*seen.train.rows.tolist(), *seen.val.rows.tolist()}
    before, confirmed = set(files(cache)), open_confirmation(seen.train.store.path)
    Trainer(
        CONFIG, Data(seen.manifest, seen.train, few(confirmed.val, 80)), weights, "cpu", None
    ).prefix_cache.validation()
    assert len(set(files(cache)) - before) == 1


def test_every_view_is_the_same_for_all_trials_and_comes_again(seen, weights, cache):
    def shown(config: TrainConfig, epoch: int) -> torch.Tensor:
        """The epoch's images, in the split's order."""
        order = [index for images, label, _ in training_batches(numbered, config, epoch) for index in label.tolist()]
        images = torch.cat([images for images, _, _ in training_batches(seen.train, config, epoch)])
        return images[torch.tensor(order).argsort()]

    numbered = dataclasses.replace(seen.train, label=torch.arange(100))
    config = change(CONFIG, views=2, **AUGMENTED)
    first, second = shown(config, 0), shown(config, 1)
    assert not torch.equal(first, second)
    for other in (config, change(config, seed=9), change(config, batch_size=7)):
        torch.testing.assert_close(shown(other, 2), first, rtol=0, atol=1e-6)
        torch.testing.assert_close(shown(other, 3), second, rtol=0, atol=1e-6)
    anew = change(config, views=0)
    assert (shown(anew, 0) - shown(anew, 2)).abs().max() > 0.1
    kept = Trainer(config, seen, weights, "cpu", None).prefix_cache
    assert kept.training(0).filename == kept.training(2).filename != kept.training(1).filename


def test_draws_are_taken_from_the_stream_in_the_order_of_ever():
    """Flips, areas, shifts: results of augmented runs stay what they were."""
    drawn = draws(20, change(CONFIG, **AUGMENTED), torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    flip, area, shift = (torch.rand(*shape, generator=generator) for shape in ((20,), (20,), (20, 2)))
    assert torch.equal(drawn.flip, flip < 0.5) and torch.equal(drawn.area, area * (1 - 0.6) + 0.6)
    assert torch.equal(drawn.shift, shift * 2 - 1)


def test_what_float16_cannot_hold_is_kept_in_float32(seen, weights, cache, tmp_path_factory):
    state = read(weights)
    state["patch_embed.proj.weight"] *= 1e7
    torch.save(state, large := tmp_path_factory.mktemp("weights") / "large.pt")
    trainer = Trainer(CONFIG, seen, str(large), "cpu", None)
    tokens = trainer.prefix_cache.training(0)
    assert tokens.dtype == np.float32 and np.abs(tokens).max() > 65504 and len(files(cache)) == 1
    got, expected = first_logits(trainer, tokens, CONFIG), first_logits(trainer, None, CONFIG)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("factor", "dtype"), [(1.0, np.float16), (1.001, np.float32), (np.nan, np.float32)])
def test_float16_holds_up_to_its_largest_number(seen, weights, cache, monkeypatch, factor, dtype):
    largest = lambda model, images, m: torch.full((len(images), 17, 64), -65504.0 * factor)  # noqa: E731
    monkeypatch.setattr(prefix_cache, "prefix", largest)
    assert Trainer(CONFIG, seen, weights, "cpu", None).prefix_cache.validation().dtype == dtype


@pytest.mark.parametrize("views", [0, 2])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(seen, weights, cache, views):
    config = change(CONFIG, method="fairlora", dropout=0.1, epochs=3, micro_batch=12, views=views)
    config = change(config, **(AUGMENTED if views else {}))
    whole = run(config, seen, weights)
    torch.save(next(fit(config, seen, weights)).trainer.checkpoint(), file := io.BytesIO())
    for deleted in (False, True):
        if deleted:
            shutil.rmtree(cache)
        checkpoint = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        assert_same((whole[0][1:], whole[1]), run(config, seen, weights, checkpoint))


def test_a_file_that_was_cut_short_is_made_again(seen, weights, cache):
    whole = run(CONFIG, seen, weights)
    for path, size in zip(sorted(cache.iterdir()), (0, 20_000), strict=True):
        path.write_bytes(path.read_bytes()[:size])
    assert_same(run(CONFIG, seen, weights), whole)


def test_a_disk_that_would_be_filled_is_refused_in_one_line(seen, weights, cache, monkeypatch):
    needed = 180 * 17 * 64 * 2
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * needed - 1))
    message = refusal(Trainer, CONFIG, seen, weights, "cpu", None)
    assert message.startswith("what frozen blocks compute may take half of the 0.00 GB that are free in ")
    assert "set cache_prefix=false" in message and "TUNE_FAIRLORA_CACHE" in message
    Trainer(change(CONFIG, cache_prefix=False), seen, weights, "cpu", None)
    assert not files(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * needed))
    kept = Trainer(CONFIG, seen, weights, "cpu", None).prefix_cache
    kept.training(0), kept.validation()
    assert len(files(cache)) == 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    Trainer(CONFIG, seen, weights, "cpu", None).prefix_cache.training(0)  # what is there needs no room


CHILD = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from trainables.data import batches
from trainables.training import prefix_cache
from trainables.config import TrainConfig
from trainables.training.fit import Trainer
store, weights, name, mode = sys.argv[1:]
trainer = Trainer(TrainConfig(last_blocks=1, flip=False, crop=1.0), batches.open_data(store), weights, "cpu", None)
made, make, compute = [], prefix_cache.PrefixCache._make, prefix_cache.prefix

def counted(self, path, *rest):
    made.append(path.name)
    make(self, path, *rest)

def slow(*arguments):
    time.sleep(0.02 if mode == "together" else 1.0)
    return compute(*arguments)

prefix_cache.PrefixCache._make, prefix_cache.prefix = counted, slow
Path(name).touch()
while mode == "together" and len(list(Path(name).parent.glob("ready-*"))) < 2:
    time.sleep(0.001)
tokens = [trainer.prefix_cache.training(0), trainer.prefix_cache.validation()]
print(len(made), *(float(t.astype("float64").sum()) for t in tokens))
"""


@pytest.mark.slow
def test_two_processes_at_once_make_a_file_once(seen, weights, cache, tmp_path_factory):
    folder, store = tmp_path_factory.mktemp("ready"), seen.train.store.path
    children = [started(CHILD, store, weights, folder / f"ready-{i}", "together") for i in range(2)]
    lines = [child.communicate(timeout=patience(120))[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sum(int(line[0]) for line in lines) == 2  # one file a split
    assert lines[0][1:] == lines[1][1:]
    assert len(files(cache)) == 2 and all(name.startswith("prefix-") for name in files(cache))


@pytest.mark.slow
def test_nothing_is_used_of_what_a_killed_process_has_half_written(seen, weights, cache, tmp_path_factory):
    folder, store = tmp_path_factory.mktemp("ready"), seen.train.store.path
    child = started(CHILD, store, weights, folder / "ready-0", "alone")
    until(lambda: any(path.stat().st_size > 1000 for path in cache.glob(".prefix-*.tmp")), 120)
    child.kill()
    child.wait()
    assert not list(cache.glob("prefix-*")) and list(cache.glob(".prefix-*.tmp"))
    whole = Data(seen.manifest, *(batches.open_split(seen.train.store, name) for name in ("train", "val")))
    trainer = Trainer(change(CONFIG, batch_size=32), whole, weights, "cpu", None)
    tokens = trainer.prefix_cache.training(0)
    assert np.abs(tokens).sum(axis=(1, 2)).min() > 0 and len(tokens) == len(whole.train)
    assert [name.startswith("prefix-") for name in files(cache)] == [True]  # the torn file is gone
