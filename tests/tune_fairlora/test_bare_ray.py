"""What Ray's start leaves out; that a search's Ray lacks those programs and works is shown in test_startup.py."""

import pytest
from ray._private.node import Node

from tune_fairlora.execution import fast_start


def functions() -> list[object]:
    return [getattr(Node, name) for name in fast_start.NEEDLESS_PROGRAMS]


def test_ray_is_whole_again_whatever_happens():
    whole = functions()
    with pytest.raises(RuntimeError), fast_start.bare_ray():
        bare = functions()
        raise RuntimeError
    assert functions() == whole and not set(bare) & set(whole)
    assert [function(None, include_dashboard=False) for function in bare] == [None] * 3


def test_what_a_version_of_ray_lacks_is_named_and_the_others_are_whole_again(monkeypatch):
    whole = functions()
    monkeypatch.setattr(fast_start, "NEEDLESS_PROGRAMS", (*fast_start.NEEDLESS_PROGRAMS, "no_such"))
    with pytest.raises(AttributeError, match="no_such"), fast_start.bare_ray():
        pass
    monkeypatch.undo()
    assert functions() == whole


def test_tunes_environment_is_as_it_was_after_a_search():
    from ray.tune.execution import class_cache

    before = dict(class_cache.DEFAULT_ENV_VARS), set(class_cache.ENV_VARS_TO_PROPAGATE)
    assert all(before)
    with fast_start.shared_workers(local=False):
        assert not class_cache.DEFAULT_ENV_VARS and before[1] == class_cache.ENV_VARS_TO_PROPAGATE
    with fast_start.shared_workers(local=True):
        assert not class_cache.DEFAULT_ENV_VARS and not class_cache.ENV_VARS_TO_PROPAGATE
    assert before == (class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE)
