"""``dkm VERB ...`` and ``python -m dkm VERB ...``: run the command that the verb names.

``dkm.config.verbs`` has the verbs. Help is printed without importing the command.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from dkm.config.commands import EXIT_USER_ERROR
from dkm.config.verbs import VERBS, overview, screen, unknown_verb

_HELP = frozenset(["-h", "--help"])


def main() -> None:
    """Run the command line and exit with its code."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what the current word can be
        from dkm.completion import answer

        answer()
    raise SystemExit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Run the verb, and return the exit code where its command does not exit itself."""
    if not words or words[0] in _HELP:
        return _print(overview(), 0 if words else EXIT_USER_ERROR)
    verb, rest = words[0], list(words[1:])
    if verb in ("--version", "-V"):
        verb = "version"
    if verb not in VERBS:
        print(f"error: {_unknown(verb, rest)}", file=sys.stderr)
        return EXIT_USER_ERROR
    if rest and _HELP.issuperset(rest):
        return _print(screen(verb), 0)
    sys.argv = [f"dkm-{verb}", *rest]  # the name of the script that does the same
    import_module(VERBS[verb].module).main()
    return 0


def _unknown(word: str, rest: Sequence[str]) -> str:
    if os.path.lexists(word) or "=" in word:
        return f"{word}: unknown command; did you mean `dkm train {shlex.join([word, *rest])}`?"
    return unknown_verb(word)


def _print(text: str, code: int) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # of a reader such as head
        sys.stdout = None
    return code


if __name__ == "__main__":
    main()
