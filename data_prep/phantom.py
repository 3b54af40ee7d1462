"""Draws one radiograph-like chest film with soft opacities in it. No pixel of it is of a person.

The film is built the way an X-ray is: thicknesses of tissue, air and bone are added up along
the beam, a tone curve turns the sum into grey, and the exposure is set last. Anatomy is drawn on a
coarse canvas in body coordinates (x to the image's right, y down, the film about [-1, 1]
both ways); one affine map then tilts, shifts and enlarges it to the film, and only grain and
lettering are made at full resolution.
"""

import dataclasses
from collections.abc import Collection

import cv2
import numpy as np

FILM = 1024  # pixels, as in the challenge
FINDINGS = ("large heart", "nodule", "tubes", "effusion", "atelectasis")
BOX_SIDE = (150, 400)  # pixels of the film

_CANVAS = 512
_HALF = 1.15  # body units from the canvas' centre to its edge: room for tilt and shift
_SCALE = _CANVAS / (2 * _HALF)  # canvas pixels per body unit
_COARSE = 4  # opacities are placed on a canvas that many times smaller

Points = np.ndarray  # float [n, 2], (x, y) in body units
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the film


@dataclasses.dataclass(frozen=True)
class Film:
    """`image` is FILM x FILM uint8, dense is white; `boxes` are (x, y, width, height) in pixels."""

    image: np.ndarray
    boxes: list[Box]


@dataclasses.dataclass(frozen=True)
class Body:
    """What stays the same in all films of one patient. Lengths in body units."""

    female: bool
    lung_width: float  # from the midline to the lateral wall
    apex: float  # y of the lung apices
    dome: float  # y of the right diaphragm dome
    heart: float  # half width of the heart
    bulk: float  # how far the soft tissue reaches beyond the ribs
    breast: float  # radius
    rib_pitch: float
    texture: int  # seed of the vessels

    @classmethod
    def draw(cls, rng: np.random.Generator, female: bool) -> "Body":
        """Draws a patient."""
        return cls(
            female=female,
            lung_width=rng.uniform(0.64, 0.74) - 0.03 * female,
            apex=rng.uniform(-0.84, -0.74),
            dome=rng.uniform(0.22, 0.42),
            heart=rng.uniform(0.26, 0.33),
            bulk=rng.uniform(0.08, 0.20),
            breast=rng.uniform(0.24, 0.36),
            rib_pitch=rng.uniform(0.135, 0.155),
            texture=int(rng.integers(2**31)),
        )


def render(
    body: Body,
    rng: np.random.Generator,
    *,
    view: str,
    opacities: int = 0,
    findings: Collection[str] = (),
) -> Film:
    """Draws one film.

    Args:
      body: The patient.
      rng: Everything that differs between two films of one patient comes from here.
      view: "PA" (standing, breath held, shoulders out of the way) or "AP" (in bed: higher
        diaphragm, larger heart, shoulder blades over the lungs, tilted, lettering).
      opacities: How many consolidations, each with its box of BOX_SIDE pixels a side.
      findings: Others of FINDINGS. They have no box.

    Raises:
      ValueError: A finding is none of FINDINGS.
    """
    if unknown := set(findings) - set(FINDINGS):
        raise ValueError(f"findings {sorted(unknown)} are none of {FINDINGS}")
    supine = view == "AP"
    if supine:
        body = dataclasses.replace(
            body, dome=body.dome - rng.uniform(0.08, 0.2), heart=body.heart * rng.uniform(1.05, 1.2)
        )
    if "large heart" in findings:
        body = dataclasses.replace(body, heart=body.heart * rng.uniform(1.35, 1.55))

    lungs = [_lung(body, side) for side in (-1, 1)]
    masks = [_fill(lung) for lung in lungs]
    air = sum(_pillow(mask, 0.26) for mask in masks)
    heart = _heart(body)
    film_map = _film_map(rng, supine)

    lost = np.zeros_like(air)  # the share of the air that something denser has replaced
    boxes: list[Box] = []
    for side in _sides(rng, opacities):
        cloud, box = _opacity(rng, masks[side], film_map, boxes)
        lost = 1 - (1 - lost) * (1 - cloud)
        boxes.append(box)
    if "effusion" in findings:
        lost = np.maximum(lost, _effusion(rng, body))
    lost = np.maximum(lost, 0.8 * heart)

    lung = air * (1 - lost)
    tissue = _soft_tissue(body, rng, supine)
    beam = tissue - 0.64 * lung
    beam += lung * (0.32 * _vessels(body) + 0.022 * _clouds(rng, 96) + 0.02 * _clouds(rng, 24))
    beam += 0.10 * heart + _mediastinum(body) + _abdomen(body, rng) + _bones(body, supine, rng)
    beam *= tissue > 0
    if "nodule" in findings:
        beam += _nodules(rng, masks)
    if "atelectasis" in findings:
        beam += _atelectasis(rng, body)
    if "tubes" in findings:
        beam += _tubes(rng, body)
    return Film(_develop(beam, film_map, rng, supine), boxes)


