"""The plan in words, for the terminal."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from data_prep.manifest import NOT_LABELLED
from data_prep.records import SPLITS, Record
from data_prep.tables.plan import Plan
from data_prep.tables.source import UNKNOWN, Source

SAMPLES = 10


def print_summary(plan: Plan, sources: Sequence[Source], *, samples: bool) -> None:
    """What will be made from what; `samples` adds ten of the records."""
    for source in sources:
        for line in _source_lines(plan, source):
            print(line)
    for place, finding in enumerate(plan.findings):
        found = Counter(_labels(record)[place] for record in plan.records)
        missing = f", {found[NOT_LABELLED]:,} not labelled" if found[NOT_LABELLED] else ""
        print(f"finding {finding!r}: {found[1]:,} positive, {found[0]:,} negative{missing}")
    kinds = Counter(record.detailed_class for record in plan.records)
    print("classes: " + ", ".join(f"{name!r} {count:,}" for name, count in kinds.most_common(20)))
    for split in SPLITS:
        records = [record for record in plan.records if record.split == split]
        if not records:
            print(f"  {split:10}  none")
            continue
        patients = len({record.patient_id for record in records} - {""})
        positive = sum(1 in _labels(record) for record in records)
        print(
            f"  {split:10}  {len(records):,} images of {f'{patients:,}' if patients else 'unknown'}"
            f" patients, {positive:,} positive"
        )
    codes = Counter(refusal.code for refusal in plan.refused.values())
    print(f"refused before any image is read: {codes.total():,}")
    for code, count in sorted(codes.items()):
        name, refusal = next((n, r) for n, r in plan.refused.items() if r.code == code)
        print(f"  {count:,} {code}, such as {name}: {refusal.message}")
    if samples:
        print(f"{min(SAMPLES, len(plan.records))} of the {len(plan.records):,} records:")
        for record in plan.records[:: max(1, len(plan.records) // SAMPLES)][:SAMPLES]:
            print(f"  {_line(record)}")


def print_warnings(plan: Plan, sources: Sequence[Source]) -> None:
    """What the user must know of the patients and splits, on stderr."""
    for warning in _warnings(plan, sources):
        print(warning, file=sys.stderr)


def _source_lines(plan: Plan, source: Source) -> Iterator[str]:
    prefix = f"{source.name}/" if len(plan.unnamed) > 1 else ""
    records = [record for record in plan.records if record.file.startswith(prefix)]
    chosen = f", {len(source.chosen_rows()):,} of them chosen by --where" if source.where else ""
    yield (
        f"{source.name}: {len(source.rows):,} rows{chosen}; {len(records):,} usable images, "
        f"{sum(1 in _labels(record) for record in records):,} positive"
    )
    yield f"  columns used: {', '.join(source.columns())}"
    if unused := [name for name in source.rows.columns if name not in source.columns()]:
        yield f"  columns not used: {', '.join(unused)}"
    if unnamed := plan.unnamed[source.name]:
        yield f"  files of {source.folder.root} that no row in use names: {unnamed:,}"


def _warnings(plan: Plan, sources: Sequence[Source]) -> Iterator[str]:
    if any(source.patient == UNKNOWN for source in sources):
        yield (
            "WARNING: the patients are unknown: images of one patient may be in train and in test, "
            "and every figure may be too good."
        )
    if len(plan.records) == len({record.patient_id for record in plan.records} - {""}) > 1:
        yield (
            "note: every image is of another patient; if what names the patients names the images, "
            "images of one patient come into train and test."
        )
    if merged := plan.merged_patients:
        yield (
            f"warning: patients spelled in several ways, each taken for one: {len(merged):,}, such "
            f"as {merged[0]}."
        )
    if shared := plan.patients_in_two_splits:
        yield (
            f"WARNING: LEAK: {len(shared):,} patients are in two splits, such as {shared[0]}; "
            "figures on the test split are too good. Leave the data set's own splits out to split "
            "by patient."
        )
    if not plan.has_own_validation:
        yield (
            "note: the data set's own splits have no validation; 15 % of the patients of train are "
            "taken for it."
        )


def _labels(record: Record) -> tuple[int, ...]:
    return record.label if isinstance(record.label, tuple) else (record.label,)


def _line(record: Record) -> str:
    labels = ",".join("?" if one == NOT_LABELLED else str(one) for one in _labels(record))
    parts = [record.image_id, record.split, f"label {labels}", record.detailed_class]
    parts.append(record.patient_id or "patient unknown")
    parts += [str(value) for value in (record.view, record.sex, record.age) if value is not None]
    parts += [f"{len(record.boxes)} boxes"] if record.boxes else []
    told = "  ".join(parts)
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in told)
