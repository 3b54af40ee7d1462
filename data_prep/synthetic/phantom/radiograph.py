"""One radiograph: the layers added up, then everything between the beam and the picture."""

import dataclasses
from collections.abc import Collection

import cv2
import numpy as np

from data_prep.synthetic.phantom import anatomy
from data_prep.synthetic.phantom import findings as pathology
from data_prep.synthetic.phantom.canvas import CANVAS, SCALE, SIDE, clouds, fill, pillow


@dataclasses.dataclass(frozen=True)
class Drawn:
    """`image` is SIDE x SIDE uint8, dense is white; `boxes` are (x, y, width, height) in pixels."""

    image: np.ndarray
    boxes: list[pathology.Box]


def render(
    body: anatomy.Body,
    rng: np.random.Generator,
    *,
    view: str,
    opacities: int = 0,
    findings: Collection[str] = (),
) -> Drawn:
    """Draws one radiograph.

    Args:
      body: The patient.
      rng: Everything that differs between two images of one patient comes from here. Opacities have
        a stream of their own: without them the same generator draws an otherwise equal image.
      view: "PA" (standing, breath held, shoulders out of the way) or "AP" (in bed: higher
        diaphragm, larger heart, shoulder blades over the lungs, tilted, lettering).
      opacities: How many consolidations, each with its box of BOX_SIDE pixels a side.
      findings: Others of FINDINGS. They have no box.

    Raises:
      ValueError: A finding is none of FINDINGS.
    """
    if unknown := set(findings) - set(pathology.FINDINGS):
        raise ValueError(f"findings {sorted(unknown)} are none of {pathology.FINDINGS}")
    rng, opacity_rng = rng.spawn(2)
    supine = view == "AP"
    if supine:
        body = body.in_bed(rng)
    if "large heart" in findings:
        body = dataclasses.replace(body, heart=body.heart * rng.uniform(1.35, 1.55))
    canvas_to_image = _canvas_to_image(rng, supine)

    lungs = [fill(anatomy.lung(body, side)) for side in (-1, 1)]
    lost, boxes = pathology.opacities(opacity_rng, opacities, lungs, canvas_to_image)
    if "effusion" in findings:
        lost = np.maximum(lost, pathology.effusion(rng, body))
    heart = anatomy.heart(body)
    air = (pillow(lungs[0], 0.26) + pillow(lungs[1], 0.26)) * (1 - np.maximum(lost, 0.8 * heart))
    tissue = anatomy.soft_tissue(body, rng, supine)

    beam = tissue - 0.64 * air
    beam += air * (0.32 * anatomy.vessels(body) + 0.022 * clouds(rng, 96) + 0.02 * clouds(rng, 24))
    beam += 0.10 * heart + anatomy.mediastinum(body) + anatomy.abdomen(body, rng)
    beam += anatomy.bones(body, rng, supine)
    if "nodule" in findings:
        beam += pathology.nodules(rng, lungs)
    if "atelectasis" in findings:
        beam += pathology.atelectasis(rng, body)
    if "tubes" in findings:
        beam += pathology.tubes(rng, body)
    return Drawn(_develop(beam * (tissue > 0), canvas_to_image, rng, supine), boxes)


def _canvas_to_image(rng: np.random.Generator, supine: bool) -> np.ndarray:
    """The 2 x 3 affine map from canvas pixels to image pixels."""
    zoom = SIDE / (2 * SCALE) * rng.uniform(0.94, 1.06)
    shift = rng.normal(0, 0.035 if supine else 0.015, 2) * SIDE / 2
    tilt = rng.normal(0, 4.0 if supine else 1.0)
    matrix: np.ndarray = cv2.getRotationMatrix2D((CANVAS / 2, CANVAS / 2), tilt, zoom)
    matrix[:, 2] += SIDE / 2 - CANVAS / 2 + shift
    return matrix


def _develop(
    beam: np.ndarray, canvas_to_image: np.ndarray, rng: np.random.Generator, supine: bool
) -> np.ndarray:
    """Scatter, collimator, exposure, grain and lettering.

    The exposure (mean and spread of the grey) is drawn without looking at what is in the image
    and then imposed on it, so that brightness does not tell whether there is an opacity.
    """
    scatter = rng.uniform(0.10, 0.22) if supine else rng.uniform(0.02, 0.12)
    haze = cv2.resize(cv2.resize(beam, (36, 36), interpolation=cv2.INTER_AREA), beam.shape)
    beam = ((1 - scatter) * beam + scatter * haze) * (beam > 0)
    for edge in (beam, beam[::-1], beam.T, beam.T[::-1]):  # the collimator's four blades
        edge[: max(0, int(rng.normal(0.08, 0.05) * SCALE))] = 0
    thumb_size = (SIDE // 16, SIDE // 16)
    thumb = cv2.warpAffine(beam, canvas_to_image / 16, thumb_size, flags=cv2.INTER_LINEAR)
    gamma, gain = _exposure(thumb[thumb > 0.05], rng.normal(145, 15), rng.uniform(0.30, 0.52))
    grey = 250 * np.tanh(cv2.pow(beam, gamma) * (gain / 250))
    drawn = cv2.warpAffine(grey, canvas_to_image, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    grain = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE), np.float32), (0, 0), 0.8)
    image: np.ndarray = cv2.addWeighted(
        drawn, 1.0, grain, rng.uniform(2.5, 7.0), 4.0, dtype=cv2.CV_8U
    )
    _lettering(image, rng, supine)
    return image


def _exposure(beam: np.ndarray, mean: float, spread: float) -> tuple[float, float]:
    """Power and gain that give these pixels this mean, and `spread` times it as deviation."""
    low, high = 0.3, 4.0
    for _ in range(12):  # bisection: a higher power always spreads more
        gamma = (low + high) / 2
        grey = beam**gamma
        low, high = (gamma, high) if grey.std() < spread * grey.mean() else (low, gamma)
    return gamma, mean / grey.mean()


def _lettering(image: np.ndarray, rng: np.random.Generator, supine: bool) -> None:
    left = rng.random() < 0.75
    x = int(rng.uniform(860, 960) if left else rng.uniform(40, 120))
    y = int(rng.uniform(50, 160))
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(
        image, "L" if left else "R", (x, y), font, rng.uniform(1.2, 2.0), 250, 4, cv2.LINE_AA
    )
    if supine and rng.random() < 0.6:
        place = (int(rng.uniform(30, 760)), int(rng.uniform(40, 110)))
        text = str(rng.choice(("PORTABLE", "AP", "PORTABLE AP", "SUPINE")))
        cv2.putText(image, text, place, font, 0.9, 240, 2, cv2.LINE_AA)
