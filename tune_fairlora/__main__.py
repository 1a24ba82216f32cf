"""All commands under one name: ``tune-fairlora search …`` is ``python -m tune_fairlora search …``."""

from typing import NoReturn

from tune_fairlora.startup import run_command


def main() -> NoReturn:
    """What the console script calls; the command is the first argument (``cli.main``)."""
    run_command()


if __name__ == "__main__":
    main()
