"""Name text formats that are no tables of cells, LIBSVM and ARFF, with a command that converts them."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dkm.config.values import override
from dkm.errors import UserError, input_error

_N_LINES = 100
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
# A label, or several, and pairs of an index and a value: -1 1:0.865 2:0.739
_LIBSVM = re.compile(rf"{_NUMBER}(,{_NUMBER})*(\s+qid:\d+)?(\s+\d+:{_NUMBER})*\s*(#.*)?")
_PAIR = re.compile(rf"\s(\d+:{_NUMBER})")
_TIME = re.compile(r"\d{1,2}:[0-5]\d")
# scikit-learn unpacks the first two, SciPy none.
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_FROM_LIBSVM = (
    "import sys, numpy, scipy.sparse, sklearn.datasets; X, y = sklearn.datasets.load_svmlight_file(sys.argv[1]); "
    "scipy.sparse.save_npz(sys.argv[2], X); numpy.save(sys.argv[3], y)"
)
_FROM_ARFF = (
    "import sys, pandas, scipy.io.arff; rows, _ = scipy.io.arff.loadarff(sys.argv[1]); "
    "pandas.DataFrame(rows).map(lambda cell: cell.decode() if isinstance(cell, bytes) else cell)"
    ".to_csv(sys.argv[2], index=False)"
)


def is_libsvm(lines: Sequence[str]) -> bool:
    """Return whether the first lines have a label and pairs of index and value each, as LIBSVM and SVMlight have."""
    first = [line.strip() for line in lines[:_N_LINES] if line.strip() and not line.startswith("#")]
    pairs = [pair[1] for line in first for pair in _PAIR.finditer(line)]
    return bool(pairs) and all(map(_LIBSVM.fullmatch, first)) and not all(map(_TIME.fullmatch, pairs))


def is_arff(lines: Sequence[str]) -> bool:
    """Return whether the first line that is no comment names the relation of an ARFF file."""
    first = next((line for line in lines[:_N_LINES] if line.strip() and not line.lstrip().startswith("%")), "")
    return re.match(r"\s*@relation\b", first, re.IGNORECASE) is not None


def check_format(lines: Sequence[str], path: Path, source: str) -> None:
    """Refuse a file in one of these formats.

    Parameters
    ----------
    lines : sequence of str
        The first lines of the file.
    path : Path
        The file.
    source : str
        The setting that names it, for the message.

    Raises
    ------
    UserError
    """
    if is_libsvm(lines):
        name, what = "the LIBSVM (SVMlight) format", ", a label and pairs of index:value in each line"
        packed: Sequence[str] = _PACKED[2:]
        code, outputs = _FROM_LIBSVM, [f"{path}.npz", f"{path}.labels.npy"]
    elif is_arff(lines):
        name, what, packed = "the ARFF format of Weka", "", _PACKED
        code, outputs = _FROM_ARFF, [f"{path}.csv"]
    else:
        return
    if path.suffix in packed:
        remedy = "unpack it, and name the unpacked file, for which there is a command that converts it"
        raise input_error(source, f"{name}, compressed", "a table as text (CSV, TSV)", remedy)
    raise _format_error(name + what, code, path, outputs, source)


def _format_error(found: str, code: str, path: Path, outputs: Sequence[str], source: str) -> UserError:
    shown = shutil.which("python")
    is_this = shown is not None and Path(shown).parent == Path(sys.executable).parent
    command = shlex.join(["python" if is_this else sys.executable, "-c", code, str(path), *outputs])
    key = source.partition("=")[0]
    settings = [override(key, outputs[0])]
    if key == "data.path":
        option = "npz" if outputs[0].endswith(".npz") else "csv"
        labels = [override("data.labels", outputs[1])] if len(outputs) > 1 else []
        settings = [f"data={option}", *settings, *labels]
    remedy = f"convert it, and set {' '.join(settings)}: {command}"
    return input_error(source, found, "a table as text (CSV, TSV)", remedy)
