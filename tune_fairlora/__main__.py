"""All commands under one name: ``tune-fairlora search …`` is ``python -m tune_fairlora search …`` (``cli.main``)."""

from tune_fairlora.startup import run_command as main  # which the console script calls

if __name__ == "__main__":
    main()
