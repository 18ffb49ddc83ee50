"""The data report: what was read, left out, filled, encoded or guessed, and what looks odd.

A reader fills in a report while it reads; the run prints it before training, and keeps it in ``data.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dkm.errors import first_of

# Columns listed by name in one line of the text form; the JSON form has all.
_MAX_NAMES = 8
_MAX_EXAMPLES = 5


@dataclass
class LeftOut:
    """Rows, columns or files that are not used, with the reason."""

    what: str  # "rows", "columns", "files", "cells", ...
    n: int
    reason: str
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        examples = f": {', '.join(self.examples)}" if self.examples else ""
        more = ", ..." if self.n > len(self.examples) > 0 else ""
        return f"{self.n:,} {self.what}, {self.reason}{examples}{more}"


@dataclass
class DataReport:
    """What a reader did with the user's data.

    Attributes
    ----------
    source : str
        The setting that names the data, such as ``data.path=customers.csv``.
    n_rows : int
        Rows (or files) found; those that are used are ``n_used``.
    decisions : dict
        How the data were read, with the evidence, such as ``{"delimiter": "';', in each of the first 100 lines"}``.
    left_out : list of LeftOut
    filled : dict
        Number of filled cells by column.
    columns : list of dict
        For a table: name, role, kind and encoding of each column, with the reason.
    scaling : str
        The kind of scaling, with the reason if it was chosen by the data.
    odd : list of str
        What looks odd and may need attention; each becomes a warning of the run.
    """

    source: str = ""
    n_rows: int = 0
    n_used: int = 0
    n_features: int = 0
    decisions: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    filled: dict[str, int] = field(default_factory=dict)
    columns: list[dict[str, Any]] = field(default_factory=list)
    scaling: str = ""
    odd: list[str] = field(default_factory=list)

    def leave_out(self, what: str, n: int, reason: str, examples: Sequence[str] = ()) -> None:
        """Record ``n`` rows, columns or files that are not used; nothing if ``n`` is 0."""
        if n:
            self.left_out.append(LeftOut(what, n, reason, [str(example) for example in examples[:_MAX_EXAMPLES]]))

    @property
    def has_decisions(self) -> bool:
        """Whether anything was decided for the user that the terminal should show before training."""
        return bool(self.decisions or self.columns or self.left_out or self.filled)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``data.json``."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text, for the terminal and TensorBoard."""
        used = "" if self.n_used == self.n_rows else f", {self.n_used:,} used"
        yield f"{self.source}: {self.n_rows:,} rows{used}, {self.n_features:,} features"
        for what, how in self.decisions.items():
            yield f"  {what}: {how}"
        for label, names in self._groups():
            yield f"  {label}: {first_of(names, _MAX_NAMES)}"
        for part in self.left_out:
            yield f"  left out: {part}"
        if self.filled:
            n, columns = self._filled()
            yield f"  filled: {n:,} missing values, their reconstruction does not count: {columns}"
        if self.scaling:
            yield f"  scaling: {self.scaling}"

    def prediction_remarks(self) -> Iterator[str]:
        """Yield what was decided for the rows of a prediction, which the plan of the model does not settle."""
        for what, how in self.decisions.items():
            yield f"{what}: {how}"
        for part in self.left_out:
            yield f"left out: {part}"

    def prediction_warnings(self) -> Iterator[str]:
        """Yield what makes the clusters of a prediction doubtful."""
        if self.filled:
            n, columns = self._filled()
            yield f"{n:,} missing values are filled as those of the training data were: {columns}"
        yield from self.odd

    def _filled(self) -> tuple[int, str]:
        """Return the number of filled cells, and the columns with theirs."""
        columns = [f"{name} ({n:,})" for name, n in self.filled.items()]
        return sum(self.filled.values()), first_of(columns, _MAX_NAMES)

    def _groups(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the columns by role and kind, each with what is special about it in parentheses."""
        groups: dict[str, list[str]] = {}
        for column in self.columns:
            label = " ".join(filter(None, (column["role"], column.get("kind")))).replace("_", " ")
            if column["role"] == "left_out":
                label = "left out"
            note = column.get("note", "")
            groups.setdefault(label, []).append(column["name"] + (f" ({note})" if note else ""))
        yield from groups.items()
