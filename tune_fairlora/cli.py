"""What every command shares: a parser that answers in one line, checked numbers, exit statuses; and ``tune-fairlora``.

tune-fairlora search --space digits                      as python -m tune_fairlora.search --space digits
eval "$(register-python-argcomplete tune-fairlora)"      once in a shell: Tab completes commands, options and names
"""

import argparse
import contextlib
import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from trainables.config import ConfigError, lookup

COMMANDS = {
    "search": "search methods and hyperparameters for the Pareto front",
    "prepare": "read a data set as its authors distribute it",
    "confirm": "measure the front on the test split",
    "ui": "open MLflow at the front",
    "report": "write one HTML file about a search",
    "export": "take a trial's model home",
    "predict": "show images to an exported model",
    "fetch": "get a search's record from MLflow",
}

Number = TypeVar("Number", int, float)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
DURATION = re.compile(rf"(?:{PART.pattern})+")
UNKNOWN_OPTION = re.compile(r"unrecognized arguments: (--[\w-]+)")
OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
FIELD = re.compile(r"`([a-z_]+)`")  # how an error names an argument of the API, which is an option here
BROKEN_PIPE = 141  # the exit status that shells give for a reader that has gone away


def main(argv: Sequence[str]) -> int:
    """``tune-fairlora COMMAND …``: the exit status of the command, or 2 where there is no such command."""
    if "_ARGCOMPLETE" in os.environ:
        _complete(os.environ["COMP_LINE"].split()[1:])
    if argv and argv[0] in COMMANDS:
        module = importlib.import_module(f"tune_fairlora.{argv[0]}")
        return run(module.parser(), argv[1:], module.command)
    return run(_overview(), argv[:1] or ["--help"], lambda args: len(lookup(COMMANDS, args.command, "command")))


def _overview() -> "Parser":
    lines = "\n".join(f"  {name:8} {about}" for name, about in COMMANDS.items())
    overview = Parser(
        "",
        "Search fair fine-tuning of vision models; each command has a --help of its own.",
        epilog=f"commands:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    overview.add_argument("command", metavar="COMMAND", help="one of those below")
    return overview


def _complete(words: list[str]) -> None:
    """Answer the shell, which asks for completions of the line ``tune-fairlora WORDS``, and end the process."""
    import argcomplete

    from search_spaces import SPACES
    from tune_fairlora.record.event_log import EVENT_LOG

    parser = _overview()
    if words and words[0] in COMMANDS:
        parser = importlib.import_module(f"tune_fairlora.{words[0]}").parser()
        os.environ["_ARGCOMPLETE"] = "2"  # the program is the line's second word
    searches = [path.parent.name for path in Path("runs").glob(f"*/{EVENT_LOG}")]
    names: dict[str, Iterable[str]] = {"command": COMMANDS, "space": SPACES}
    names |= dict.fromkeys(("search", "resume", "resync"), searches)
    for action in parser._actions:
        if action.dest in names:
            known = dict.fromkeys(names[action.dest], "")
            action.completer = argcomplete.ChoicesCompleter(known)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


class Version(argparse.Action):
    """``--version``; looked up only then, as that reads files."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        from importlib.metadata import version

        print(f"tune-fairlora {version('tune-fairlora')}")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """The parser of a command, called ``tune-fairlora NAME`` or ``python -m tune_fairlora.NAME`` as it was started;
    ``interrupted`` is what the command says after Ctrl-C."""

    def __init__(self, command: str, description: str, interrupted: str = "interrupted", **options: Any):
        name = "tune-fairlora " if sys.argv[0].endswith("tune-fairlora") else "python -m tune_fairlora."
        self.interrupted = interrupted
        super().__init__(prog=(name + command).rstrip(" ."), description=description, allow_abbrev=False, **options)
        self.add_argument("--version", action=Version, nargs=0, help="print the version and exit")

    def error(self, message: str) -> NoReturn:
        """One line and exit status 2, without argparse's page of usage."""
        if unknown := UNKNOWN_OPTION.match(message):
            near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += f", did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{message} (--help lists the options)")


def run(parser: Parser, argv: Sequence[str], command: Callable[[argparse.Namespace], int]) -> int:
    """The exit status of ``command``, called with the parsed ``argv``: 0 done, 1 failed; 2 with one line for a user's
    mistake; 130 interrupted; 141 where nobody reads any longer (``| head``)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Δ and λ must not break a terminal that has no such letters
            stream.reconfigure(errors="replace")
    try:
        status = command(parser.parse_args(argv))
        sys.stdout.flush()
        return status
    except ConfigError as error:

        def option(name: re.Match[str]) -> str:
            text = f"--{name[1].replace('_', '-')}"
            return text if text in parser._option_string_actions else name[0]

        print(f"error: {FIELD.sub(option, ' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(parser.interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:
        return BROKEN_PIPE


@contextlib.contextmanager
def errors_name_fields(fields: Container[str]) -> Iterator[None]:
    """Errors that are raised inside name ``fields`` of the API, `out`, also where they say --out."""

    def field(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        return f"`{name}`" if name in fields else option[0]

    try:
        yield
    except ConfigError as error:
        raise ConfigError(OPTION.sub(field, str(error))) from error


def duration(text: str) -> float:
    """Seconds of "90s", "30m", "1.5h" or "1h30m"."""
    if not DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"a time must be like 30m, 2h or 1h30m, but got {text}")
    seconds = sum(float(number) * UNITS[unit] for number, unit in PART.findall(text))
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"a time > 0 must be given, but got {text}")
    return seconds


def _number(kind: type[Number], rule: str, holds: Callable[[Number], bool]) -> Callable[[str], Number]:
    def number(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if holds(value):
                return value
        raise argparse.ArgumentTypeError(f"a number {rule} must be given, but got {text}")

    return number


positive = _number(float, "> 0", lambda v: v > 0)
count = _number(int, ">= 0, whole", lambda v: v >= 0)
positive_int = _number(int, ">= 1, whole", lambda v: v >= 1)
seed = _number(int, "0 … 2147483647, whole", lambda v: 0 <= v < 2**31)
port = _number(int, "1 … 65535, whole", lambda v: 1 <= v <= 65535)
not_negative = _number(float, ">= 0 (or auto)", lambda v: v >= 0)


def share(text: str) -> float | str:
    return text if text == "auto" else not_negative(text)
