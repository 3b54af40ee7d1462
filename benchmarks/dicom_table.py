"""What the decoder makes of each DICOM file: the image, or the refusal with its reason."""

import argparse
from collections import Counter
from pathlib import Path

from pydicom.data import get_testdata_files

from data_prep.dicom import DicomRefusal, read_radiograph

EXAMPLE = """example:
  python -m benchmarks.dicom_table FOLDER
Without a folder: the test files that pydicom brings.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*")
    folders = parser.parse_args().folders
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    counts: Counter[str] = Counter()
    bundled = (path for path in map(Path, get_testdata_files()) if path.is_file())
    for path in paths or sorted(bundled):
        try:
            image = read_radiograph(path).image
            code = "image"
            what = (
                f"{image.shape[0]} x {image.shape[1]} {image.dtype}, "
                f"{image.min()} to {image.max()}, mean {image.mean():.0f}"
            )
        except DicomRefusal as refusal:
            code, what = refusal.code, refusal.message
        counts[code] += 1
        print(f"{'/'.join(path.parts[-2:]):52} {code:15} {what}")
    print(", ".join(f"{count} {code}" for code, count in counts.most_common()))


if __name__ == "__main__":
    main()
