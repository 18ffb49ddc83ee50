"""What the name of a column says about its role and its kind."""

from __future__ import annotations

import re
from collections.abc import Container

INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0|index|level_\d+", re.IGNORECASE)
ID = re.compile(r"(^|[\s_.\-])(id|uuid|guid|key|rownames?|row)$|^id([\s_.\-]|$)", re.IGNORECASE)
# invoice_no, but not votes_no beside votes_yes.
NUMERO = re.compile(r"(^|[\s_.\-])(no|nr)$", re.IGNORECASE)
# Measures have such names too: the values decide.
NUMBER = re.compile(r"(^|[\s_.\-])(number|index)$", re.IGNORECASE)
ID_SUFFIX = re.compile(r"[a-z](ID|Id)$")
# Names that labels have: a column with the answer would decide the clusters.
LABEL = re.compile(
    r"(class|label|labels|target|y|ground[_ .]?truth|y_true|cluster|clusters|category_label)", re.IGNORECASE
)
# Whole numbers below such a name are codes, not amounts.
CODE = re.compile(
    r"(^|[\s_.\-])(code|type|category|cat|region|channel|zip|zipcode|postcode|country|state|city|group|sector|department|"
    r"segment|gender|sex|race|brand|model|species)s?($|[\s_.\-])",
    re.IGNORECASE,
)
PLACE = re.compile(r"(^|[\s_.\-])(zip|zip_?code|post_?code|postal_?code)($|[\s_.\-])", re.IGNORECASE)
KEY = re.compile(r"(^|[\s_.\-])(?i:id)$|[a-z]I[Dd]$")  # CUSTOMER_ID, but not PAID
DATE = re.compile(
    r"(^|[\s_.\-])(day|time|timestamp|dt|dob|birth|birthday|ymd|yyyymmdd|fecha)($|[\s_.\-])|dat(e|um)$|^date",
    re.IGNORECASE,
)


def is_numero(name: str, names: Container[str]) -> bool:
    """Return whether a name ends in "no" or "nr" for number: not where one of the other names has "yes" there."""
    if not NUMERO.search(name):
        return False
    return not any(name[:-2] + yes in names for yes in ("yes", "Yes", "YES"))
