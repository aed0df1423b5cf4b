"""Predictions for every image of a split as a table, CSV or Parquet: a row an image, in the order of the dataset."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config.options import ConfigError
from engine.evaluation.answers import Answers
from pipelines import Dataset

SUFFIXES = (".csv", ".parquet")


def check_name(file: Path) -> None:
    """ConfigError for a file that could not be written, before an evaluation is made for it."""
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"predictions are written as *{' or *'.join(SUFFIXES)}, not as {file.name}")
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigError(
                "Parquet needs pyarrow, of the extra `parquet`: pip install -e '.[parquet]'; or name the file *.csv"
            ) from None


def write_predictions(file: Path, answers: Answers, dataset: Dataset, names: Sequence[str]) -> None:
    """Writes `image` (its name), `class` (the true one), and of each guess `guess1` and `probability1`, `guess2`, ...; images
    that could not be read have no guesses. ConfigError when it cannot be written."""
    columns = columns_of(answers, dataset, names)
    try:
        if file.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(columns), str(file))
            return
        with file.open("w", newline="", encoding="utf-8") as opened:
            rows = csv.writer(opened)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values()))
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from None


def columns_of(answers: Answers, dataset: Dataset, names: Sequence[str]) -> dict[str, list[Any]]:
    """The table by column."""
    indices = answers.indices.tolist()
    truth = dataset.labels(answers.indices.numpy()).tolist()
    names = [_text(name) for name in names]
    columns: dict[str, list[Any]] = {
        "image": [_text(dataset.short_name(index)) for index in indices],
        "class": [names[label] for label in truth],
    }
    read = (answers.labels >= 0).tolist()
    for number in range(answers.guesses.shape[1]):
        guesses, probabilities = answers.guesses[:, number].tolist(), answers.probabilities[:, number].tolist()
        columns[f"guess{number + 1}"] = [names[guess] if here else None for guess, here in zip(guesses, read)]
        columns[f"probability{number + 1}"] = [value if here else None for value, here in zip(probabilities, read)]
    return columns


def _text(name: str) -> str:
    """A name of a file as text, also where it is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
