"""Whose radiographs a model has seen: those of its own training, and of the models before it.

WORKDIR/trained_on.json holds the patients and the images of a run's training and validation splits,
as hashes. A run that starts from another model has its `ancestors` in every checkpoint record, the
nearest first, and what each was trained on in WORKDIR/ancestors.json, under the hash that the
record gives. What an ancestor was trained on is None where it was not recorded.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cbam_flax.input_pipeline import Split, source_images
from cbam_flax.provenance import sha256_of_json
from data_prep.cli import UserError
from data_prep.files.text_files import read_json, replace_text
from data_prep.manifest import SYNTHETIC, is_synthetic

SCHEMA = 1
PARTS = ("train", "validation")
NAMESPACES = {"rsna_pneumonia": "nih"}  # whose patients a data set's bare ids name, if not its own
TrainedOn = dict[str, Any]
Ancestor = dict[str, Any]


def patient_names(split: Split) -> np.ndarray:
    """Of each record the patient as all data sets name them, "nih:00000013"; "" if unknown."""
    dataset = split.manifest["dataset"].partition("/")[0]
    drawn = is_synthetic(split.manifest)
    namespace = SYNTHETIC if drawn else NAMESPACES.get(dataset, dataset)
    return np.array(
        [
            name if name == "" or (":" in name and not drawn) else f"{namespace}:{name}"
            for name in split.columns["patient_id"]
        ],
        dtype=str,
    )


def patients_as_in(judged: Split, split: Split) -> np.ndarray:
    """Of each record of `split` the patient, under the id that `judged` has for the same one.

    So the ids of two data sets can be compared: of others the name has its namespace.
    """
    ids = dict(zip(patient_names(judged), judged.columns["patient_id"], strict=True))
    return np.array([ids.get(name, name) for name in patient_names(split)], dtype=str)


def trained_on(splits: Iterable[Split]) -> TrainedOn:
    """What trained_on.json says: the patients and images of these splits, as hashes.

    The hashes keep the file small. They hide no names: who knows an id can look it up.
    """
    found: TrainedOn = {"schema": SCHEMA, "splits": {}}
    for split in splits:
        found["dataset"] = split.manifest["dataset"]
        patients = patient_names(split)
        found["splits"][split.name] = {
            "content_sha256": split.fingerprint,
            "patients": _packed(patients[patients != ""]),
            "images_of_unknown_patients": int((patients == "").sum()),
            "images": _packed(_images(split)),
        }
    return found


def _images(split: Split) -> np.ndarray:
    return source_images(split.columns["image_id"], split.manifest["split_scheme"])


def _hashes(names: np.ndarray) -> np.ndarray:
    """uint64 (N,), the first 8 bytes of BLAKE2b of each name."""
    digests = (
        hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
        for name in names
    )
    return np.frombuffer(b"".join(digests), "<u8")


def _packed(names: np.ndarray) -> str:
    """The sorted hashes of the names, each once, in base64."""
    return base64.b64encode(np.unique(_hashes(names)).tobytes()).decode()


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), "<u8")


def write(workdir: str, own: TrainedOn, before: Sequence[TrainedOn | None]) -> None:
    """Writes trained_on.json and, where something is known of the models before, ancestors.json."""
    from etils import epath

    folder = epath.Path(workdir)
    replace_text(folder / "trained_on.json", json.dumps(own, indent=1) + "\n")
    if known := {sha256_of_json(one): one for one in before if one is not None}:
        replace_text(folder / "ancestors.json", json.dumps(known, indent=1) + "\n")


def read_own(workdir: Any, fingerprint: Mapping[str, str]) -> TrainedOn | None:
    """What a run was trained on; None if it does not say so, as those of older versions.

    Args:
        workdir: an epath.Path.
        fingerprint: of the data, by split, as the checkpoint has it.

    Raises:
        UserError: the file is damaged, or is of other data than the checkpoint.
    """
    path = workdir / "trained_on.json"
    if not path.exists():
        return None
    mend = "restore it, or move it away: its patients then count as unknown"
    found = read_json(path, mend)
    try:
        contents = {name: found["splits"][name]["content_sha256"] for name in fingerprint}
        _check(found)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}); {mend}") from error
    if contents != fingerprint:
        raise UserError(f"{path} is of other data than the checkpoint beside it; {mend}")
    return found


def read_before(workdirs: Iterable[Any], ancestors: Sequence[Ancestor]) -> list[TrainedOn | None]:
    """What each ancestor was trained on; None where that is not known.

    Args:
        workdirs: an epath.Path of each run that has some of these ancestors.

    Raises:
        UserError: an ancestors.json is damaged.
    """
    known: dict[str, Any] = {}
    mend = "restore it, or move it away: the patients of the ancestors then count as unknown"
    for path in (workdir / "ancestors.json" for workdir in workdirs):
        found = read_json(path, mend) if path.exists() else {}
        for sha256, one in found.items():
            if sha256_of_json(one) != sha256:
                raise UserError(f"{path} has changed since it was written; {mend}")
        known |= found
    return [known.get(ancestor["trained_on_sha256"]) for ancestor in ancestors]


def _check(found: TrainedOn) -> None:
    """Raises KeyError, TypeError or ValueError where `shared` would."""
    str(found["dataset"])
    for part in found["splits"].values():
        int(part["images_of_unknown_patients"])
        for key in ("patients", "images"):
            _unpacked(part[key])


def shared(before: TrainedOn | None, judged: Split) -> dict[str, dict[str, int | None]]:
    """By `train` and `validation` of an ancestor, how much of a split was there already.

    Returns:
        For each of the two: `images` with the name of one there, `images_of_known_patients`, those
        and all images of patients there, `patients` there, and `unchecked`, images of which it
        cannot be said, since they or some images there name no patient. The first three are None
        where nothing is known of the ancestor.
    """
    if before is None:
        unknown = dict.fromkeys(("images", "images_of_known_patients", "patients"))
        return {part: unknown | {"unchecked": len(judged)} for part in PARTS}
    names = patient_names(judged)
    known, patients, images = names != "", _hashes(names), _hashes(_images(judged))
    found: dict[str, dict[str, int | None]] = {}
    for part in PARTS:
        there = before["splits"][part]
        same_image = np.isin(images, _unpacked(there["images"]))
        same_patient = known & np.isin(patients, _unpacked(there["patients"]))
        sure = same_image | same_patient | (known & (not there["images_of_unknown_patients"]))
        found[part] = {
            "images": int(same_image.sum()),
            "images_of_known_patients": int((same_image | same_patient).sum()),
            "patients": len(np.unique(patients[same_patient])),
            "unchecked": int((~sure).sum()),
        }
    return found


def described(ancestor: Ancestor) -> str:
    """Data set and step, such as "rsna_pneumonia/256px/1.0.0, step 900"."""
    if ancestor["dataset"] is None:
        return "an imported model"
    return f"{ancestor['dataset']}, step {ancestor['step']:,}"


def judged(
    ancestors: Sequence[Ancestor], before: Sequence[TrainedOn | None], split: Split
) -> list[Ancestor]:
    """The ancestors, each with what it has `shared` with a split that is judged."""
    return [
        ancestor | {"shared": shared(one, split)}
        for ancestor, one in zip(ancestors, before, strict=True)
    ]


def warnings(ancestors: Sequence[Ancestor], n: int, *, of_ensemble: bool = False) -> list[str]:
    """The sentences on what `judged` found, of a split of `n` images.

    Args:
        of_ensemble: the ancestors are of several members, so that their order says nothing.
    """
    found = []
    for generation, ancestor in enumerate(ancestors, start=1):
        model = "the model that this run started from"
        if of_ensemble:
            model = f"a model before a member of the ensemble ({described(ancestor)})"
        elif generation > 1:
            model = f"this model's ancestor {generation} runs back"
        train, validation = (ancestor["shared"][part] for part in PARTS)
        if train["images"] is None:
            found.append(
                f"UNKNOWN PATIENTS: on whom {model} was trained is not known, so leaks through it "
                f"are unchecked for all {n} images."
            )
            continue
        if train["images_of_known_patients"] > train["images"]:
            found.append(
                f"LEAK: {train['images_of_known_patients']} of {n} images show patients on whom "
                f"{model} was trained. The metrics are too good for new patients."
            )
        elif train["images"]:
            found.append(
                f"LEAK: {train['images']} of {n} images have the names of images on which {model} "
                f"was trained. The metrics are too good for new images."
            )
        if train["unchecked"]:
            found.append(
                f"UNKNOWN PATIENTS: leaks through {model} are unchecked for {train['unchecked']} "
                f"of {n} images, since they or its training images name no patient."
            )
        if validation["images_of_known_patients"]:
            found.append(
                f"SELECTION: {validation['images_of_known_patients']} of {n} images are, or show "
                f"patients, of the validation split by which {model} was chosen. The metrics may "
                f"be slightly too good."
            )
    return found
