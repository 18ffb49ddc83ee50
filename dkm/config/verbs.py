"""The verbs of the command ``dkm``: what each is for, examples, and the settings that matter.

``--help`` of each command and the overview of ``dkm`` are made of this table. A verb is run by the function ``main`` of
its module. This module imports neither Hydra nor torch, so that help appears at once.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import MISSING, dataclass, fields
from typing import Any

from dkm.config.checks import format_value
from dkm.config.commands import COMMANDS, SELECT_ALIASES
from dkm.config.settings import REQUIRED
from dkm.config.short import SHORT_NAMES, key_of

WIDTH = 80
_NAME_WIDTH = 13


@dataclass(frozen=True)
class Verb:
    """A verb.

    Parameters
    ----------
    name : str
        The word after ``dkm``.
    module : str
        The module whose ``main`` runs it.
    meaning : str
        What it is for, one sentence.
    usage : str
        Its arguments.
    examples : tuple of str
        Commands without ``dkm``.
    settings : mapping
        The settings that matter and their meanings, each in a few words; defaults are those of the declarations.
    more : str
        Where the other settings are explained.
    """

    name: str
    module: str
    meaning: str
    usage: str
    examples: tuple[str, ...]
    settings: dict[str, str]
    more: str = ""


_OUTPUT = "folder of the runs and the answer; an existing one is resumed"
_RUN = "a run directory, or its model/ folder"
_OF_TRAIN = "Other settings are those of dkm train. One of them: dkm help KEY."
_KEY = "A setting in full: dkm help KEY, for example dkm help {}."

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "train",
            "dkm.train",
            "Train an autoencoder and a clustering of its embedding.",
            "[FILE | FOLDER | NAME] [KEY=VALUE ...]",
            (
                "train customers.csv n_clusters=8",
                "train photos encoder=timm/resnet50.a1_in1k",
                "train digits seed=0,1,2 --multirun",
            ),
            {
                **{short.name: short.meaning for short in SHORT_NAMES.values()},
                "recipe": "how to train: auto, classic, flagship, ...",
                "seed": "seed of all random numbers",
            },
            "All settings: dkm help settings. One: dkm help KEY. As composed: --cfg job.",
        ),
        Verb(
            "predict",
            "dkm.predict",
            "Assign new data to the clusters of a finished run.",
            "RUN FILE output=FILE [KEY=VALUE ...]",
            (
                "predict RUN new.csv output=clusters.csv",
                "predict RUN new.csv output=clusters.parquet embedding=true",
                "predict RUN new.npy output=clusters.npz overwrite=true",
            ),
            {
                "run": _RUN,
                "input": "a file or folder like the data of the run",
                "output": "the file to write: .csv, .parquet or .npz",
                "overwrite": "replace an existing file",
                "memberships": "write soft memberships too",
                "embedding": "write the embedding too",
                "device": "cpu, cuda or cuda:N",
                "threads": "CPU threads, by default all cores",
                "id": "another column that identifies the rows; likewise data.KEY",
                "model.class": "the class of a run with model=custom",
            },
            _KEY.format("memberships"),
        ),
        Verb(
            "export",
            "dkm.export",
            "Export the model of a run for use without this package.",
            "RUN output=DIR [KEY=VALUE ...]",
            (
                "export RUN output=artifact",
                "export RUN output=artifact format=onnx",
                "export RUN output=artifact format=numpy overwrite=true",
            ),
            {
                "run": _RUN,
                "output": "the folder to create",
                "format": "torch, onnx or numpy",
                "input": "rows to compare on, by default the data of the run",
                "overwrite": "replace an existing folder",
                "model.class": "the class of a run with model=custom",
            },
            _KEY.format("format"),
        ),
        Verb(
            "compare",
            "dkm.compare",
            "Compare runs: settings in which they differ, and scores.",
            "RUN | FOLDER ... [KEY=VALUE ...]",
            (
                "compare runs/digits_kmeans",
                "compare RUN RUN each=true sort=silhouette",
                "compare runs output=table.csv,table.md,table.png",
            ),
            {
                "output": "files for the table (.csv, .md) and the figure (.png)",
                "pairs": "a .csv file for the agreement of each pair of runs",
                "each": "a row for each run, not for each setting",
                "sort": "the score to sort by",
                "agreement": "compare the assignments of more than 100 runs too",
                "overwrite": "replace existing files",
            },
            _KEY.format("pairs"),
        ),
        Verb(
            "select",
            "dkm.select",
            "Choose the number of clusters without labels, by runs with each.",
            "[FILE] n_clusters=A-B [KEY=VALUE ...]",
            (
                "select customers.csv n_clusters=2-12",
                "select customers.csv n_clusters=2-12 seed=0-4 jobs=2",
                "select digits n_clusters=5,10,15 output=answer",
            ),
            {
                "n_clusters": "numbers to try: a range 2-12 or a list 2,4,8 (also k=)",
                "seed": "seeds of the runs with each number (also seeds=)",
                "output": _OUTPUT,
                "jobs": "runs at a time",
            },
            _OF_TRAIN,
        ),
        Verb(
            "tune",
            "dkm.tune",
            "Search settings without labels, with Optuna (extra optuna).",
            "[FILE] [KEY=VALUE ...] [KEY=A,B,... ...]",
            (
                "tune customers.csv n_clusters=8 trials=40",
                "tune customers.csv n_clusters=8 clustering.init=data,auto",
                "tune digits 'joint.lr=tag(log,interval(1e-4,1e-2))'",
            ),
            {
                "trials": "trials, those of an earlier call included",
                "output": _OUTPUT,
                "objective": "the score to optimize",
                "allow_labels": "allow a score that needs labels",
                "prune": "end trials below the median, if joint.guard=false",
                "jobs": "trials at a time",
            },
            _OF_TRAIN,
        ),
        Verb(
            "report",
            "dkm.report",
            "Write one HTML page about one or several runs.",
            "RUN ... [output=FILE.html] [KEY=VALUE ...]",
            (
                "report RUN",
                "report RUN RUN output=seeds.html",
                "report RUN data.path=moved.csv output=customers.html",
            ),
            {
                "output": "the file to write, by default the report.html of a single run",
                "overwrite": "replace an existing file",
                "data.path": "the data, if they have moved",
                "model.class": "the class of a run with model=custom",
            },
        ),
        Verb(
            "checks",
            "dkm.checks",
            "Print versions and machine for a bug report, and run a self test.",
            "",
            ("checks", "checks > checks.txt", "checks | grep torch"),
            {},
        ),
        Verb(
            "completion",
            "dkm.completion",
            "Print the code with which a shell completes commands and settings.",
            "bash | zsh | fish",
            (
                'completion bash    in ~/.bashrc: eval "$(dkm completion bash)"',
                'completion zsh     in ~/.zshrc:  eval "$(dkm completion zsh)"',
                "completion fish    in config.fish: dkm completion fish | source",
            ),
            {},
        ),
        Verb(
            "version",
            "dkm.version",
            "Print the version.",
            "",
            ("version",),
            {},
        ),
        Verb(
            "help",
            "dkm.help",
            "Explain a command, a setting, a group or an option.",
            "[VERB | KEY | GROUP | GROUP=OPTION | settings]",
            ("help train", "help pretrain.lr", "help clustering=dec"),
            {},
            "dkm help settings prints the settings of all sections with their values.",
        ),
    )
}


def overview() -> str:
    """Return the text of ``dkm --help``."""
    lines = [
        "usage: dkm VERB [ARGUMENT ...]",
        "",
        "Deep embedded clustering of tables, images, texts and matrices.",
        "",
    ]
    lines += [f"  {name:<11} {verb.meaning}".rstrip(".") for name, verb in VERBS.items()]
    lines += ["", "  dkm train                              handwritten digits, about 20 seconds"]
    lines += ["  dkm train customers.csv n_clusters=8   your own table"]
    return "\n".join([*lines, "", "dkm VERB --help shows examples and settings; dkm help KEY explains a setting."])


def screen(name: str) -> str:
    """Return the text of ``--help`` of a verb, which fits a screen of 80 columns and 24 lines."""
    verb = VERBS[name]
    lines = [f"usage: dkm {name} {verb.usage}".rstrip(), "", *textwrap.wrap(verb.meaning, WIDTH), ""]
    lines += [f"  dkm {example}" for example in verb.examples]
    if verb.settings:
        lines += ["", *(_line(name, key, meaning) for key, meaning in verb.settings.items())]
    return "\n".join([*lines, *(["", verb.more] if verb.more else [])])


def _line(verb: str, key: str, meaning: str) -> str:
    default = default_of(verb, key)
    shown = " (required)" if default == REQUIRED else "" if default in (None, MISSING, []) else None
    return f"  {key:<{_NAME_WIDTH}}{meaning}" + (f" (default {format_value(default)})" if shown is None else shown)


def default_of(verb: str, key: str) -> Any:
    """Return the default of a setting of a verb, MISSING for one that its command does not declare."""
    if verb in COMMANDS:
        key = SELECT_ALIASES.get(key, key) if verb == "select" else key
        return next((part.default for part in fields(COMMANDS[verb]) if part.name == key), MISSING)
    if verb != "train":
        return MISSING
    if key == "recipe":
        return "auto"
    from dkm.config.messages import defaults

    return defaults().get(key_of(key), MISSING)


def unknown_verb(word: str) -> str:
    """Return the message about a word that is no verb."""
    near = difflib.get_close_matches(word, VERBS, n=1)
    remedy = f"did you mean `dkm {near[0]}`?" if near else f"expected one of {', '.join(VERBS)}"
    return f"{word}: unknown command; {remedy}"
