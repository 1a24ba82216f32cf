"""Search fair fine-tuning: the Pareto front of accuracy and the gap between classes or groups.

    import tune_fairlora as tf

    search = tf.run(space="digits", trials=24)     # as `python -m tune_fairlora.search --space digits --trials 24`
    search = tf.open("NAME")                       # one that ran before, or runs: its name in runs/, or its folder
    search.front                                   # DataFrames: front, trials, epochs, confirmed
    trial = search.best("knee")
    trial.export("model/")
    trial.predict(["photo.jpg"])
    search.confirm()                               # the front on the test split
    search.report()                                # one HTML file

In a notebook a search shows its front. A mistake raises ``tf.ConfigError``, in one line. Importing takes no library
and changes nothing in the process: what a name needs is imported when it is used.
"""

from typing import TYPE_CHECKING

__all__ = ["ConfigError", "Search", "Trial", "open", "resume", "run"]

if TYPE_CHECKING:
    from trainables.config import ConfigError
    from tune_fairlora.api import Search, Trial, open, resume, run
else:

    def __getattr__(name):
        """Python asks here for what the package has not imported yet, submodules of ``from tune_fairlora import …``
        included: so this is where a file of the user's that hides a package of ours is found."""
        if name == "__version__":
            from importlib.metadata import version

            return version("tune-fairlora")
        if not name.startswith("__"):
            from tune_fairlora.startup import require_own_packages

            require_own_packages()
        if name in __all__:
            from importlib import import_module

            return getattr(import_module("tune_fairlora.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return [*__all__, "__version__"]
