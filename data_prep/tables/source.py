"""A table and what its columns mean."""

import dataclasses
import re

import pandas as pd

from data_prep.cli import UserError
from data_prep.tables.files import ImageFolder
from data_prep.tables.options import COLUMNS

UNKNOWN = "unknown"  # in the place of the column of patients


@dataclasses.dataclass(frozen=True)
class Source:
    """A table, its folder of images, and the columns to be used; "" or () for one that is not.

    Attributes:
      name: in messages, in the manifest, and before the image ids where there are several sources.
      rows: as `read_table` gives them, those that are to be left out still among them.
      folder: where the images are.
      image: the column that names the image file.
      patient: the column of the patient, or `UNKNOWN`.
      namespace: whose patients they are; the same patient of the same namespace is one person.
      labels: the columns of the labels.
      positive: as in `labels.label_of_cell`.
      where: (column, regular expression) that a row's cell must match as a whole.
      split: the column of the table's own splits.
      view, sex, age, spacing, origin, detailed_class: columns that overrule the file's header.
      boxes: four columns of x, y, width, height in pixels.
      corners: four columns of xmin, ymin, xmax, ymax in pixels, instead.
    """

    name: str
    rows: pd.DataFrame
    folder: ImageFolder
    image: str
    patient: str
    namespace: str
    labels: tuple[str, ...]
    positive: str = ""
    where: tuple[tuple[str, str], ...] = ()
    split: str = ""
    view: str = ""
    sex: str = ""
    age: str = ""
    spacing: str = ""
    origin: str = ""
    detailed_class: str = ""
    boxes: tuple[str, ...] = ()
    corners: tuple[str, ...] = ()

    def columns(self) -> list[str]:
        """Every column that is used, once."""
        patient = () if self.patient == UNKNOWN else (self.patient,)
        optional = (getattr(self, name) for name in COLUMNS.values())
        conditions = (column for column, _ in self.where)
        named = (self.image, *patient, *self.labels, *optional, *self.boxes, *self.corners)
        return [name for name in dict.fromkeys((*named, *conditions)) if name]

    def chosen_rows(self) -> pd.DataFrame:
        """The rows that fulfil every condition.

        Raises:
          UserError: a column is missing, a condition is not a regular expression, or no
            row is left.
        """
        if missing := [name for name in self.columns() if name not in self.rows.columns]:
            raise UserError(
                f"{self.name} has no column {missing[0]!r}; it has "
                f"{', '.join(map(repr, self.rows.columns))}"
            )
        rows = self.rows
        for column, pattern in self.where:
            rows = rows[rows[column].str.fullmatch(compiled("--where", pattern))]
        if not len(rows):
            conditions = " and ".join(f"{column}={pattern}" for column, pattern in self.where)
            raise UserError(f"no row of {self.name} has {conditions}; choose another --where")
        return rows

    def described(self) -> dict[str, object]:
        """For the manifest: what was given of the options, without the rest."""
        options = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("rows", "folder")
        }
        return {name: value for name, value in options.items() if value}


def compiled(flag: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{flag}: {pattern!r} is not a regular expression ({error}); mend it"
        ) from error
