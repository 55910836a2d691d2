# SPDX-License-Identifier: Apache-2.0
"""Bodies to values and back, by content type."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from djl_python.inputs import Input
from djl_python.outputs import Output

if TYPE_CHECKING:
    import numpy as np

_CSV_COLUMNS = ("question", "context", "inputs")


class EmptyCsvError(ValueError, IndexError):
    """There are no rows to read; an `IndexError` too, because that is what LMI's own raises."""


def decode(inputs: Input, content_type: str | None, key: Any = None, require_csv_headers: bool = True) -> Any:
    """Decodes the value of a content key; without a key that of `data`, else the first.

    Args:
        inputs: what to read from.
        content_type: compared without regard to case; None or empty means JSON, and an empty body `{"inputs": ""}`.
        key: the content key.
        require_csv_headers: for CSV, see `decode_csv`.

    Returns:
        The JSON value itself; what `decode_csv` makes of CSV; for every other type a dict with the key `inputs`: a list
        with one text, an image, a list of arrays, the text of a form, or bytes.

    Raises:
        ValueError: the body is not what the type says.
    """
    kind = (content_type or "").lower()
    if not kind and not inputs.get_as_bytes(key=key):
        return {"inputs": ""}
    if not kind or "application/json" in kind:
        return inputs.get_as_json(key=key)
    if "text/csv" in kind:
        chosen = {"key": key} if key else {}
        return decode_csv(inputs, require_headers=require_csv_headers, **chosen)
    return {"inputs": _decode_single(inputs, kind, key)}


def encode(outputs: Output, prediction: Any, content_type: str | None, key: Any = None) -> None:
    """Adds a prediction and its `Content-Type`: JSON, CSV, `.npz`, and an NDList for every other type.

    Raises:
        TypeError: the prediction can't be written in this type.
        ValueError: the prediction holds a number that JSON can't say.
    """
    kind = (content_type or "application/json").lower()
    if "application/json" in kind:
        outputs.add_as_json(prediction, key=key)
        written = "application/json"
    elif "text/csv" in kind:
        outputs.add_as_string(encode_csv(prediction), key=key)
        written = "text/csv"
    elif "tensor/npz" in kind:
        outputs.add_as_npz(prediction, key=key)
        written = "tensor/npz"
    else:
        outputs.add_as_numpy(prediction, key=key)
        written = "tensor/ndlist"
    outputs.add_property("Content-Type", written)


def decode_csv(inputs: Input, require_headers: bool = True, key: Any = None) -> Any:
    """Decodes CSV text.

    Returns:
        With headers `{"inputs": [...]}`: the cells of the column `inputs` where there is one, else a dict per row.
        Without, the numbers as a float64 array of shape (rows, columns), or (n,) for a single row or column.

    Raises:
        ValueError: the first line names none of the known columns, or a number is expected and something else is there.
        EmptyCsvError: there are no rows.
    """
    import csv
    from io import StringIO

    text = inputs.get_as_string(key=key) if key else inputs.get_as_string()
    if not require_headers:
        return _numbers([row for row in csv.reader(StringIO(text)) if row])
    header = text.partition("\n")[0].lower()
    if text and not any(column in header for column in _CSV_COLUMNS):
        columns = ", ".join(_CSV_COLUMNS)
        raise ValueError(f"A request body in CSV needs the correct CSV with Header columns: one of {columns}.")
    rows = list(csv.DictReader(StringIO(text)))
    if not rows:
        raise EmptyCsvError("The CSV text has no rows.")
    return {"inputs": [row["inputs"] for row in rows] if "inputs" in rows[0] else rows}


def encode_csv(content: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> str:
    r"""CSV text of one dict per row, or of a single dict; the first row's keys are the header, lines end in `\r\n`.

    Raises:
        ValueError: a later row has a key that the first has not.
    """
    import csv
    from io import StringIO

    rows = [content] if isinstance(content, Mapping) else list(content)
    if not rows:
        return ""
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _decode_single(inputs: Input, kind: str, key: Any) -> Any:
    if "text/plain" in kind:
        return [inputs.get_as_string(key=key)]
    if kind.startswith("image/"):
        return inputs.get_as_image(key=key)
    if "tensor/npz" in kind:
        return inputs.get_as_npz(key=key)
    if kind in ("tensor/ndlist", "application/x-npy"):
        return inputs.get_as_numpy(key=key)
    if kind == "application/x-www-form-urlencoded":
        return inputs.get_as_string(key=key)
    return inputs.get_as_bytes(key=key)


def _numbers(rows: list[list[str]]) -> "np.ndarray[Any, Any]":
    import numpy as np

    if not rows:
        raise EmptyCsvError("The CSV text has no rows.")
    try:
        table = np.array([[float(cell) for cell in row] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"CSV contains non-numeric data, or rows of different lengths: {error}") from error
    return table.reshape(-1) if 1 in table.shape else table
