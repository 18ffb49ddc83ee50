"""Declare settings: default, meaning, range, unit and role, all in the field of a dataclass.

The range checks, ``--help``, ``docs/settings.md``, what a resumed run may change, the rows of ``dkm.compare``, the
columns of TensorBoard's HParams and the keys of ``pretrain.cache`` read the declaration. This module does not depend on
Hydra, so the dataclasses can be used without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import Field, dataclass, field, fields
from enum import Enum, Flag, auto
from typing import Any, ClassVar, TypeVar

from dkm.config.checks import Check, apply_check

# The value of a setting without a default: OmegaConf's spelling of "missing".
REQUIRED: Any = "???"

S = TypeVar("S")


class Role(Enum):
    """What a setting decides. The value of a member is its description."""

    NUMBERS = "decides the results; fixed when a run is resumed"
    LENGTH = "decides the results; may be raised when a run is resumed"
    INPUT = "names the data; may change when a run is resumed, if the data themselves are the same"
    EVALUATION = "decides what is evaluated and recorded, not how the model is trained; may change"
    MACHINE = "decides only the last bits of the results; may change"
    OUTPUT = "decides what is shown or kept, with no effect on the results; may change"
    PLACE = "names a location, with no effect on the results; may change"

    @property
    def tells_runs_apart(self) -> bool:
        """Whether a comparison or a search distinguishes runs that differ in the setting."""
        return self in (Role.NUMBERS, Role.LENGTH, Role.INPUT)

    @property
    def may_change_on_resume(self) -> bool:
        """Whether a resumed run may change the setting; ``dkm.training.resume`` checks that a LENGTH only grows."""
        return self is not Role.NUMBERS

    @property
    def decides_work(self) -> bool:
        """Whether the setting decides what is computed.

        Such a setting must be the same in all processes that train together, and it is part of the key of cached work.
        For INPUT the SHA-256 of the data takes its place, for MACHINE the processor and the number of threads.
        """
        return self in (Role.NUMBERS, Role.LENGTH, Role.EVALUATION)

    @property
    def is_hyperparameter(self) -> bool:
        """Whether TensorBoard shows the setting as a hyperparameter."""
        return self in (Role.NUMBERS, Role.LENGTH)


class Stage(Flag):
    """The computations of a run that a setting can affect."""

    BASELINE = auto()  # k-means on the raw data
    PRETRAINING = auto()
    JOINT = auto()  # includes the initialization of the clusters
    ALL = BASELINE | PRETRAINING | JOINT
    TRAINING = PRETRAINING | JOINT


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting; its name, type and default are those of the dataclass field."""

    meaning: str
    role: Role = Role.NUMBERS
    unit: str | None = None
    check: Check | None = None
    # A valid value for the remedy of a message.
    example: object = None
    # None: the stages of the section.
    stages: Stage | None = None


def setting(
    default: Any,
    meaning: str,
    *,
    role: Role = Role.NUMBERS,
    unit: str | None = None,
    check: Check | None = None,
    example: object = None,
    stages: Stage | None = None,
    **of_field: Any,
) -> Any:
    """Declare a setting; the result is what ``dataclasses.field`` returns.

    Parameters
    ----------
    default : object
        ``REQUIRED`` if there is none. A list or mapping is copied for each config.
    meaning : str
        Description for users, in complete sentences.
    role : Role
        What the setting decides.
    unit : str, optional
        Unit of a quantity: "epochs", "seconds", "degrees".
    check : Check, optional
        Check of each value that is not null.
    example : object, optional
        Valid value for the remedy of a message, by default ``default``.
    stages : Stage, optional
        Stages that the setting affects, if they differ from those of its section.
    **of_field
        Further arguments of ``dataclasses.field``.
    """
    if example is None:
        example = default
    metadata = {"setting": Setting(meaning, role, unit, check, example, stages)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy(default), metadata=metadata, **of_field)
    return field(default=default, metadata=metadata, **of_field)


@dataclass
class Section:
    """Base class of all dataclasses of settings; checks each setting on construction."""

    # The first part of the dotted keys, empty for the settings of the whole run.
    section: ClassVar[str] = ""
    stages: ClassVar[Stage] = Stage.ALL

    def __post_init__(self) -> None:
        for part in fields(self):
            declared = setting_of(type(self), part.name)
            if declared is None or declared.check is None or not part.init:
                continue
            value = getattr(self, part.name)
            accepts_null = is_nullable(part.type)
            if value is not None or not accepts_null:
                key = dotted_key(type(self), part.name)
                apply_check(declared.check, key, value, declared.example, is_nullable=accepts_null)


def setting_of(schema: type, name: str) -> Setting | None:
    """Return the declaration of a field, which a subclass that only changes its default inherits."""
    for base in schema.__mro__:
        part = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if part is not None and "setting" in part.metadata:
            declared: Setting = part.metadata["setting"]
            return declared
    return None


def dotted_key(schema: type[Section], name: str) -> str:
    """Return the key of a field on the command line."""
    return f"{schema.section}.{name}" if schema.section else name


def is_nullable(annotation: object) -> bool:
    """Return whether a field accepts null; the modules of settings have annotations as text."""
    return str(annotation).endswith("None")


def default_of(part: Field[Any]) -> Any:
    """Return the default of a dataclass field; interpolations in it are not resolved."""
    return part.default_factory() if callable(part.default_factory) else part.default


def section_from(schema: type[S], values: Mapping[str, Any]) -> S:
    """Return a section with the given values, including fields that its ``__init__`` omits.

    Raises
    ------
    TypeError
        If a name is not a field.
    """
    not_in_init = {part.name for part in fields(schema) if not part.init}  # type: ignore[arg-type]
    section = schema(**{name: value for name, value in values.items() if name not in not_in_init})
    for name in values.keys() & not_in_init:
        setattr(section, name, values[name])
    return section
