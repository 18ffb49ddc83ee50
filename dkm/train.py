"""``python -m dkm.train [overrides]``: from the command line to a finished run.

Compose the config, check it, load the data, check what they allow together, and only then make the run directory and
train: a mistake costs one line and leaves nothing behind. torch is imported after the config was found good.

Exit codes: 0 done, 2 the user's input is wrong (one line), 1 anything else, 130 interrupted (a checkpoint was written).
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dkm.config.commands import EXIT_INTERRUPTED, EXIT_USER_ERROR
from dkm.config.compose import Command, compose, parse
from dkm.config.page import help_text
from dkm.errors import Failure, UserError
from dkm.runtime import distributed
from dkm.search.sweep import is_sweep, run_hydra
from dkm.training.launch import Plan, execute_with_one_line_errors, require_new, say_once

if TYPE_CHECKING:
    pass


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _main(sys.argv[1:])
    except distributed.ToldElsewhere:
        code = EXIT_USER_ERROR
    except distributed.RankLost as error:  # before the run began
        print(f"error: {error}; nothing was trained yet; start all of them again", file=sys.stderr)
        code = 1
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        say_once("interrupted")
        code = EXIT_INTERRUPTED
    distributed.leave(code)


def _main(arguments: Sequence[str]) -> int:
    if not distributed.is_several():
        command = parse(arguments)
        if not {"--help", "-h"}.isdisjoint(arguments):
            words = [word for word in command.overrides if "=" in word]
            try:
                print(help_text(compose(command._replace(overrides=words, is_only_read=True)).config), flush=True)
            except BrokenPipeError:  # of a reader such as head
                sys.stdout = None
            return 0
        return run_hydra(command) if command.is_for_hydra else _exit_code(_plan(command))
    import torch

    with distributed.process_group(with_cuda=torch.cuda.is_available()):
        command = distributed.jointly(lambda: _parse_for_several(arguments))
        if command.is_for_hydra:  # prints, and needs no help with it
            return run_hydra(command) if distributed.is_main() else 0
        plan = distributed.jointly(lambda: _plan(command))
        directory = distributed.from_main(os.fsencode(plan.directory))
        assert directory is not None
        return _exit_code(plan._replace(directory=Path(os.fsdecode(directory))))


def _parse_for_several(arguments: Sequence[str]) -> Command:
    command = parse(arguments)
    if is_sweep(command):
        raise UserError("--multirun: expected one process, got several from torchrun; start the runs one by one")
    return command


def _plan(command: Command) -> Plan:
    given = [o.partition("=")[2].strip("'\"") for o in command.overrides if o.startswith("resume=")]
    named = given[-1] if given else None
    if named not in (None, "auto", "null"):
        from dkm.training.resume import named_run, resumed_config

        run = named_run(named)
        return Plan(resumed_config(run, command), run)
    composed = compose(command)
    directory = Path(composed.hydra.run.dir).absolute()
    if not distributed.is_main():  # rank 0 tells the directory, whose name has the time in it
        composed.config.resume = None
        return Plan(composed.config, directory, composed)
    if named == "auto":
        from dkm.training.resume import unfinished_run, with_config_of

        found = unfinished_run(composed.config, directory)
        if found is not None:
            return Plan(with_config_of(found, composed.config), found)
    require_new(directory)
    return Plan(composed.config, directory, composed)


def _exit_code(plan: Plan) -> int:
    from dkm.runtime.signals import Interrupted

    try:
        execute_with_one_line_errors(plan)
    except Interrupted:
        say_once(f"interrupted: a checkpoint was written; continue with resume={shlex.quote(str(plan.directory))}")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    main()
