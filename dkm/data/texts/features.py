"""Features of texts: TF-IDF with a fitted vocabulary, or the embeddings of a sentence encoder."""

# Shapes: n texts, F features.

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dkm.data.features import (
    CHUNK,
    EncodingProgress,
    FeatureCache,
    Features,
    chunked,
    digest_of_files,
    require_package,
    require_trained_encoder,
    unusable_encoder_error,
)
from dkm.data.files import expand
from dkm.errors import input_error, reason
from dkm.runtime.devices import find_device

if TYPE_CHECKING:
    from scipy import sparse

log = logging.getLogger(__name__)

# What decides the embeddings in the folder of a sentence encoder; others are exports and descriptions.
_ENCODER_SUFFIXES = (".json", ".txt", ".safetensors", ".bin", ".model")
_OTHER_FOLDERS = ("onnx", "openvino")
# The files in which a folder names the classes of its parts.
_MODULES = "modules.json"
_MODULE_FILES = (_MODULES, "router_config.json", "config_asym.json")


@dataclass(frozen=True, eq=False)
class Tfidf:
    """TF-IDF as scikit-learn's ``TfidfVectorizer`` computes it, with L2-normalized rows, float32.

    A plan of JSON values stores it without loss, because JSON keeps every float.
    """

    terms: tuple[str, ...]  # (F,)
    idf: npt.NDArray[np.float32]  # (F,)

    @classmethod
    def fit(cls, texts: Sequence[str], n_terms: int, source: str) -> Tfidf:
        """Choose the ``n_terms`` most frequent terms and compute their inverse document frequencies.

        Raises
        ------
        UserError
            If the texts have no term: two letters or digits in a row.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(max_features=n_terms, dtype=np.float32)
        try:
            vectorizer.fit(texts)
        except ValueError as error:
            found, expected = "the texts have no terms", "words of two letters or more"
            raise input_error(source, found, expected, "check data.text and data.encoding") from error
        return cls(tuple(vectorizer.get_feature_names_out().tolist()), vectorizer.idf_.astype(np.float32))

    def transform(self, texts: Sequence[str]) -> sparse.csr_array:
        """Return the matrix (n, F), float32. A row does not depend on the other rows."""
        from scipy import sparse
        from sklearn.feature_extraction.text import TfidfVectorizer

        vocabulary = {term: number for number, term in enumerate(self.terms)}
        vectorizer = TfidfVectorizer(vocabulary=vocabulary, dtype=np.float32)
        vectorizer.idf_ = self.idf
        return sparse.csr_array(vectorizer.transform(texts))

    def to_plan(self) -> dict[str, Any]:
        """Return terms and frequencies as JSON values."""
        return {"vocabulary": list(self.terms), "idf": self.idf.tolist()}

    @classmethod
    def from_plan(cls, plan: Mapping[str, Any]) -> Tfidf:
        """Return the TF-IDF of a ``to_plan`` result."""
        return cls(tuple(plan["vocabulary"]), np.array(plan["idf"], np.float32))


@dataclass
class SentenceEncoder:
    """A sentence-transformers model, loaded when a text is not in the cache."""

    source: str
    folder: Path
    identity: dict[str, Any]  # name and digest, as the model keeps them
    cache: FeatureCache
    _model: Any = field(default=None, init=False)

    def encode(self, texts: Sequence[str]) -> Features:
        """Return the embeddings (n, F), in chunks of ``CHUNK`` texts, each computed once."""
        parts = []
        progress = EncodingProgress(self.source, f"texts of {len(texts):,}")
        for chunk in chunked(texts, CHUNK):
            key = self.cache.key(text.encode("utf-8", "surrogatepass") for text in chunk)
            features = self.cache.find(key, len(chunk))
            if features is None:
                features = self._compute(chunk)
                self.cache.keep(key, features)
                progress.add(len(chunk))
            parts.append(features)
        return np.concatenate(parts)

    def _compute(self, texts: list[str]) -> Features:
        expected = "a folder that sentence-transformers can load"
        try:
            self._model = self._model or self._load()
            encoded = self._model.encode(texts, show_progress_bar=False, convert_to_numpy=True)
        except Exception as error:  # the library's errors have many types
            raise unusable_encoder_error(self.source, error, expected) from error
        features: Features = np.asarray(encoded, dtype=np.float32)
        if not np.isfinite(features).all():
            raise input_error(self.source, "its embeddings are not finite", "finite numbers", "use another encoder")
        return features

    def _load(self) -> Any:
        import transformers
        from sentence_transformers import SentenceTransformer

        transformers.utils.logging.disable_progress_bar()
        device = str(find_device("auto"))
        return SentenceTransformer(str(self.folder), device=device, local_files_only=True, trust_remote_code=False)


def find_sentence_encoder(name: str, trained: Mapping[str, Any] | None) -> SentenceEncoder:
    """Return the encoder that ``data.text_encoder`` names.

    Parameters
    ----------
    name : str
        A folder, or the name of a model.
    trained : Mapping, optional
        ``identity`` of the encoder that a model was trained with, which must have the same files.

    Raises
    ------
    UserError
        If sentence-transformers is not installed, or there is no such encoder.
    """
    source = f"data.text_encoder={name}"
    installed = require_package("sentence-transformers", source, "text")
    folder = expand(name)
    if not folder.is_dir():
        folder = _published_encoder(name, source)
    files = _files_of(folder)
    _require_known_modules(files, source)
    if not _has_weights(files):
        found, expected = "a folder without weights", "a folder that SentenceTransformer.save wrote"
        raise input_error(source, found, expected, "correct data.text_encoder")
    if _MODULES not in files:
        log.warning("%s: it has no %s, so the mean of the tokens is the embedding of a text", source, _MODULES)
    identity = {"name": name, "digest": digest_of_files(_without_copies(files), source)}
    if trained is not None and trained.get("digest") != identity["digest"]:  # earlier versions hashed every file
        whole = digest_of_files(files, source)
        identity["digest"] = whole if trained.get("digest") == whole else identity["digest"]
    require_trained_encoder(trained, identity, source)
    device = find_device("auto").type
    cache = FeatureCache({"texts": identity["digest"], "sentence-transformers": installed, "device": device})
    return SentenceEncoder(source, folder, identity, cache)


def _require_known_modules(files: Mapping[str, Path], source: str) -> None:
    """Refuse a folder whose descriptions name classes of other packages, which the library would import."""
    for name, path in files.items():
        if path.name not in _MODULE_FILES:
            continue
        try:
            content = json.loads(path.read_bytes())
            modules = content if isinstance(content, list) else [{"type": t} for t in content.get("types", {}).values()]
            types = [str(module.get("type")) for module in modules]
        except (OSError, AttributeError, ValueError) as error:
            found = f"{name} cannot be read ({reason(error)})"
            raise input_error(source, found, "a list of modules", "copy the folder again") from error
        for type_ in types:
            if not type_.startswith("sentence_transformers."):
                found, remedy = f"{name} names the class {type_}", "naming code could run it and is refused"
                raise input_error(source, found, "classes of sentence_transformers", remedy)


def _files_of(folder: Path) -> dict[str, Path]:
    """Return the files that decide the embeddings, by their names relative to the folder."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix in _ENCODER_SUFFIXES and not _is_other(path.relative_to(folder)) and path.is_file()
    }


