"""Search settings without labels, on Optuna; needs the extra: pip install 'dkm[optuna]'

    python -m dkm.tune trials=40 data=csv data.path=customers.csv clustering.n_clusters=8 \\
        'clustering.weight=tag(log,interval(0.1,10))' clustering.init=k-means++,auto

What varies is written as for a Hydra sweep: choices ``a,b,c``, ``range(1,5)``, ``interval(0,1)``,
``tag(log,interval(0.001,1))``. Where nothing varies, the weight of the clustering loss, the start of the clusters and
the learning rate of the joint phase do, so that one pretraining serves all trials (with ``clustering=none``, which has
no joint phase, settings of the pretraining). Every trial is a run of
``dkm.train``, which takes all other words; the first one has the settings as they are. Trials that fall behind are
pruned, failed ones do not end the study. Writes ``study.db`` (Optuna's), ``tune.csv``, ``tune.json``, ``tune.png``.

    trials=50                    of the whole study, those of an earlier call among them
    output=DIR                   where trials and answer go; a study that is there is gone on with
    objective=modularity_data    or silhouette, calinski_harabasz, davies_bouldin
    allow_labels=false           true: acc, nmi and ari can be the objective too
    prune=true                   end trials that are worse than the median at the same epoch
    jobs=1                       trials at a time
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkm.config.commands import TuneConfig, parse_own
from dkm.config.commands import main as run_command
from dkm.config.compose import absolute
from dkm.errors import Failure, UserError, in_short
from dkm.runtime.locks import lock_folder
from dkm.search.study import LOCK, STORAGE, cautions, data_sha256, open_study, plan_study
from dkm.search.study_report import answer_lines, build_answer, write_answer, write_trials
from dkm.search.trials import Study, run_trials

if TYPE_CHECKING:
    pass


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, __doc__)


def work(words: Sequence[str]) -> None:
    """Search as the words say."""
    tune(*parse_own(TuneConfig, words))


def tune(config: TuneConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the trials that are missing; write, print and return the answer.

    Raises
    ------
    UserError
        If a word is wrong, or the study in the folder is another one.
    Failure
        If no trial comes to an end.
    """
    optuna = _optuna()
    from sqlalchemy.exc import SQLAlchemyError

    folder = Path(absolute(config.output or f"runs/tune/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    plan = plan_study(config, folder, overrides)
    plan = plan._replace(sha256=data_sha256(plan))
    is_new = not os.path.exists(folder)  # noqa: PTH110  # pathlib raises for a name too long
    with lock_folder(folder, LOCK):
        try:
            study = plan._replace(study=open_study(plan))
            print(f"{config.trials} trials in {folder}", flush=True)
            for line in cautions(study):
                print(f"warning: {line}", file=sys.stderr, flush=True)
            run_trials(study)
            return _answered(study)
        except KeyboardInterrupt as error:
            if error.args:
                raise
            raise KeyboardInterrupt(f"the same command with output={folder} goes on") from error
        except UserError:
            if is_new and not any(folder.glob("trials/*/checkpoints/*")):  # wrong from the first trial on
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            raise Failure(f"{folder / STORAGE}: {in_short(error)}; what was written before is kept") from error
        except OSError as error:
            where = error.filename or folder
            raise Failure(f"{where}: {error.strerror}; what was written before is kept") from error


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("dkm.tune: expected the package optuna; install it: pip install 'dkm[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _answered(study: Study) -> dict[str, Any]:
    """Write, print and return the answer."""
    write_trials(study)
    answer = build_answer(study)
    write_answer(study, answer)
    print("\n".join(answer_lines(study, answer)))
    return answer


# --- the study --------------------------------------------------------------------------------------------------------


# --- the answer -------------------------------------------------------------------------------------------------------


if __name__ == "__main__":
    main()
