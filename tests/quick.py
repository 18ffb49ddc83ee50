"""Makes what looks for the number of clusters a tenth of the work, which is enough for a few rows in clear clusters."""

from __future__ import annotations

from collections.abc import Callable


def search_quickly(set_value: Callable[[object, str, object], None] = setattr) -> None:
    """Embed the neighbors in a tenth of the steps, and run k-means twice instead of ten times."""
    from dkm.clustering import agreement, neighbor_embedding, numbers

    set_value(neighbor_embedding, "_N_DRAWS_OF_FEW", 50)
    for module in (numbers, agreement):
        set_value(module, "_N_INIT", 2)