# Drawing on the canvas


def _pixels(points: Points) -> np.ndarray:
    return (points + _HALF) * _SCALE


def _blank() -> np.ndarray:
    return np.zeros((_CANVAS, _CANVAS), np.uint8)


def _smooth(points: Points, closed: bool, rounds: int = 3) -> Points:
    """Rounds the corners of a polygon or polyline by cutting them (Chaikin 1974)."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        cut = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        cut = cut.reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut[:-2], points[-1:]])
    return points


def _fill(points: Points) -> np.ndarray:
    """A filled polygon as a 0/255 mask, corners rounded."""
    outline = np.round(_pixels(_smooth(points, closed=True)) * 16).astype(np.int32)
    return cv2.fillPoly(_blank(), [outline], 255, cv2.LINE_8, shift=4)


def _stroke(layer: np.ndarray, points: Points, width: float, value: int = 255) -> None:
    """Adds a line [n, 2], or several [k, n, 2], `width` body units wide, antialiased, in place."""
    lines = np.round(_pixels(points) * 16).astype(np.int32).reshape(-1, *points.shape[-2:])
    thickness = max(1, round(width * _SCALE))
    cv2.polylines(layer, list(lines), False, value, thickness, cv2.LINE_AA, shift=4)


def _disc(layer: np.ndarray, center: Points, radius: float, value: int = 255) -> None:
    """Adds a filled circle, in place."""
    x, y = np.round(_pixels(center)).astype(int).tolist()
    cv2.circle(layer, (x, y), round(radius * _SCALE), value, cv2.FILLED, cv2.LINE_AA)


def _blur(layer: np.ndarray, radius: float) -> np.ndarray:
    """A 0..255 layer as float32 in 0..1, softened by `radius` body units."""
    return cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), radius * _SCALE)


def _pillow(mask: np.ndarray, radius: float) -> np.ndarray:
    """Thickness 0..1 of a body with this outline whose edge is rounded with `radius`."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / (radius * _SCALE)
    rest = 1 - np.minimum(depth, 1)
    return np.sqrt(1 - rest * rest)


def _clouds(rng: np.random.Generator, cells: int, size: int = _CANVAS) -> np.ndarray:
    """Smooth noise of about unit variance with `cells` bumps across the canvas."""
    noise = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def _mirror(points: Points, side: int) -> Points:
    return points * np.array([side, 1.0])


def _grid(size: int = _CANVAS) -> tuple[np.ndarray, np.ndarray]:
    """x as a row and y as a column, in body units, for broadcasting."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * _HALF
    return axis[None, :], axis[:, None]


def _step(t: np.ndarray) -> np.ndarray:
    """The logistic function, which cannot overflow in this form."""
    return 0.5 + 0.5 * np.tanh(0.5 * t)


# Anatomy


def _lung(body: Body, side: int) -> Points:
    wide, apex = body.lung_width, body.apex
    dome = body.dome + (0.05 if side > 0 else 0.0)  # the liver lifts the right one
    angle = dome + 0.27  # the costophrenic angle; points doubled so that it stays sharp
    outline = [
        (0.09, -0.45), (0.13, apex + 0.14), (0.20, apex - 0.02), (0.38, apex - 0.02),
        (0.78 * wide, apex + 0.14), (0.94 * wide, -0.40), (1.01 * wide, -0.05), (wide, 0.2),
        (1.01 * wide, angle), (1.01 * wide, angle), (wide - 0.05, angle - 0.10),
        (0.72 * wide, dome + 0.02), (0.50 * wide, dome - 0.02), (0.3 * wide, dome + 0.03),
        (0.13, dome + 0.09), (0.08, dome + 0.05), (0.08, 0.0),
    ]  # fmt: skip
    return _mirror(np.array(outline), side)


def _heart(body: Body) -> np.ndarray:
    """How much of the lung's depth the heart and great vessels take, 0..1."""
    h, floor = body.heart, body.dome + 0.12
    top = floor - 0.62
    outline = np.array([
        (-0.08, top - 0.12), (0.09, top - 0.14), (0.14, top - 0.04), (0.13, top + 0.08),
        (0.17, top + 0.20), (0.9 * h, floor - 0.26), (1.45 * h, floor - 0.1), (1.5 * h, floor),
        (1.0 * h, floor + 0.06), (-0.4 * h, floor + 0.03), (-0.62 * h, floor - 0.1),
        (-0.60 * h, floor - 0.28), (-0.12, top + 0.14),
    ])  # fmt: skip
    return cv2.GaussianBlur(_pillow(_fill(outline), 0.13), (0, 0), 1.5)


