"""One DICOM file -> one canonical grey image, or a typed refusal.

Preparation and inference decode through this package alone, so it imports neither TensorFlow nor
TFDS and starts fast.
"""

from data_prep.dicom.header import HEADER_KEYWORDS, parse_age
from data_prep.dicom.reader import MAX_PIXELS, Radiograph, read_radiograph
from data_prep.dicom.refusal import REFUSAL_CODES, DicomRefusal

__all__ = [
    "HEADER_KEYWORDS",
    "MAX_PIXELS",
    "REFUSAL_CODES",
    "DicomRefusal",
    "Radiograph",
    "parse_age",
    "read_radiograph",
]
