"""A record to be made, whatever table or folder names it, and the split that it falls into."""

import dataclasses
import hashlib

SPLITS = ("train", "validation", "test")
_SHARES = (70, 15, 15)  # per cent

Box = tuple[float, float, float, float]  # ymin, xmin, ymax, xmax in pixels


@dataclasses.dataclass(frozen=True)
class Record:
    """Where an image is, and everything that is known of it beside its file.

    Attributes:
      image_id: unique in the data set.
      path: the image file, local or gs://.
      split: one of `SPLITS`.
      label: 0 or 1; of several findings each 0, 1 or `manifest.NOT_LABELLED`.
      detailed_class: what kind of image it is, finer than the label.
      boxes: in pixels of the original image.
      patient_id: the real patient; "" when not known.
      file: the image's name in the manifest; by default the last part of the path.
      view, sex, age, spacing: None where the file's own header decides; age in years, spacing in
        mm per pixel.
      source: where the image comes from; None in a data set of one source, whose manifest then
        does not list format and size either.
    """

    image_id: str
    path: str
    split: str
    label: int | tuple[int, ...]
    detailed_class: str
    boxes: tuple[Box, ...]
    patient_id: str
    file: str = ""
    view: str | None = None
    sex: str | None = None
    age: float | None = None
    spacing: float | None = None
    source: str | None = None


def assign_split(unit: str) -> str:
    """train, validation or test (70, 15, 15 %) for a patient, an image or a row.

    A pure function of the name: adding images never moves another one.
    """
    digest = hashlib.blake2b(
        unit.encode(errors="surrogatepass"), digest_size=8, person=b"cbam_flax split"
    ).digest()
    # 2**64 is so much more than 100 that the bias of the modulo is 1e-17.
    place = int.from_bytes(digest, "big") % 100
    return "train" if place < _SHARES[0] else "validation" if place < 100 - _SHARES[2] else "test"