def _has_weights(files: Mapping[str, Path]) -> bool:
    return any(path.suffix in (".safetensors", ".bin") for path in files.values())


def _without_copies(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files without those of PyTorch in folders with safetensors, which are read instead."""
    read = {path.parent for path in files.values() if path.suffix == ".safetensors"}
    return {name: path for name, path in files.items() if path.suffix != ".bin" or path.parent not in read}


def _is_complete(folder: Path) -> bool:
    """Return whether a folder has weights and the files of each module that ``modules.json`` names.

    Other libraries download parts of a model to the same cache.
    """
    try:
        modules = json.loads((folder / _MODULES).read_bytes())
        # These have no files, and a repository has no empty folder.
        parts = [module["path"] for module in modules if not module["type"].endswith(".Normalize")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return _has_weights(_files_of(folder)) and all((folder / part).is_dir() for part in parts)


def _is_other(path: Path) -> bool:
    return path.parts[0] in _OTHER_FOLDERS or any(part.startswith(".") for part in path.parts)


def _published_encoder(name: str, source: str) -> Path:
    """Return the folder of a published model in the user's cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download

    repository = name if "/" in name else f"sentence-transformers/{name}"
    ignored = [f"{folder}/*" for folder in _OTHER_FOLDERS] + ["*.h5", "*.ot", "*.msgpack", "*.onnx"]
    try:
        folder = Path(snapshot_download(repository, local_files_only=True, ignore_patterns=ignored))
        if _is_complete(folder):
            return folder
        log.warning("%s is in the cache in part; downloading the rest of %s", source, repository)
    except Exception as error:  # the client's errors have many types
        log.debug("%s: %s", source, reason(error))
        log.warning("%s is not in the cache; downloading %s", source, repository)
    try:
        return Path(snapshot_download(repository, ignore_patterns=ignored))
    except Exception as error:
        found = f"no such folder, and {repository} is not in the cache and cannot be downloaded"
        expected = "a folder, or a model of sentence-transformers"
        raise input_error(source, found, expected, "copy its folder, and set data.text_encoder=FOLDER") from error