def _soft_tissue(body: Body, rng: np.random.Generator, supine: bool) -> np.ndarray:
    wall = body.lung_width + body.bulk
    top = body.apex - rng.uniform(0.07, 0.14)
    elbow = rng.uniform(0.95, 1.05) if supine else rng.uniform(1.05, 1.25)
    half = [
        (0.20, -1.3), (0.21, top - 0.10), (0.32, top), (0.70, top + 0.09),
        (0.95, -0.62), (1.3, -0.3), (1.3, 0.1), (elbow, 0.0), (wall + 0.14, -0.22),
        (wall + 0.03, -0.15), (wall, 0.05), (wall - 0.02, 0.5), (wall + 0.03, 1.3),
    ]  # fmt: skip
    if supine:  # arms beside the body
        half[5:9] = [(1.12, -0.35), (1.2, 0.5), (1.2, 1.3), (wall + 0.1, 1.3), (wall + 0.08, 0.1)]
    right = np.array(half)
    trunk = _fill(np.concatenate([right, _mirror(right, -1)[::-1]]))
    x, y = _grid()
    depth = (1 - 0.40 * np.minimum(x * x, 1)) * (0.9 + 0.1 * _step((y + 0.45) / 0.12))
    thickness = 0.95 * depth * _pillow(trunk, 0.34)
    if body.female:
        thickness += _breasts(body, rng, supine)
    return thickness


def _breasts(body: Body, rng: np.random.Generator, supine: bool) -> np.ndarray:
    layer = np.zeros((_CANVAS, _CANVAS), np.float32)
    radius = body.breast * (1.1 if supine else 1.0)
    for side in (-1, 1):
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        x = side * (0.7 * body.lung_width + rng.normal(0, 0.015)) + radius * np.cos(turn)
        y = body.dome + rng.normal(-0.06, 0.02) + 0.85 * radius * np.sin(turn)
        layer += (0.10 if supine else 0.17) * _pillow(_fill(np.stack([x, y], 1)), 0.7 * radius)
    return layer


def _mediastinum(body: Body) -> np.ndarray:
    """Spine with its discs, aortic knob, and the air of the windpipe."""
    x, y = _grid()
    spine = np.exp(-((x / 0.085) ** 4))
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * y / (0.92 * body.rib_pitch))
    bone = 0.08 * spine + 0.035 * spine**2 * discs**3
    wind = _blank()
    carina = np.array([0.012, -0.30])
    _stroke(wind, np.array([(0.0, -1.15), (0.005, -0.6), carina]), 0.062)
    for side in (-1, 1):
        branch = _mirror(np.array([(0.1, 0.13), (0.17, 0.2)]), side)
        _stroke(wind, np.concatenate([[carina], carina + branch]), 0.035, 170)
    knob = _blank()
    _disc(knob, np.array([0.105, -0.40]), 0.075)
    return bone - 0.12 * _blur(wind, 0.012) + 0.10 * _pillow(knob, 0.075)


def _abdomen(body: Body, rng: np.random.Generator) -> np.ndarray:
    """Liver and stomach below the domes, thicker than the chest, and a gas bubble."""
    x, y = _grid()
    depth = _step((y - body.dome - 0.28) / 0.07)
    layer = 0.14 * depth * np.ones_like(x)
    if rng.random() < 0.7:
        cx, cy = rng.uniform(0.22, 0.38), body.dome + rng.uniform(0.17, 0.24)
        size = rng.uniform(0.05, 0.11)
        distance = np.hypot((x - cx) / 1.5, y - cy) / size + 0.25 * _clouds(rng, 14)
        layer -= 0.14 * _step((1 - distance) / 0.12)
    return layer


