"""Choose the number of clusters without labels:

    python -m dkm.select k=2-12 data=csv data.path=customers.csv

Trains a run for each number and each seed, all with the same settings (any of ``dkm.train`` may be given; one
pretraining for each seed serves all numbers), and weighs what indicates a natural number without labels: the modularity
of the clusters on the data, and how far clusterings agree, between seeds and between halves of the data. Writes the
scores (``select.csv``), the recommendation with its reason and its uncertainty (``select.json``) and a figure
(``select.png``). Where the evidence is weak, a warning says so.

    seeds=0,1,2     seeds of the runs for each number
    output=DIR      folder of the runs and the answer; an existing one is resumed
    jobs=2          runs at a time
"""

from __future__ import annotations

from collections.abc import Sequence

from dkm.config.commands import SelectConfig, parse_own
from dkm.config.commands import main as run_command
from dkm.search.selection_runs import select


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, __doc__)


def work(words: Sequence[str]) -> None:
    """Choose the number of clusters as the words of the command line say."""
    select(*parse_own(SelectConfig, words))


if __name__ == "__main__":
    main()
