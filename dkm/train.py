"""``python -m dkm.train [overrides]``: from the command line to a finished run.

The config is composed and checked, the data are loaded and checked against it, and only then the run directory is made:
a mistake costs one line and leaves nothing behind. torch is imported after the config has been checked.

Exit codes: 0 done, 2 the user's input is wrong (one line), 1 anything else, 130 interrupted (a checkpoint was written).
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence

from dkm.config.commands import EXIT_INTERRUPTED, EXIT_USER_ERROR
from dkm.config.compose import Command, compose_for_help, is_multirun, parse
from dkm.config.page import help_text
from dkm.config.verbs import screen
from dkm.errors import Failure, UserError, printable
from dkm.runtime import distributed
from dkm.search.sweep import run_hydra
from dkm.training.command_line import Understood, understand
from dkm.training.launch import Plan, execute_with_one_line_errors, plan_of_main, plan_run, print_once


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _main(sys.argv[1:])
    except distributed.ToldElsewhere:
        code = EXIT_USER_ERROR
    except distributed.Told as told:
        code = told.code
    except distributed.RankLost as error:
        if error.is_told_here:
            print(f"error: {printable(str(error))}; {error.remedy}", file=sys.stderr)
        code = error.failure.code
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except OSError as error:  # no other handler has named the file
        where = error.filename or "standard output"
        print(f"error: {where}: {error.strerror or error}; expected a place to write; choose another", file=sys.stderr)
        sys.stdout = None  # discard what is left
        code = 1
    except KeyboardInterrupt as error:
        print_once(f"interrupted: {error}" if error.args else "interrupted")
        code = EXIT_INTERRUPTED
    distributed.leave(code)


def _main(arguments: Sequence[str]) -> int:
    if not distributed.is_several():
        if not {"--help", "-h"}.isdisjoint(arguments):
            return _print_help([word for word in arguments if word not in ("--help", "-h")])
        understood = understand(arguments)
        command = parse(understood.words)
        if command.is_for_hydra:
            return run_hydra(command, understood.tell)
        plan = plan_run(command)
        understood.tell()
        return _train(plan)
    # Below, torch prints the stack of C++ for each lost connection, which our own line is about.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch

    with distributed.process_group(with_cuda=torch.cuda.is_available()):
        understood, command = distributed.jointly(lambda: _parse_for_several(arguments))
        if command.is_for_hydra:  # prints, and needs no help with it
            return run_hydra(command, understood.tell) if distributed.is_main() else 0
        plan = plan_of_main(distributed.jointly(lambda: plan_run(command)))
        understood.tell()
        return _train(plan)


def _print_help(arguments: Sequence[str]) -> int:
    """Print the screen of ``--help``; beside other words, the settings of the config that they choose."""
    text = screen("train")
    if arguments:
        understood = understand(arguments)
        command = parse(understood.words)
        words = [word for word in command.overrides if "=" in word]
        text = help_text(compose_for_help(command._replace(overrides=words)))
        understood.tell()
    try:
        print(text, flush=True)
    except BrokenPipeError:  # of a reader such as head
        sys.stdout = None
    return 0


def _parse_for_several(arguments: Sequence[str]) -> tuple[Understood, Command]:
    understood = understand(arguments)
    command = parse(understood.words)
    if is_multirun(command.overrides):
        raise UserError("--multirun: expected one process, got several from torchrun; start the runs one by one")
    return understood, command


def _train(plan: Plan) -> int:
    """Train, and return the exit code."""
    from dkm.runtime.signals import Interrupted

    try:
        execute_with_one_line_errors(plan)
    except Interrupted:
        print_once(f"interrupted: a checkpoint was written; continue with resume={shlex.quote(str(plan.directory))}")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    main()
