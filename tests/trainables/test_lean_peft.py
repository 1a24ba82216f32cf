"""peft without transformers adapts, trains and exports as peft does; nothing of what stood in for it is left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import patience

# Trains LoRA on each kind of layer, and exports it. Printed: whether transformers was left out, whether who asks for it
# afterwards gets the real one, and a hash of every number and file that came of it.
TRAIN = """
import hashlib, json, sys
from pathlib import Path
if sys.argv[1] == "lean":
    from trainables.trial.lean_peft import import_peft
    import_peft()
import torch
from tests.few_digits import few_digits
from trainables.export import write
from trainables.config import TrainConfig
from trainables.training.fit import fit, trained_state
torch.set_num_threads(1)
data, found = few_digits(64, 32), hashlib.sha256()
for targets in ("qkv", "qv", "all"):
    config = TrainConfig(epochs=1, batch_size=32, dropout=0.1, targets=targets, lr=5e-3)
    (epoch,) = fit(config, data)
    found.update(json.dumps(epoch.metrics, sort_keys=True).encode())
    for name, tensor in sorted(trained_state(epoch.trainer.model).items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    (folder := Path(sys.argv[2], targets)).mkdir()
    write.write(folder, epoch.trainer.model, config, list("0123456789"), None, {"banner": 0, "sizes": [16]}, {})
    for file in sorted(folder.iterdir()):
        found.update(file.name.encode() + file.read_bytes())
out = "transformers" not in sys.modules
import transformers
real = transformers.BertConfig().hidden_size == 768
print(json.dumps({"left out": out, "real afterwards": real, "hash": found.hexdigest()}))
"""
THERE = "import transformers"
NEW_PEFT = "from transformers import BertConfig\nassert BertConfig().hidden_size == 768\n"


def run(code: str, *arguments: object, path: Path | None = None) -> dict | list:
    first = f"import sys\nsys.path.insert(0, {str(path)!r})\n" if path else ""
    command = [sys.executable, "-c", first + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(300))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_trial_is_the_same_to_the_last_bit(tmp_path):
    found = {}
    for how in ("lean", "as ever"):
        (tmp_path / how).mkdir()
        found[how] = run(TRAIN, how, tmp_path / how)
    assert found["lean"] == found["as ever"] | {"left out": True}
    assert found["lean"]["real afterwards"] and not found["as ever"]["left out"]


def test_importing_it_changes_nothing():
    code = "from trainables.trial import lean_peft\nimport json, sys\n"
    assert run(code + "print(json.dumps(['peft' in sys.modules, len(sys.meta_path)]))")[0] is False


@pytest.mark.slow
@pytest.mark.parametrize("first", [THERE, "import peft"])
def test_what_is_imported_already_stays(first):
    same = "real.PreTrainedModel is transformers.PreTrainedModel"
    code = f"{first}\nfrom trainables.trial.lean_peft import import_peft\nlean = import_peft()\n"
    code += "import json, transformers\nimport peft.tuners.tuners_utils as real\n"
    assert run(code + f"print(json.dumps([lean, {same}]))") == [False, True]


def test_a_peft_to_which_an_empty_class_is_not_enough_is_imported_as_ever(tmp_path):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text(NEW_PEFT)
    code = "from trainables.trial.lean_peft import import_peft\nlean = import_peft()\nimport json, sys, peft\n"
    code += "print(json.dumps([lean, peft.BertConfig().hidden_size, len(sys.meta_path)]))"
    lean, size, finders = run(code, path=tmp_path)
    assert (lean, size) == (False, 768)
    assert finders == run("import json, sys, transformers\nprint(json.dumps(len(sys.meta_path)))")
