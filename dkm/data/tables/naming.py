"""What the name of a column says about its role and its kind."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt

INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)?|index|level_\d+", re.IGNORECASE)
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
_X = re.compile(r"x|x[_.]?(\d+|coord\w*)|lon|lng|long|longitude|lat|latitude|easting", re.IGNORECASE)
# Whole numbers below such a name are codes, not amounts.
CODE = re.compile(
    r"(^|[\s_.\-])(code|type|category|cat|region|channel|zip|zipcode|postcode|country|state|city|group|sector|department|"
    r"segment|gender|sex|race|brand|model|species)s?($|[\s_.\-])",
    re.IGNORECASE,
)
# With such a word it is an amount: model_year, group_size, mpg_city.
_AMOUNT = re.compile(
    r"(^|[\s_.\-])(amount|area|average|avg|cost|count|day|density|distance|hour|income|length|max|mean|median|min|"
    r"minute|mpg|n|num|number|pct|percent|percentage|pop|population|price|rank|ranking|rate|ratio|richness|sale|score|"
    r"share|size|sum|time|total|value|weight|year|yr)s?($|[\s_.\-])",
    re.IGNORECASE,
)
PLACE = re.compile(r"(^|[\s_.\-])(zip|zip_?code|post_?code|postal_?code)($|[\s_.\-])", re.IGNORECASE)
KEY = re.compile(r"(^|[\s_.\-])(?i:id)$|[a-z]I[Dd]$|(?i:identifier)$")  # CUSTOMER_ID, but not PAID
# What is before "id" in one word: schoolid, USERID. Any other word may end so, such as humid, medicaid or partyid.
_THINGS = (
    *("account", "acct", "agent", "area", "article", "batch", "block", "building", "buyer", "case", "child"),
    *("choice", "city", "class", "client", "clinic", "company", "country", "county", "course", "cust"),
    *("customer", "device", "dist", "district", "doc", "doctor", "document", "emp", "employee", "encounter"),
    *("event", "exam", "fam", "family", "film", "firm", "flight", "game", "geo", "group", "grp", "hh"),
    *("hospital", "house", "household", "ind", "indiv", "individual", "invoice", "item", "job", "loan", "match"),
    *("member", "movie", "order", "owner", "page", "pat", "patient", "person", "player", "plot", "post", "prod"),
    *("product", "project", "provider", "question", "rec", "record", "region", "resp", "respondent", "room"),
    *("row", "sample", "sch", "school", "seller", "sensor", "session", "shop", "site", "song", "state"),
    *("station", "store", "stud", "student", "study", "subj", "subject", "supplier", "survey", "task", "teacher"),
    *("team", "test", "ticket", "town", "track", "trans", "transaction", "trip", "tweet", "u", "unit", "user"),
    *("usubj", "vehicle", "vendor", "village", "visit", "zone"),
)
_GLUED_KEY = re.compile(rf"(^|[\s_.\-])({'|'.join(_THINGS)})id\d?$", re.IGNORECASE)
# Numbers with so many digits below such a name are no quantities; smaller ones may count calls or visits.
LONG_NUMBER = re.compile(
    r"(^|[\s_.\-])(phone|telephone|mobile|cell|tel|fax|ean|gtin|upc|isbn|iban|imei|ssn)(\d\d?)?"
    r"([\s_.\-]?(number|num|no|nr|code))?$",
    re.IGNORECASE,
)
_LEAST_LONG_NUMBER = 1e6
DATE = re.compile(
    r"(^|[\s_.\-])(day|time|timestamp|dt|dob|birth|birthday|ymd|yyyymmdd|fecha)($|[\s_.\-])|dat(e|um)$|^date",
    re.IGNORECASE,
)
# A number of hours, minutes and seconds below such a name is no time of day.
_DURATION = re.compile(
    r"(^|[\s_.\-])(duration|dur|elapsed|lap|pace|split|runtime|taken|delay|waiting|wait|"
    r"(chip|gun|lap|net|race|travel|response|finish|finishing)[\s_.\-]?time)s?($|[\s_.\-])",
    re.IGNORECASE,
)

_FINISH = re.compile(r"(^|[\s_.\-])finish$", re.IGNORECASE)


def is_duration(name: str, *, has_seconds: bool) -> bool:
    """Return whether hours and minutes below a name are a duration: 2:59:31 at the finish, but not 17:30."""
    return _DURATION.search(name) is not None or (has_seconds and _FINISH.search(name) is not None)


def is_numero(name: str, names: Container[str]) -> bool:
    """Return whether a name ends in "no" or "nr" for number: not where one of the other names has "yes" there."""
    if not NUMERO.search(name):
        return False
    return not any(name[:-2] + yes in names for yes in ("yes", "Yes", "YES"))


def is_key(name: str) -> bool:
    """Return whether whole numbers below a name are numbers of things, such as customers."""
    return KEY.search(name) is not None or _GLUED_KEY.search(name) is not None


def is_long_number(name: str, numbers: npt.NDArray[np.float64]) -> bool:
    """Return whether whole numbers (n,) are those of telephones, articles or books, by the name and by their size."""
    return LONG_NUMBER.search(name) is not None and bool(np.nanmedian(numbers) >= _LEAST_LONG_NUMBER)


def is_id(name: str, names: Container[str]) -> bool:
    """Return whether different whole numbers below a name are the numbers of the rows."""
    is_named = ID.search(name) or ID_SUFFIX.search(name) or is_key(name)
    return bool(is_named) or is_numero(name, names)


def is_code(name: str) -> bool:
    """Return whether whole numbers below a name are codes of categories, such as regions."""
    return CODE.search(name) is not None and _AMOUNT.search(name) is None


def find_x(name: str, names: Sequence[str]) -> str | None:
    """Return the name of the coordinate beside one that is called y; None if there is none."""
    return next((other for other in names if _X.fullmatch(other)), None) if name.lower() == "y" else None