def _vessels(body: Body) -> np.ndarray:
    """Pulmonary arteries and veins: trees that leave the hila, thinner with every branching."""
    rng = np.random.default_rng(body.texture)
    layer = _blank()
    for side in (-1, 1):
        hilum = np.array([0.13, -0.12 if side > 0 else -0.08])
        angle = np.array([-1.3, -1.0, -0.5, 0.2, 0.7, 1.0, 1.3, 1.45])  # up is negative
        start = hilum + rng.normal(0, 0.03, (angle.size, 2))
        length, width = 0.25, 0.024
        for value in (150, 150, 130, 100, 70):
            bend = angle[:, None] + np.linspace(0, 1, 6) * rng.normal(0, 0.3, (angle.size, 1))
            step = np.stack([np.cos(bend), np.sin(bend)], -1)
            step *= length / 6 * rng.uniform(0.7, 1.3, (angle.size, 1, 1))
            paths = start[:, None] + np.cumsum(step, 1) - step[:, :1]
            _stroke(layer, _mirror(paths, side), width, value)
            start = paths[:, [2, 4, 5]].reshape(-1, 2)
            turn = rng.uniform(0.3, 0.8, (angle.size, 3)) * rng.choice((-1, 1), (angle.size, 1))
            angle = (bend[:, -1:] + turn * [1, -1, 0.3]).ravel()
            length, width = 0.68 * length, 0.62 * width
        _disc(layer, _mirror(hilum, side), 0.045, 150)
    return _blur(layer, 0.006)


