"""Mutated DICOM files through the decoder's workers: nothing may crash, hang or eat the memory.

Seeds are the monochrome images among pydicom's own test files, one phantom per bomb, and whatever
--seeds names. Every mutation is a function of its number alone.
"""

import argparse
import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.data import get_testdata_files
from pydicom.encaps import encapsulate
from tqdm import tqdm

from data_prep.dicom import DicomRefusal, read_radiograph
from data_prep.workers import Lost, run_tasks

EXAMPLE = """example:
  python -m benchmarks.fuzz_dicom --files=2000 --seeds rsna/stage_2_train_images
"""

LYING = {
    "Rows": (0, 1, 7, 65535),
    "Columns": (0, 1, 7, 65535),
    "BitsAllocated": (0, 1, 8, 12, 16, 32, 64, 65535),
    "BitsStored": (0, 1, 7, 9, 16, 255),
    "HighBit": (0, 6, 15, 255, 65535),
    "PixelRepresentation": (0, 1, 2),
    "SamplesPerPixel": (0, 1, 3, 65535),
    "NumberOfFrames": ("0", "1", "2", "999999999"),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR", "", "X" * 16),
    "PixelPaddingValue": (0, 65535),
    "RescaleSlope": ("0", "-1", "1e300", "nan", "x"),
    "RescaleIntercept": ("0", "1e300", "inf"),
    "WindowWidth": ("0", "-5", "1e300", "nan"),
    "WindowCenter": ("0", "1e300", "x"),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "OTHER"),
    "PresentationLUTShape": ("INVERSE", "IDENTITY", "?"),
    "ViewPosition": ("\0" * 16, "PA" * 8),
    "PixelData": (b"", b"\0", bytes(range(256)) * 3),
}
SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000,
    uid.HTJ2K,
    uid.RLELossless,
    uid.MPEG2MPML,
    "1.2.3.4.5",
)


def flip_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes anywhere, or many in the header."""
    array = np.frombuffer(data, np.uint8).copy()
    end = len(array) if rng.random() < 0.5 else min(len(array), 2000)
    places = rng.integers(0, end, int(rng.choice([1, 4, 32, 256])))
    array[places] = rng.integers(0, 256, len(places))
    return array.tobytes()


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def splice(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece cut out, doubled, or moved."""
    a, b, c = np.sort(rng.integers(0, len(data), 3))
    return data[:a] + (data[b:c], data[a:b] * 2, data[b:c] + data[a:b])[rng.integers(3)] + data[c:]


def remove_tags(data: bytes, rng: np.random.Generator) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    for tag in rng.permutation(list(dataset.keys()))[: rng.integers(1, 6)].tolist():
        del dataset[tag]
    return _saved(dataset)


def lie(data: bytes, rng: np.random.Generator) -> bytes:
    """Attributes with values that cannot be, or another transfer syntax."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    for keyword in rng.permutation(list(LYING))[: rng.integers(1, 4)]:
        values = LYING[keyword]
        setattr(dataset, keyword, values[rng.integers(len(values))])
    data = _saved(dataset)
    if rng.random() < 0.3:
        old = str(dataset.file_meta.TransferSyntaxUID).encode()
        new = str(SYNTAXES[rng.integers(len(SYNTAXES))]).encode()
        data = data.replace(old, new.ljust(len(old), b"\0")[: len(old)], 1)
    return data


def bomb(data: bytes, rng: np.random.Generator) -> bytes:
    """Small files that ask for much: deflated zeros, huge frames, deep sequences."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    kind = rng.integers(4)
    if kind == 0:
        dataset.decompress() if dataset.file_meta.TransferSyntaxUID.is_encapsulated else None
        dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
        dataset.PixelData = bytes(int(rng.integers(150, 300)) << 20)
    elif kind == 1:  # a JPEG 2000 or JPEG frame of 60,000 x 60,000 in 100 bytes
        size = (60000).to_bytes(4, "big")
        siz = b"\0\x29\0\0" + size * 2 + bytes(8) + size * 2 + bytes(8) + b"\0\1\7\1\1"
        j2k = b"\xff\x4f\xff\x51" + siz + b"\xff\xd9"
        jpeg = b"\xff\xd8\xff\xc0\0\x0b\x08" + size[2:] * 2 + b"\1\1\x11\0\xff\xd9"
        frame, syntax = [(j2k, uid.JPEG2000), (jpeg, uid.JPEGBaseline8Bit)][rng.integers(2)]
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.Rows = dataset.Columns = int(rng.choice([64, 60000]))
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
    elif kind == 2:
        dataset.Rows, dataset.Columns = 65535, int(rng.choice([1000, 65535]))
    else:  # sequences in sequences, written by hand because pydicom's writer takes 2**depth steps
        opening = b"\x28\0\x10\x30SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
        place = data.find(b"\xe0\x7f\x10\0")
        return data[:place] + opening * int(rng.integers(50, 5000)) + data[place:]
    return _saved(dataset)


def _saved(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flip_bytes,
    truncate,
    splice,
    remove_tags,
    lie,
    bomb,
)


def mutate_and_read(task: tuple[int, str]) -> tuple[str, str, float, int]:
    """The mutation's name, "accepted" or a code, and the seconds and the peak MiB of reading."""
    number, seed = task
    rng = np.random.default_rng(number)
    data = Path(seed).read_bytes()
    name = "unchanged"
    for _ in range(10):  # some mutations cannot be written as DICOM; then another one
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        try:
            data = mutation(data, rng)
        except Exception:
            continue
        name = mutation.__name__
        break
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the mutation
    start = time.monotonic()
    try:
        read_radiograph(data)
        outcome = "accepted"
    except DicomRefusal as refusal:
        outcome = refusal.code
    seconds = time.monotonic() - start
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
    return name, outcome, seconds, peak


def find_seeds(folders: list[Path]) -> list[str]:
    """Files that decode as they are."""
    candidates = [Path(path) for path in get_testdata_files("*.dcm")]
    for folder in folders:
        candidates += sorted(folder.glob("*.dcm"))[:20] if folder.is_dir() else [folder]
    seeds = []
    for path in candidates:
        try:
            read_radiograph(path)
            seeds.append(str(path))
        except DicomRefusal:
            continue
    return seeds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="folders or files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="limit per file")
    args = parser.parse_args()
    seeds = find_seeds(args.seeds)
    tasks = [(number, seeds[number % len(seeds)]) for number in range(args.files)]
    outcomes: Counter[str] = Counter()
    by_mutation: Counter[str] = Counter()
    slowest, peak = (0.0, "", ""), (0, "", "")
    results = run_tasks(mutate_and_read, tasks, workers=args.workers, seconds=args.seconds)
    for task, result in tqdm(results, "fuzzing", len(tasks), unit="file"):
        if isinstance(result, Lost):
            outcomes[f"LOST: {result.code}"] += 1
            tqdm.write(f"{task}: {result.code}")
            continue
        name, outcome, seconds, mebibytes = result
        by_mutation[name] += 1
        outcomes[outcome] += 1
        slowest = max(slowest, (seconds, name, outcome))
        peak = max(peak, (mebibytes, name, outcome))
    print(f"{args.files} mutated files from {len(seeds)} seeds: {dict(by_mutation)}")
    for outcome, count in outcomes.most_common():
        print(f"{count:6} {outcome}")
    print("slowest: {:.2f} s ({}, {})".format(*slowest))
    print("peak memory of a worker while reading: {} MiB ({}, {})".format(*peak))


if __name__ == "__main__":
    main()
