"""Choose the number of clusters without labels:

    python -m dkm.select customers.csv n_clusters=2-12

Trains a run for each number and each seed, all with the same settings (any of ``dkm.train`` may be given; one
pretraining for each seed serves all numbers), and weighs what indicates a natural number without labels: the modularity
of the clusters on the data, and how far clusterings agree, between seeds and between halves of the data. Writes the
scores (``select.csv``), the recommendation with its reason and its uncertainty (``select.json``) and a figure
(``select.png``). Where the evidence is weak, a warning says so.

``k=`` and ``seeds=`` are other spellings of ``n_clusters=`` and ``seed=``.
"""

from __future__ import annotations

from collections.abc import Sequence

from dkm.config.commands import SELECT_ALIASES, SelectConfig, parse_own
from dkm.config.commands import main as run_command
from dkm.config.verbs import screen
from dkm.search.selection_runs import select
from dkm.training.command_line import understand


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, screen("select"))


def work(words: Sequence[str]) -> None:
    """Choose the number of clusters as the words of the command line say."""
    config, rest = parse_own(SelectConfig, words, SELECT_ALIASES)
    understood = understand(rest, finds_number=False)
    select(config, understood.words, understood.tell)


if __name__ == "__main__":
    main()
