"""What leaks between splits, and what the confounders alone predict, before any training."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from data_prep import cli
from data_prep.cli import UserError

EXAMPLE = """example:
  python -m data_prep.audit --raw=rsna --mapping=download --out=audit.json

The folder of images may be missing; then near-duplicates are not looked for, and view, sex, age
and pixel spacing come from --metadata alone: a CSV file with the columns patientId, ViewPosition,
PatientSex, PatientAge and PixelSpacing."""

CONFOUNDERS = {
    "view": "ViewPosition",
    "sex": "PatientSex",
    "age": "PatientAge",
    "spacing": "PixelSpacing",
}
# The share of test by what is drawn: the literature's, and the original notebook's for rows.
TEST_SHARES = {"patient": 0.15, "image": 0.15, "row": 0.25}


@dataclasses.dataclass
class Table:
    """What is known of the images that have labels and a patient, sorted by id.

    Attributes:
      ids, patients: (images,) names.
      label: (images,) 0 or 1.
      rows: (images,) rows in the table of labels.
      left_out: how many ids the tables contradict themselves about, or the mapping lacks.
    """

    ids: list[str]
    patients: list[str]
    label: Any
    rows: Any
    left_out: int


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.audit",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--raw", required=True, help="the challenge's folder")
    add("--mapping", required=True, help="the mapping to patients: its file, or 'download'")
    add("--metadata", help="a CSV file of header values, used instead of the films' own")
    add("--out", required=True, type=Path, help="the JSON file to write")
    add("--workers", type=int, default=os.cpu_count() or 1, help="decoding processes")
    add("--draws", type=int, default=100, help="random splits, and bootstraps (default 100)")
    args = parser.parse_args()
    if args.workers < 1 or args.draws < 2:
        parser.error("--workers must be at least 1 and --draws at least 2")
    return args


def main() -> None:
    args = parse_args()
    from etils import epath

    from data_prep import rsna
    from data_prep.mapping import find_mapping, read_mapping

    raw = epath.Path(args.raw)
    mapping = find_mapping(args.mapping, os.fspath(args.out.parent))
    table = read_table(raw, read_mapping(mapping))
    metadata = read_metadata(epath.Path(args.metadata), table.ids) if args.metadata else None
    duplicates = None
    if (raw / rsna.IMAGES).exists():
        headers, duplicates = look_at_films(raw, table.ids, args.workers)
        metadata = metadata or headers
    result = audit(table, metadata, duplicates, args.draws)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draft = args.out.with_name(f"{args.out.name}.tmp")
    draft.write_text(json.dumps(result, indent=1) + "\n")
    draft.replace(args.out)
    print(render(result))


def read_table(raw: Any, patients: dict[str, str]) -> Table:
    """Raises UserError where no image is left."""
    import numpy as np

    from data_prep import rsna

    labels = rsna.read_labels(raw)
    usable = {
        image_id: found
        for image_id, found in sorted(labels.items())
        if isinstance(found, rsna.Labels) and patients.get(image_id)
    }
    if len({patients[image_id] for image_id in usable}) < 20:
        raise UserError(
            f"{raw} and the mapping have fewer than 20 patients in common; give the mapping that "
            "belongs to these tables"
        )
    return Table(
        ids=list(usable),
        patients=[patients[image_id] for image_id in usable],
        label=np.array([found.target for found in usable.values()]),
        rows=np.array([found.rows for found in usable.values()]),
        left_out=len(labels) - len(usable),
    )


def read_metadata(path: Any, ids: list[str]) -> dict[str, dict[str, str]]:
    """image id -> confounder -> text, from a CSV file."""
    from data_prep.rsna import read_rows

    rows = {row["patientId"]: row for row in read_rows(path, ("patientId", *CONFOUNDERS.values()))}
    missing = next((image_id for image_id in ids if image_id not in rows), None)
    if missing:
        raise UserError(f"{path} has no row for {missing}; give the table of all images")
    return {
        image_id: {name: rows[image_id][column] for name, column in CONFOUNDERS.items()}
        for image_id in ids
    }


def look_at_films(raw: Any, ids: list[str], workers: int) -> tuple[dict[str, dict[str, str]], Any]:
    """image id -> confounder -> text, from the films; and the pairs of images that look alike."""
    import numpy as np
    from tqdm import tqdm

    from data_prep.near_duplicates import Look, find_pairs, look_at
    from data_prep.rsna import list_images
    from data_prep.workers import run_tasks

    files = {path.stem: os.fspath(path) for path in list_images(raw)}
    paths = {files[image_id]: image_id for image_id in ids if image_id in files}
    looks: dict[str, Look] = {}
    results = run_tasks(look_at, paths, workers=workers)
    for path, look in tqdm(results, "films", len(paths), unit="image"):
        if isinstance(look, Look):
            looks[paths[path]] = look
    if len(looks) < len(ids):
        print(f"warning: {len(ids) - len(looks)} films are missing or refused", file=sys.stderr)
    place = {image_id: i for i, image_id in enumerate(ids)}
    seen = sorted(looks)
    pairs = find_pairs(np.array([looks[image_id].hash for image_id in seen]))
    headers: dict[str, dict[str, str]] = {image_id: {} for image_id in ids} | {
        image_id: {
            "view": look.header["view_position"],
            "sex": look.header["patient_sex"],
            "age": ""
            if look.header["patient_age"] is None
            else f"{look.header['patient_age']:.0f}",
            "spacing": str(look.header["pixel_spacing"] or ""),
        }
        for image_id, look in looks.items()
    }
    return headers, np.array([place[image_id] for image_id in seen])[pairs]


def audit(
    table: Table, metadata: dict[str, dict[str, str]] | None, duplicates: Any, draws: int
) -> dict[str, Any]:
    """Every figure, as it is written to the JSON file."""
    import numpy as np
    from tqdm import tqdm

    from data_prep import leakage as leak

    patient = np.unique(table.patients, return_inverse=True)[1]
    image_of_row = np.repeat(np.arange(len(table.ids)), table.rows)
    row_of_image = np.concatenate([np.arange(count) for count in table.rows])
    names = [table.ids[image] for image in image_of_row]
    units = {  # a number and a name per row
        "patient": (patient[image_of_row], [table.patients[image] for image in image_of_row]),
        "image": (image_of_row, names),
        "row": (
            np.arange(len(names)),
            [f"{name}#{row}" for name, row in zip(names, row_of_image, strict=True)],
        ),
    }

    def figures(in_train: Any, in_test: Any) -> dict[str, float]:
        return leak.leakage(table.label, patient, image_of_row, in_train, in_test, duplicates)

    leakage = {}
    for scheme, (unit, unit_names) in tqdm(units.items(), "splits"):
        share = TEST_SHARES[scheme]
        splits = leak.random_splits(unit, share, draws)
        leakage[f"by {scheme}, {1 - share:.0%} / {share:.0%}"] = leak.mean_and_range(
            [figures(*split) for split in splits]
        )
        prepared = figures(*leak.prepared_split(unit_names))
        leakage[f"by {scheme}, as prepared"] = {k: {"value": v} for k, v in prepared.items()}
    return {
        "images": len(table.ids),
        "patients": int(patient.max()) + 1,
        "rows": len(names),
        "positive": int(table.label.sum()),
        "left_out": table.left_out,
        "near_duplicate_pairs": None if duplicates is None else len(duplicates),
        "leakage": leakage,
        "confounders": metadata and confounders(table, patient, metadata, draws),
    }


def confounders(
    table: Table, patient: Any, metadata: dict[str, dict[str, str]], draws: int
) -> dict[str, Any]:
    """Per confounder the positive rate of each value, and the AUROC; and the union's AUROC."""
    import numpy as np
    from tqdm import tqdm

    from data_prep.confounders import category, confounder_auroc

    values = {
        name: np.array([category(name, metadata[image_id].get(name, "")) for image_id in table.ids])
        for name in CONFOUNDERS
    }
    groups = {name: [value] for name, value in values.items()} | {"union": list(values.values())}
    result: dict[str, Any] = {}
    for name, group in tqdm(groups.items(), "confounders"):
        result[name] = {"auroc": confounder_auroc(table.label, patient, group, draws)}
        if name in values:
            result[name]["positive_rate"] = {
                str(one): {
                    "images": int((values[name] == one).sum()),
                    "value": float(table.label[values[name] == one].mean()),
                }
                for one in np.unique(values[name])
            }
    return result


