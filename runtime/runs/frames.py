"""Data frames, for those who have pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tilewright.extras import brings

if TYPE_CHECKING:
    import pandas

__all__ = ["data_frame"]


def data_frame(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> pandas.DataFrame:
    """A data frame. ImportError, in a sentence that says what to do, without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"a data frame needs pandas; {brings('frames')}") from error
    return pandas.DataFrame(list(rows), columns=list(columns))
