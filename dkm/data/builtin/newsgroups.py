"""20 Newsgroups as TF-IDF."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import tarfile
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from dkm.config.data import NewsgroupsData
from dkm.data.builtin.fetching import FETCH_ERRORS, root_of, unavailable
from dkm.data.raw import RawData
from dkm.errors import input_error, reason
from dkm.runtime.atomic import replacing

log = logging.getLogger(__name__)

# URL and digest of sklearn.datasets.fetch_20newsgroups, which is not used because it caches the data as a pickle.
_NEWSGROUPS_URL = "https://ndownloader.figshare.com/files/5975967"
_NEWSGROUPS_SHA256 = "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"
_NEWSGROUPS_FILE = "20newsgroups/20news-bydate.tar.gz"
_N_POSTS, _N_GROUPS = 18_846, 20


def read_newsgroups(config: NewsgroupsData) -> RawData:
    from sklearn.feature_extraction.text import TfidfVectorizer

    archive = root_of(config) / _NEWSGROUPS_FILE
    try:
        if not archive.exists():
            log.info("data=newsgroups: downloading %s", archive)
            _download(_NEWSGROUPS_URL, archive, _NEWSGROUPS_SHA256)
        packed = archive.read_bytes()
    except FETCH_ERRORS as error:
        raise unavailable(config, (_NEWSGROUPS_FILE,), error) from error
    try:
        posts = _read_posts(packed)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        found = f"{archive} is damaged ({reason(error)})"
        expected = f"{_N_POSTS:,} posts in {_N_GROUPS} groups"
        remedy = "delete the file, and the next run downloads it again"
        raise input_error(f"data.root={root_of(config)}", found, expected, remedy) from error
    paths = sorted(posts)  # 20news-bydate-PART/GROUP/NUMBER
    X = TfidfVectorizer(max_features=config.n_terms, dtype=np.float32).fit_transform(map(posts.get, paths))
    return RawData(X.toarray(), np.array([path.split("/")[1] for path in paths]), scaling="row_rms")


def _read_posts(packed: bytes) -> dict[str, str]:
    """Return the text of each post, headers included, by its path in the archive."""
    posts = {}
    # Decompress all of it first: tarfile stops before the checksum at the end of the gzip stream.
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as tar:
        for member in tar:
            if file := tar.extractfile(member):
                posts[member.name] = file.read().decode("latin-1")
    n_groups = len({Path(path).parent.name for path in posts})
    # Check the content and not a digest, because mirrors compress it differently.
    if (len(posts), n_groups) != (_N_POSTS, _N_GROUPS):
        raise ValueError(f"{len(posts):,} posts in {n_groups} groups")
    return posts


def _download(url: str, path: Path, sha256: str) -> None:
    """Download a file; an incomplete or wrong one is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, is_shared=True) as part:
        urllib.request.urlretrieve(url, part)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        if digest != sha256:
            raise ValueError(f"SHA-256 of {url} is {digest}, not {sha256}")
