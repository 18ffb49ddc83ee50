"""Search settings without labels, on Optuna; needs the extra `optuna`

    python -m dkm.tune trials=40 data=csv data.path=customers.csv clustering.n_clusters=8 \\
        'clustering.weight=tag(log,interval(0.1,10))' clustering.init=k-means++,auto

What varies is written as for a Hydra sweep: choices ``a,b,c``, ``range(1,5)``, ``interval(0,1)``,
``tag(log,interval(0.001,1))``. If nothing varies, the search varies the weight of the clustering loss, the start of the
clusters and the learning rate of the joint phase, so that one pretraining serves all trials (with ``clustering=none``,
which has no joint phase, settings of the pretraining). Every trial is a run of ``dkm.train``, which takes all other
overrides; the first one has the current settings. Trials that fall behind are pruned, failed ones do not end the study.
Writes ``study.db`` (Optuna's), ``tune.csv``, ``tune.json``, ``tune.png``.

    trials=50                    trials of the study, those of an earlier call included
    output=DIR                   folder of the trials and the answer; an existing study is resumed
    objective=modularity_data    or silhouette, calinski_harabasz, davies_bouldin
    allow_labels=false           true: acc, nmi and ari can be the objective too
    prune=true                   end trials below the median at the same epoch, with joint.guard=false
    jobs=1                       trials at a time
"""

from __future__ import annotations

from collections.abc import Sequence

from dkm.config.commands import TuneConfig, parse_own
from dkm.config.commands import main as run_command
from dkm.config.verbs import screen
from dkm.search.study import tune
from dkm.training.command_line import understand


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, screen("tune"))


def work(words: Sequence[str]) -> None:
    """Search as the words of the command line say."""
    config, rest = parse_own(TuneConfig, words)
    understood = understand(rest, is_sweep=True, finds_number=False)
    tune(config, understood.words, understood.tell)


if __name__ == "__main__":
    main()
