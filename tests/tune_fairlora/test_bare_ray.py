"""What Ray's start leaves out; that a search's Ray lacks those programs and works is shown in test_startup.py."""

import ray._private.node
import ray._private.services
from ray._private.node import Node

from tune_fairlora.execution import fast_start


def functions() -> tuple:
    return Node.start_monitor, Node.start_log_monitor, ray._private.services.start_api_server


def test_ray_is_whole_again_whatever_happens():
    whole = functions()
    try:
        with fast_start.bare_ray():
            bare = functions()
            raise RuntimeError
    except RuntimeError:
        assert functions() == whole
    assert not set(bare) & set(whole)
    assert [function(None) for function in bare] == [None, None, (None, None)]


def test_what_a_version_of_ray_lacks_is_left_alone(monkeypatch):
    lacking = [("ray._private.no_such", "", "f", None), ("ray._private.node", "NoSuch", "f", None)]
    lacking += [("ray._private.node", "Node", "no_such", None)]
    monkeypatch.setattr(fast_start, "LEFT_OUT", [*lacking, *fast_start.LEFT_OUT])
    whole = functions()
    with fast_start.bare_ray():
        assert not set(functions()) & set(whole) and not hasattr(Node, "no_such")
    assert functions() == whole and not hasattr(Node, "no_such")
