"""python -m cbam_flax.predict: radiographs, or folders of them -> predictions.csv, rejected.csv."""

import pathlib
import sys

from cbam_flax.predict import RUNTIMES, Predictor, dicom_output, reader, saliency
from cbam_flax.predict.score_files import earlier_results, output_names, score_files
from data_prep import cli
from data_prep.files import folders

EXAMPLE = """example:
  python -m cbam_flax.predict --bundle=runs/rsna_bundle --out=predictions image.dcm folder/

exit status:
  0  at least one file was scored; the refused ones are in rejected.csv
  1  every file was refused; rejected.csv says why
  2  wrong use, such as a path that does not exist; nothing was written"""


def main() -> int:
    parser = cli.parser(
        "cbam_flax.predict",
        "Scores radiographs (DICOM, PNG, JPEG, TIFF) with an exported bundle. "
        "Not for clinical use.",
        EXAMPLE,
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", type=pathlib.Path)
    parser.add_argument("--bundle", type=pathlib.Path, required=True, help="from cbam_flax.export")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder for the predictions"
    )
    parser.add_argument(
        "--runtime",
        choices=("auto", *RUNTIMES),
        default="auto",
        help="auto (the default) takes what is installed and fastest, and says what it took",
    )
    parser.add_argument(
        *("--verify_with", "--verify-with"),
        type=pathlib.Path,
        metavar="KEY",
        help="public key, PEM or ssh; refuse a bundle that export did not sign with its other half",
    )
    parser.add_argument("--overlays", action="store_true", help="write a PNG of each image")
    parser.add_argument(
        "--dicom_output",
        action="store_true",
        help="write a Secondary Capture and a Structured Report of each image (needs highdicom)",
    )
    parser.add_argument(
        "--saliency",
        choices=saliency.TITLES,
        help="the map in these pictures; occlusion runs the model "
        f"{saliency.PASSES} times for each image (default: the one that the bundle names, which "
        "pointed at radiologists' boxes best where it was evaluated)",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="images at once (8)")
    parser.add_argument(
        "--workers", type=int, default=cli.cores(), help="decoding processes (all cores)"
    )
    arguments = parser.parse_args()
    for name, least in (("batch_size", 1), ("workers", 0)):
        if (value := getattr(arguments, name)) < least:
            raise cli.UserError(f"--{name} is {value}; it must be at least {least}")

    cli.keep_compiled_programs()
    if arguments.dicom_output:
        dicom_output.require_highdicom()
    sources = reader.find_files(arguments.paths)
    wanted = {"overlays": arguments.overlays, "dicom": arguments.dicom_output}
    with folders.writing(
        arguments.out,
        "cbam_flax.predict",
        index="predictions.csv",
        outputs=output_names(sources, **wanted),
        inputs=[*arguments.paths, arguments.bundle],
        earlier=earlier_results,
    ) as draft:
        predictor = Predictor.load(
            arguments.bundle,
            arguments.runtime,
            arguments.batch_size,
            arguments.verify_with,
            images=len(sources),
        )
        method = saliency.choose(predictor.bundle, arguments.saliency)
        summary = score_files(
            predictor, sources, draft, workers=arguments.workers, method=method, **wanted
        )
    if any(wanted.values()):
        merit = saliency.merit(predictor.bundle, method)
        print(f"maps: {saliency.TITLES[method]}; {merit}")
    for warning in predictor.bundle.get("warnings", ()):
        print(f"warning of the bundle: {warning}", file=sys.stderr)
    if summary.without_header:
        print(
            f"scope unknown for {summary.without_header} of the scored images: PNG, JPEG and TIFF "
            f"files state no modality, body part or view"
        )
    if summary.without_dicom:
        print(
            f"no DICOM output for {summary.without_dicom} of the scored images: they have no valid "
            f"study, series and instance UID to refer to"
        )
    print(f"runtime: {predictor.runtime}")
    print(
        f"images: {summary.scored} scored, {summary.refused} refused; "
        f"see predictions.csv and rejected.csv in {arguments.out}"
    )
    return 0 if summary.scored else 1


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