def _bones(body: Body, supine: bool, rng: np.random.Generator) -> np.ndarray:
    """Ribs behind (bright) and in front (faint), collar bones, shoulder blades, upper arms."""
    behind, front, core = _blank(), _blank(), _blank()
    wide = body.lung_width + 0.02
    for number in range(10):
        y = body.apex + 0.06 + number * body.rib_pitch
        reach = wide * min(1.0, 0.56 + 0.17 * number)
        for side in (-1, 1):
            out = [(0.09, y), (0.35 * reach, y - 0.03), (0.75 * reach, y + 0.06),
                   (0.97 * reach, y + 0.20), (1.0 * reach, y + 0.30)]  # fmt: skip
            back = [(1.0 * reach, y + 0.30), (0.92 * reach, y + 0.42), (0.6 * reach, y + 0.52),
                    (0.36 * reach, y + 0.55)]  # fmt: skip
            out_line = _smooth(_mirror(np.array(out), side), closed=False)
            _stroke(behind, out_line, 0.047)
            _stroke(core, out_line, 0.026)
            if number < 6:
                _stroke(front, _smooth(_mirror(np.array(back), side), closed=False), 0.055)
    ribs = 0.13 * _blur(behind, 0.005) - 0.05 * _blur(core, 0.006) + 0.06 * _blur(front, 0.008)

    ribs *= 1 - 0.65 * _step((_grid()[1] - body.dome - 0.05) / 0.08)  # behind thick tissue

    shoulder = _blank()
    lift = rng.uniform(-0.10, -0.03) if supine else rng.uniform(-0.03, 0.06)
    for side in (-1, 1):
        start = body.apex + 0.17
        collar = [(0.07, start), (0.25, start - 0.03), (0.5, start - 0.11 + lift),
                  (0.85, start - 0.13 + lift)]  # fmt: skip
        _stroke(shoulder, _smooth(_mirror(np.array(collar), side), closed=False), 0.06, 220)
    blades = _blank()
    inner = 0.50 if supine else 0.76
    for side in (-1, 1):
        blade = [(inner + 0.04, -0.60), (0.88, -0.66), (0.95, -0.5), (inner + 0.2, -0.25),
                 (inner + 0.06, 0.0), (inner, -0.2)]  # fmt: skip
        outline = _smooth(_mirror(np.array(blade), side), closed=True)
        blades = np.maximum(blades, _fill(outline) // 3)
        _stroke(blades, outline, 0.012, 200)
        arm = np.array([(0.97, -0.60), (1.06, -0.1)] if supine else [(0.97, -0.62), (1.2, -0.35)])
        _stroke(blades, _mirror(arm, side), 0.10, 170)
        _disc(blades, _mirror(arm, side)[0], 0.09, 200)
    return ribs + 0.22 * _blur(shoulder, 0.006) + 0.15 * _blur(blades, 0.008)


# Findings


def _sides(rng: np.random.Generator, count: int) -> list[int]:
    """Which lung each opacity is in: the first at random, the second opposite as a rule."""
    first = int(rng.integers(2))
    other = 1 - first if rng.random() < 0.75 else first
    return [first, other, int(rng.integers(2))][:count]


def _opacity(
    rng: np.random.Generator,
    lung: np.ndarray,
    film_map: np.ndarray,
    taken: list[Box],
) -> tuple[np.ndarray, Box]:
    """One consolidation as the share of air it replaces (canvas), and its box on the film.

    Draws places and sizes until the box is BOX_SIDE and clear of most of the `taken` ones.
    """
    size = _CANVAS // _COARSE
    inside = cv2.resize(lung, (size, size), interpolation=cv2.INTER_AREA) > 127
    rows, columns = np.nonzero(cv2.erode(inside.astype(np.uint8), np.ones((9, 9), np.uint8)))
    x, y = _grid(size)
    crowd = 0.1  # how much two boxes may overlap; grows, so that the search always ends
    while True:
        crowd += 0.02
        pick = rng.integers(len(rows))
        wide, high = rng.uniform(0.2, 0.36), rng.uniform(0.2, 0.48)
        reach = np.hypot((x - x[0, columns[pick]]) / wide, (y - y[rows[pick], 0]) / high)
        ragged = reach + 0.16 * _clouds(rng, 14, size)
        cloud = np.clip((1.15 - ragged) / 0.45, 0, 1).astype(np.float32)
        box = _box_on_film((cloud > 0.3) & inside, film_map)
        if box and all(_overlap(box, other) < crowd for other in taken):
            share = rng.uniform(0.42, 0.8) * cv2.resize(cloud, (_CANVAS, _CANVAS))
            mottled = share * (1 + rng.uniform(0.05, 0.22) * (_clouds(rng, 36) + _clouds(rng, 90)))
            return np.clip(mottled, 0, 0.95), box


def _box_on_film(mask: np.ndarray, film_map: np.ndarray) -> Box | None:
    """The upright box round a coarse mask, on the film; None when it is not of BOX_SIDE."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return None
    points = (np.stack([columns, rows], 1) + 0.5) * _COARSE
    mapped = points @ film_map[:, :2].T + film_map[:, 2]
    low = np.floor(mapped.min(0)).clip(0).astype(int)
    high = np.ceil(mapped.max(0)).clip(max=FILM).astype(int)
    width, height = (int(side) for side in high - low)
    if not all(BOX_SIDE[0] <= side <= BOX_SIDE[1] for side in (width, height)):
        return None
    return int(low[0]), int(low[1]), width, height


def _overlap(a: Box, b: Box) -> float:
    """Share of the smaller box that lies in the other."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


def _effusion(rng: np.random.Generator, body: Body) -> np.ndarray:
    """A little fluid that blunts one costophrenic angle, with its meniscus."""
    x, y = _grid()
    side = rng.choice((-1, 1))
    level = body.dome + rng.uniform(0.02, 0.10)
    surface = level - 0.35 * np.clip(side * x - 0.7 * body.lung_width, 0, 1)
    outer = np.clip((side * x - 0.55 * body.lung_width) / 0.1, 0, 1)
    return 0.9 * outer * _step((y - surface) / 0.012)


def _nodules(rng: np.random.Generator, masks: list[np.ndarray]) -> np.ndarray:
    """One to three small round shadows, far smaller than any opacity."""
    layer = _blank()
    rows, columns = np.nonzero(cv2.erode(masks[0] | masks[1], np.ones((45, 45), np.uint8)))
    for _ in range(rng.integers(1, 4)):
        pick = rng.integers(len(rows))
        radius = int(rng.uniform(0.02, 0.045) * _SCALE)
        cv2.circle(layer, (int(columns[pick]), int(rows[pick])), radius, 255, -1, cv2.LINE_AA)
    return rng.uniform(0.14, 0.22) * _blur(layer, 0.008)


def _atelectasis(rng: np.random.Generator, body: Body) -> np.ndarray:
    """Plates: thin bright lines above the diaphragm."""
    layer = _blank()
    side = rng.choice((-1, 1))
    for _ in range(rng.integers(1, 4)):
        start = np.array([rng.uniform(0.2, 0.3), body.dome - rng.uniform(0.06, 0.25)])
        end = start + np.array([rng.uniform(0.15, 0.28), rng.uniform(-0.08, 0.08)])
        _stroke(layer, _mirror(np.array([start, end]), side), 0.018)
    return 0.16 * _blur(layer, 0.006)


def _tubes(rng: np.random.Generator, body: Body) -> np.ndarray:
    """Some of: breathing tube, central line, stomach tube, electrodes and wires, pacemaker."""
    layer = _blank()

    def wander(*points: tuple[float, float]) -> Points:
        return _smooth(
            np.array(points) + rng.normal(0, 0.015, (len(points), 2)), closed=False, rounds=4
        )

    if rng.random() < 0.5:
        _stroke(layer, wander((0, -1.15), (0, -0.8), (0.01, rng.uniform(-0.5, -0.38))), 0.016, 180)
    if rng.random() < 0.6:
        side = rng.choice((-1, 1))
        neck = wander((side * 0.55, -0.55), (side * 0.3, -0.66), (-0.06, -0.5), (-0.1, -0.2))
        _stroke(layer, neck, 0.009, 230)
    if rng.random() < 0.4:
        _stroke(layer, wander((0.02, -1.15), (0.03, 0), (0.05, 0.5), (0.25, 0.65)), 0.012, 170)
    if rng.random() < 0.6:
        for _ in range(rng.integers(2, 5)):
            end = (rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.5))
            edge = (rng.choice((-1.1, 1.1)), rng.uniform(-0.3, 1.0))
            bend = (rng.uniform(-0.8, 0.8), rng.uniform(-0.2, 0.9))
            _stroke(layer, wander(edge, bend, end), 0.006, 200)
            _disc(layer, np.array(end), 0.024)
            _disc(layer, np.array(end), 0.014, 90)
    if rng.random() < 0.2:
        x = rng.choice((-0.6, 0.45))
        _stroke(layer, np.array([(x, -0.47), (x + 0.06, -0.43)]), 0.13)
        _stroke(layer, wander((x, -0.45), (0.1, -0.5), (-0.08, -0.1), (0.1, body.dome)), 0.007, 220)
    return 0.28 * _blur(layer, 0.003)


