"""Whether the header says that an image is not of the kind that the model was trained on."""

import re
from typing import Any

# Names of a lateral view, as whole words: not "bilateral".
_LATERAL = re.compile(r"\b(lat|lateral|l\.?l\.?)\b", re.IGNORECASE)


def out_of_scope(header: dict[str, Any], scope: dict[str, list[str]]) -> list[str]:
    """What in the header is outside the bundle's scope, as `name=value`; empty when in scope.

    Args:
        header: as `data_prep.images.read_image` gives it; missing values raise no flag.
        scope: `modalities` and `views` are exact DICOM terms; a body part is in scope when it
            contains one of `body_parts`.
    """
    flags = []
    # Raw detector data have no greys to look at, whatever the model was trained on.
    if header["presentation_intent"].upper() == "FOR PROCESSING":
        flags.append("presentation_intent=FOR PROCESSING")
    modality, view = header["modality"].upper(), header["view_position"].upper()
    body_part, description = header["body_part"].upper(), header["series_description"]
    if modality and modality not in scope["modalities"]:
        flags.append(f"modality={modality}")
    if body_part and not any(part in body_part for part in scope["body_parts"]):
        flags.append(f"body_part={body_part}")
    if view and view not in scope["views"]:
        flags.append(f"view={view}")
    elif not view and _LATERAL.search(description):
        flags.append("view=LATERAL")
    return flags
