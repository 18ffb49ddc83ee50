"""Texts that no file can hold: a lone surrogate, half of a character, has no encoding.

JSON can contain one (``"\\ud800"``), and so can the name of a file whose bytes are not UTF-8. Ids, labels and names are
refused when they are read, since a run could not write them at its end; in texts they are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from dkm.data.scaling import Array
from dkm.errors import input_error


def is_encodable(text: str) -> bool:
    """Return whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def replace_surrogates(text: str) -> str:
    """Return a text with U+FFFD for each lone surrogate."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if not is_encodable(text) else text


def require_encodable(
    values: Array | Sequence[str] | None, what: str, source: str, position: npt.NDArray[np.int64] | None = None
) -> None:
    """Refuse ids, labels or names (n,) of which one cannot be encoded.

    Parameters
    ----------
    values : array or sequence of str, optional
        Only texts are looked at.
    what : str
        What one of them is, for the message: ``id``.
    source : str
        The setting with its value that names the data.
    position : int64 array, shape (n,), optional
        The rows of the file, by default counted from 0.

    Raises
    ------
    UserError
    """
    if values is None or (isinstance(values, np.ndarray) and values.dtype.kind not in "UO"):
        return
    texts: Iterable[object] = values.tolist() if isinstance(values, np.ndarray) else values
    for start, text in enumerate(texts):
        if isinstance(text, str) and not text.isascii() and not is_encodable(text):
            row = f"row {start if position is None else position[start]:,} (counted from 0)"
            where = f"{what} {start:,}" if what == "feature" else f"the {what} in {row}"
            found = f"{where} is {ascii(text)[:60]}, which has half of a character (a lone surrogate)"
            remedy = "correct it, or name the file so that its name is valid UTF-8"
            raise input_error(source, found, "text that can be encoded", remedy)