def render(result: dict[str, Any]) -> str:
    """The figures as a table for people."""
    lines = [
        f"{result['images']:,} images of {result['patients']:,} real patients, "
        f"{result['positive']:,} positive; {result['rows']:,} rows; {result['left_out']} left out",
        "",
        "share of the test images whose ... is in train; AUROC of the patient memoriser",
        f"{'split':28}{'own patient':>20}{'own film':>20}{'own film, positive':>20}"
        f"{'look-alike':>20}{'memoriser':>22}",
    ]
    for name, figures in result["leakage"].items():
        shares = ("patients", "images", "positive_images", "near_duplicates")
        lines.append(
            f"{name:28}"
            + "".join(f"{_percent(figures.get(key)):>20}" for key in shares)
            + f"{_auroc(figures['patient_memoriser']):>22}"
        )
    if result["near_duplicate_pairs"] is None:
        lines.append("look-alikes: not looked for, the folder of images is missing")
    if not result["confounders"]:
        return "\n".join([*lines, "confounders: unknown without --metadata or the films"])
    lines += ["", "AUROC of the confounders alone, on patients not fitted on"]
    for name, found in result["confounders"].items():
        rates = [
            f"{value or 'missing'} {rate['value']:.1%}"
            for value, rate in found.get("positive_rate", {}).items()
        ]
        text = "; positive: " + ", ".join(rates) if 0 < len(rates) <= 4 else ""
        lines.append(f"{name:10}{_auroc(found['auroc'])}{text}")
    return "\n".join(lines)


def _percent(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    interval = f" ({figure['low']:.1%}-{figure['high']:.1%})" if "low" in figure else ""
    return f"{figure['value']:.1%}{interval}"


def _auroc(figure: dict[str, float]) -> str:
    interval = f" ({figure['low']:.3f}-{figure['high']:.3f})" if "low" in figure else ""
    return f"{figure['value']:.3f}{interval}"


if __name__ == "__main__":
    cli.run(main)
