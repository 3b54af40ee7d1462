"""Why a file is not used: a closed set of codes, so that they can be counted and compared."""

REFUSAL_CODES: dict[str, str] = {
    # what the file itself is
    "unreadable": "the file could not be read from the disk",
    "not_a_file": "a folder, pipe, socket or device, not a file",
    "not_dicom": "the content is not DICOM",
    "no_pixel_data": "a DICOM object without an image",
    "bad_header": "an attribute that the image needs is missing or senseless",
    "not_monochrome": "colour or palette image, so no radiograph",
    "multi_frame": "more than one frame, so no radiograph",
    "too_large": "dimensions or inflated size beyond the bound",
    "truncated": "less pixel data than the header promises",
    "excess_data": "more pixel data than the header promises",
    "undecodable": "the pixel data could not be decoded, or is damaged",
    "bad_bits": "pixel values do not fit the number of bits that the header declares",
    "constant": "every pixel has the same value",
    # what it did to the worker that read it
    "timeout": "decoding took longer than the limit per file",
    "crashed": "the decoder crashed",
    # what the tables say about it
    "outside_folder": "an id or a path that does not stay in the folder of the images",
    "no_file": "the tables have this id, the folder has no file for it",
    "no_label": "the tables have no usable row for this id",
    "conflicting_labels": "the tables contradict themselves about this id",
    "bad_box": "a box that is missing, empty, not a number or outside the image",
    "duplicate": "a second file or a repeated row for the same id",
    "no_patient": "neither the mapping nor the table says whose image this is",
    "no_split": "the table's own splits do not say train, validation or test",
}


class DicomRefusal(Exception):
    """A file that is refused: `code` is one of `REFUSAL_CODES`, `message` one sentence."""

    def __init__(self, code: str, message: str) -> None:
        if code not in REFUSAL_CODES:
            raise ValueError(f"{code!r} is not a refusal code")
        super().__init__(code, message)  # both, so that it survives pickling
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
