"""``dkm help``: explain a command, a setting, a group or an option.

python -m dkm.help pretrain.lr
python -m dkm.help clustering=dec
python -m dkm.help settings [GROUP=OPTION ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dkm.config.commands import main as run_command
from dkm.config.explain import explain
from dkm.config.verbs import VERBS, overview, screen


def main() -> None:
    """Run the command line and exit with its code."""
    if len(sys.argv) == 1:
        print(overview())
    else:
        run_command(work, screen("help"))


def work(words: Sequence[str]) -> None:
    """Print what each of the words means."""
    if words[0] == "settings":
        print(_all_settings(words[1:]))
    else:
        print("\n\n".join(screen(word) if word in VERBS else explain(word) for word in words))


def _all_settings(overrides: Sequence[str]) -> str:
    """Return the settings of all sections, of the options that the overrides choose."""
    from dkm.config.compose import compose_for_help, parse
    from dkm.config.page import help_text
    from dkm.config.short import translate

    return help_text(compose_for_help(parse(translate(overrides))))


if __name__ == "__main__":
    main()
