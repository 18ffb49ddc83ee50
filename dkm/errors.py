"""The errors that end a command with one line, and the form of that line.

Nothing here imports more than the standard library, so that a loss can be imported without the application.
"""

from __future__ import annotations

from collections.abc import Sequence

from dkm.installation import install_command

# Some libraries quote the file.
_MAX_REASON = 300


def printable(text: str) -> str:
    """Return a text on one line in which other control characters, which could steer a terminal, are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """Return a text whose lines are printable."""
    return "\n".join(map(printable, text.split("\n")))


def first_of(names: Sequence[str], most: int) -> str:
    """Return at most so many names as a list for a message, with the number of the others."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class UserError(Exception):
    """Something that the user can mend: the message is one line that names key or file, value, expectation, remedy."""

    def __str__(self) -> str:
        return printable(super().__str__())


class Failure(Exception):
    """What ended a run though the input was right: the message is one line."""

    def __str__(self) -> str:
        return printable(super().__str__())


def input_error(source: str, found: str, expected: str, remedy: str) -> UserError:
    """Return the error about data; ``source`` is KEY=VALUE, with more words where that alone is not exact."""
    # One line, even if a path or the name of an array holds a line break.
    return UserError(" ".join(f"{source}: {found}; expected {expected}; {remedy}".splitlines()))


def missing_extra_error(source: str, package: str, extra: str) -> UserError:
    """Return the error about an optional package that is not installed; ``source`` is KEY=VALUE that needs it."""
    remedy = f"install it: {install_command(extra)}"
    return input_error(source, f"{package} is not installed", f"the extra {extra}", remedy)


def reason(error: BaseException) -> str:
    """Return the cause in a few words; torchvision's long messages have it in their last line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    line = lines[-1] if lines else type(error).__name__
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python or torch, which raises a RuntimeError, could not allocate memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error))


def in_short(error: Exception) -> str:
    """Return the cause on one line."""
    return " ".join(reason(error).split())
