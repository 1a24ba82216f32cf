"""What every command shares: a parser that answers in one line, checked numbers, exit statuses."""

import argparse
import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Container, Iterator
from typing import NoReturn

from trainables.config import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
FLAG, FIELD = re.compile(r"--([a-z]+(?:-[a-z]+)*)"), re.compile(r"`([a-z_]+)`")
UNKNOWN_FLAG = re.compile(r"unrecognized arguments: (--[\w-]+)")
DURATION = re.compile(rf"(?:{PART.pattern})+")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit status 2, without argparse's page of usage."""
        if unknown := UNKNOWN_FLAG.match(message):
            near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += f", did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{message} (--help lists the options)")


@contextlib.contextmanager
def errors_name_fields(fields: Container[str]) -> Iterator[None]:
    """Errors raised inside name the ``fields`` of the Python API, as in `grace_period`, wherever they name flags."""

    def field(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        return f"`{name}`" if name in fields else flag[0]

    try:
        yield
    except ConfigError as error:
        raise ConfigError(FLAG.sub(field, str(error))) from error


def run(command: Callable[[], int], interrupted: str, fields: Container[str] = ()) -> int:
    """``command``'s exit status: 0 done, 1 failed; 2 with one line for a user's mistake; 130 with ``interrupted``.

    That line names flags, as in --grace-period, where the error names one of the ``fields``.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Δ and λ must not break a terminal that has no such letters
            stream.reconfigure(errors="replace")
    try:
        return command()
    except ConfigError as error:
        text = FIELD.sub(lambda f: f"--{f[1].replace('_', '-')}" if f[1] in fields else f[0], str(error))
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def positive(text: str) -> float:
    return _number(text, float, lambda v: v > 0, "> 0")


def share(text: str) -> float | str:
    return text if text == "auto" else _number(text, float, lambda v: v >= 0, ">= 0 (or auto)")


def count(text: str) -> int:
    return _number(text, int, lambda v: v >= 0, ">= 0, whole")


def duration(text: str) -> float:
    """Seconds of "90s", "30m", "1.5h" or "1h30m"."""
    if not DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"a time must be like 30m, 2h or 1h30m, but got {text}")
    seconds = sum(float(number) * UNITS[unit] for number, unit in PART.findall(text))
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"a time > 0 must be given, but got {text}")
    return seconds


def given(parser: argparse.ArgumentParser, argv: list[str] | None) -> dict:
    """The options that ``argv`` itself has, by name, without defaults. ``parser`` is spoiled by it."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def positive_int(text: str) -> int:
    return _number(text, int, lambda v: v >= 1, ">= 1, whole")


def seed(text: str) -> int:
    return _number(text, int, lambda v: 0 <= v < 2**31, "0 … 2147483647, whole")


def port(text: str) -> int:
    return _number(text, int, lambda v: 1 <= v <= 65535, "1 … 65535, whole")


def _number(text: str, kind, holds, rule: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not holds(value):
        raise argparse.ArgumentTypeError(f"a number {rule} must be given, but got {text}")
    return value
