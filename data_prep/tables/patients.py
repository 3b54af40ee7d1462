"""Which spellings are one patient: "12" and "012" are.

Taking two patients for one cannot leak; taking one for two does.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

Patient = tuple[str, str]  # namespace, spelling


def merge_spellings(patients: Iterable[Patient]) -> tuple[dict[Patient, str], list[str]]:
    """The one spelling that stands for each patient, and what was merged.

    Spellings are one patient's where they differ in case, blanks or zeros at their beginning. The
    longest stands for all, so that NIH's 13 and 00000013 fall into the split of the latter.

    Returns:
      (namespace, spelling) -> spelling; and for each patient with several "'12' and '012'".
    """
    groups: dict[Patient, set[str]] = defaultdict(set)
    for namespace, spelling in patients:
        groups[namespace, key(spelling)].add(spelling)
    chosen, merged = {}, []
    for (namespace, _), spellings in sorted(groups.items()):
        one = max(spellings, key=lambda text: (len(text), text))
        chosen.update({(namespace, spelling): one for spelling in spellings})
        if len(spellings) > 1:
            merged.append(
                " and ".join(map(repr, sorted(spellings, key=lambda text: (len(text), text))))
            )
    return chosen, merged


def key(spelling: str) -> str:
    """The same for all spellings of a patient."""
    return spelling.strip().casefold().lstrip("0") or "0"


def clean(cell: str) -> str:
    """A number of a column that was saved as float, "12.0", as the number."""
    return re.sub(r"(?<=\d)\.0+$", "", cell) if re.fullmatch(r"\d+\.0+", cell) else cell