# From thickness to film


def _film_map(rng: np.random.Generator, supine: bool) -> np.ndarray:
    """The 2 x 3 affine map from canvas pixels to film pixels."""
    zoom = FILM / (2 * _SCALE) * rng.uniform(0.94, 1.06)
    shift = rng.normal(0, 0.035 if supine else 0.015, 2) * FILM / 2
    tilt = rng.normal(0, 4.0 if supine else 1.0)
    matrix: np.ndarray = cv2.getRotationMatrix2D((_CANVAS / 2, _CANVAS / 2), tilt, zoom)
    matrix[:, 2] += FILM / 2 - _CANVAS / 2 + shift
    return matrix


def _develop(
    beam: np.ndarray, film_map: np.ndarray, rng: np.random.Generator, supine: bool
) -> np.ndarray:
    """Scatter, collimator, exposure, grain and lettering.

    The exposure (mean and spread of the grey) is drawn without looking at what is on the film and
    is then forced upon it, so that brightness cannot tell a film with an opacity from one without.
    """
    scatter = rng.uniform(0.10, 0.22) if supine else rng.uniform(0.02, 0.12)
    haze = cv2.resize(cv2.resize(beam, (36, 36), interpolation=cv2.INTER_AREA), beam.shape)
    beam = ((1 - scatter) * beam + scatter * haze) * (beam > 0)
    for edge in (beam, beam[::-1], beam.T, beam.T[::-1]):  # the collimator's four blades
        edge[: max(0, int(rng.normal(0.08, 0.05) * _SCALE))] = 0
    thumb = cv2.warpAffine(beam, film_map / 16, (FILM // 16, FILM // 16), flags=cv2.INTER_LINEAR)
    gamma, gain = _exposure(thumb[thumb > 0.05], rng.normal(145, 15), rng.uniform(0.30, 0.52))
    grey = 250 * np.tanh(cv2.pow(beam, gamma) * (gain / 250))
    film = cv2.warpAffine(grey, film_map, (FILM, FILM), flags=cv2.INTER_LINEAR)
    grain = cv2.GaussianBlur(rng.standard_normal((FILM, FILM), np.float32), (0, 0), 0.8)
    image: np.ndarray = cv2.addWeighted(
        film, 1.0, grain, rng.uniform(2.5, 7.0), 4.0, dtype=cv2.CV_8U
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
