"""Times training steps of the joint phase under each regularization, and in each precision.

A step is the trainer's whole work for one batch of 256 (``OurEpochs.steps`` in epochs.py), without augmentation, with
the default network on noise of MNIST's shape. A turn is a few steps of each. Both forms of L2 regularization are
compared with none; bf16 and compile=true with fp32, all three with the default regularization. The compile time, the
first call minus a later one, is a separate column.

    python scripts/benchmark_step.py [--repeats 20] [--json FILE]
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence

from epochs import OurEpochs, random_images
from timing import Report, options_parser, read_options, take_turns

_BATCH_SIZE = 256
_COMPILERS = ("g++", "clang++")


def has_cpp_compiler() -> bool:
    """Return whether there is a C++ compiler, which torch.compile needs on the CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS))


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=20)
    parser.add_argument("--steps", type=int, default=8, help="steps per turn (default: 8)")
    options = read_options(parser, argv)
    data = random_images(options.steps * _BATCH_SIZE)
    common = ("augmentation=none", f"batch_size={_BATCH_SIZE}")

    def steps(*overrides: str) -> Callable[[], None]:
        return OurEpochs(data, *common, *overrides).steps

    report = Report(options.json, steps=options.steps)
    forms = ("none", "weight_decay", "l2_penalty")
    turns = take_turns({form: steps(f"regularization={form}") for form in forms}, repeats=options.repeats)
    row = turns.row("weight_decay/none", "l2_penalty/none")
    report.add("regularization", f"{options.steps} steps by regularization", [row])

    works = {"fp32": steps(), "bf16": steps("precision=bf16")}
    first_s = 0.0
    if options.quick or not has_cpp_compiler():
        print(f"\ncompile=true: left out, {'--quick' if options.quick else 'no C++ compiler found'}")
    else:
        works["compile"] = steps("compile=true")
        start_s = time.perf_counter()
        works["compile"]()
        first_s = time.perf_counter() - start_s
    turns = take_turns(works, repeats=options.repeats)
    row = turns.row("bf16/fp32", "compile/fp32")
    if "compile" in works:
        row["compiling_s"] = first_s - turns.median_s("compile")
    report.add("precision", f"{options.steps} steps by precision", [row])
    report.write()


if __name__ == "__main__":
    main()
