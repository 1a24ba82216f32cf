"""Random streams by name, so that adding one never shifts another (the habit of DomainBed's ``lib/misc.py``)."""

import hashlib


def seed_for(seed: int, *names: object) -> int:
    """The seed of the stream ``names`` under the user's ``seed``, on every machine and in every process (Python salts
    ``hash()``). Its 63 bits fit ``torch.Generator.manual_seed`` and ``numpy.random.default_rng`` alike."""
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
