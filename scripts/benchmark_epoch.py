"""Times the trainer's epochs against a bare loop over the same network, batch size, precision and data.

``OurEpochs`` (here with augmentation) and ``BareEpochs`` in epochs.py define the two epochs. The ratio is the time of
ours divided by that of the bare loop; both take turns. Without ``--root``, the data are noise of MNIST's shape.

    python scripts/benchmark_epoch.py --root DIRECTORY_WITH_MNIST [--repeats 5] [--precision bf16] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Sequence

from epochs import BareEpochs, OurEpochs, mnist
from timing import Report, Row, options_parser, read_options, take_turns


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=5)
    parser.add_argument("--root", help="the folder with MNIST/raw")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options = read_options(parser, argv)
    data = mnist(options.root, 512 if options.quick else None)
    report = Report(options.json, precision=options.precision)
    rows: list[Row] = []
    for phase in ("pretrain", "joint"):
        ours = OurEpochs(data, f"precision={options.precision}", phase=phase)
        turns = take_turns({"bare": BareEpochs(ours), "dkm": ours}, repeats=options.repeats)
        rows.append({"epoch": phase, **turns.row("dkm/bare")})
    report.add("epochs", f"An epoch of {data.name}, {data.n_samples:,} images", rows)
    report.write()


if __name__ == "__main__":
    main()
