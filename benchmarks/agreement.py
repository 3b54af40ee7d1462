"""How far the artefacts of a bundle are from the training code on real radiographs.

Every runtime scores the same images in batches of 1, 7 and 64; printed is the largest difference in
calibrated probability from the run's own forward pass.

    python -m benchmarks.agreement --bundle=BUNDLE --workdir=RUN --films=FOLDER [--count=50]
"""

import argparse
import os
import pathlib

import numpy as np

from cbam_flax.predict import Predictor, reader, runtimes
from cbam_flax.predict.bundle import ARTEFACTS, artefact_path, read_bundle

BATCHES = (1, 7, 64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", required=True, help="the run that was exported")
    parser.add_argument("--films", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=50)
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"

    from cbam_flax.checkpoint import load_for_inference
    from cbam_flax.export.verification import training_code

    bundle = read_bundle(arguments.bundle)
    sources = reader.find_files([arguments.films])[: arguments.count]
    tasks = [reader.Task(source, bundle["preprocessing"], with_panel=False) for source in sources]
    read = [item for item in map(reader.read_file, tasks) if isinstance(item, reader.Decoded)]
    squares = np.stack([image.square for image in read])
    restored = load_for_inference(arguments.workdir, bundle["fingerprints"]["checkpoint"]["step"])
    images = squares[..., None].astype(np.float32) / 255
    members = [(restored.model, restored.variables)]
    expected = training_code(members, bundle["calibration"], images)[0]["probability"]
    print(f"{len(read)} images, probabilities {expected.min():.3f} to {expected.max():.3f}")
    for runtime, name in ARTEFACTS.items():
        function = runtimes.LOADERS[runtime](artefact_path(arguments.bundle, bundle, runtime))
        found = {}
        for size in BATCHES:
            predictor = Predictor(bundle, function, size, runtime)
            found[size] = np.concatenate(
                [
                    predictor.run(np.stack(chunk), size)["probability"]
                    for chunk in reader.batches(squares, size)
                ]
            )
        spread = max(float(np.abs(found[1] - found[size]).max()) for size in BATCHES)
        furthest = max(float(np.abs(found[size] - expected).max()) for size in BATCHES)
        print(f"{name:16} from the training code {furthest:.1e}, between batch sizes {spread:.1e}")


if __name__ == "__main__":
    main()
