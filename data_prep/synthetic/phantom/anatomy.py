"""A patient, and the layers of tissue, air and bone that a chest radiograph of them adds up.

Every function returns a layer of the whole canvas, in units in which the chest is about 1 thick.
"""

import dataclasses

import cv2
import numpy as np

from data_prep.synthetic.phantom.canvas import (
    CANVAS,
    Points,
    blank,
    blur,
    clouds,
    disc,
    fill,
    grid,
    mirror,
    pillow,
    smooth,
    step,
    stroke,
)


@dataclasses.dataclass(frozen=True)
class Body:
    """What stays the same in all images of one patient. Lengths in body units."""

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

    def in_bed(self, rng: np.random.Generator) -> "Body":
        """The same patient in an AP image: breath not held, heart nearer to the tube."""
        return dataclasses.replace(
            self, dome=self.dome - rng.uniform(0.08, 0.2), heart=self.heart * rng.uniform(1.05, 1.2)
        )


def lung(body: Body, side: int) -> Points:
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
    return mirror(np.array(outline), side)


def heart(body: Body) -> np.ndarray:
    """How much of the lung's depth the heart and great vessels take, 0..1."""
    h, floor = body.heart, body.dome + 0.12
    top = floor - 0.62
    outline = np.array([
        (-0.08, top - 0.12), (0.09, top - 0.14), (0.14, top - 0.04), (0.13, top + 0.08),
        (0.17, top + 0.20), (0.9 * h, floor - 0.26), (1.45 * h, floor - 0.1), (1.5 * h, floor),
        (1.0 * h, floor + 0.06), (-0.4 * h, floor + 0.03), (-0.62 * h, floor - 0.1),
        (-0.60 * h, floor - 0.28), (-0.12, top + 0.14),
    ])  # fmt: skip
    return cv2.GaussianBlur(pillow(fill(outline), 0.13), (0, 0), 1.5)


def soft_tissue(body: Body, rng: np.random.Generator, supine: bool) -> np.ndarray:
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
    trunk = fill(np.concatenate([right, mirror(right, -1)[::-1]]))
    x, y = grid()
    depth = (1 - 0.40 * np.minimum(x * x, 1)) * (0.9 + 0.1 * step((y + 0.45) / 0.12))
    thickness = 0.95 * depth * pillow(trunk, 0.34)
    if body.female:
        thickness += _breasts(body, rng, supine)
    return thickness


def _breasts(body: Body, rng: np.random.Generator, supine: bool) -> np.ndarray:
    layer = np.zeros((CANVAS, CANVAS), np.float32)
    radius = body.breast * (1.1 if supine else 1.0)
    for side in (-1, 1):
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        x = side * (0.7 * body.lung_width + rng.normal(0, 0.015)) + radius * np.cos(turn)
        y = body.dome + rng.normal(-0.06, 0.02) + 0.85 * radius * np.sin(turn)
        layer += (0.10 if supine else 0.17) * pillow(fill(np.stack([x, y], 1)), 0.7 * radius)
    return layer


def mediastinum(body: Body) -> np.ndarray:
    """Spine with its discs, aortic knob, and the air of the windpipe."""
    x, y = grid()
    spine = np.exp(-((x / 0.085) ** 4))
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * y / (0.92 * body.rib_pitch))
    bone = 0.08 * spine + 0.035 * spine**2 * discs**3
    wind = blank()
    carina = np.array([0.012, -0.30])
    stroke(wind, np.array([(0.0, -1.15), (0.005, -0.6), carina]), 0.062)
    for side in (-1, 1):
        branch = mirror(np.array([(0.1, 0.13), (0.17, 0.2)]), side)
        stroke(wind, np.concatenate([[carina], carina + branch]), 0.035, 170)
    knob = blank()
    disc(knob, np.array([0.105, -0.40]), 0.075)
    return bone - 0.12 * blur(wind, 0.012) + 0.10 * pillow(knob, 0.075)


def abdomen(body: Body, rng: np.random.Generator) -> np.ndarray:
    """Liver and stomach below the domes, thicker than the chest, and a gas bubble."""
    x, y = grid()
    depth = step((y - body.dome - 0.28) / 0.07)
    layer = 0.14 * depth * np.ones_like(x)
    if rng.random() < 0.7:
        cx, cy = rng.uniform(0.22, 0.38), body.dome + rng.uniform(0.17, 0.24)
        size = rng.uniform(0.05, 0.11)
        distance = np.hypot((x - cx) / 1.5, y - cy) / size + 0.25 * clouds(rng, 14)
        layer -= 0.14 * step((1 - distance) / 0.12)
    return layer


def vessels(body: Body) -> np.ndarray:
    """Pulmonary arteries and veins: trees that leave the hila, thinner with every branching."""
    rng = np.random.default_rng(body.texture)
    layer = blank()
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
            stroke(layer, mirror(paths, side), width, value)
            start = paths[:, [2, 4, 5]].reshape(-1, 2)
            turn = rng.uniform(0.3, 0.8, (angle.size, 3)) * rng.choice((-1, 1), (angle.size, 1))
            angle = (bend[:, -1:] + turn * [1, -1, 0.3]).ravel()
            length, width = 0.68 * length, 0.62 * width
        disc(layer, mirror(hilum, side), 0.045, 150)
    return blur(layer, 0.006)


def bones(body: Body, rng: np.random.Generator, supine: bool) -> np.ndarray:
    """Ribs behind (bright) and in front (faint), collar bones, shoulder blades, upper arms."""
    behind, front, core = blank(), blank(), blank()
    wide = body.lung_width + 0.02
    for number in range(10):
        y = body.apex + 0.06 + number * body.rib_pitch
        reach = wide * min(1.0, 0.56 + 0.17 * number)
        for side in (-1, 1):
            out = [(0.09, y), (0.35 * reach, y - 0.03), (0.75 * reach, y + 0.06),
                   (0.97 * reach, y + 0.20), (1.0 * reach, y + 0.30)]  # fmt: skip
            back = [(1.0 * reach, y + 0.30), (0.92 * reach, y + 0.42), (0.6 * reach, y + 0.52),
                    (0.36 * reach, y + 0.55)]  # fmt: skip
            out_line = smooth(mirror(np.array(out), side), closed=False)
            stroke(behind, out_line, 0.047)
            stroke(core, out_line, 0.026)
            if number < 6:
                stroke(front, smooth(mirror(np.array(back), side), closed=False), 0.055)
    ribs = 0.13 * blur(behind, 0.005) - 0.05 * blur(core, 0.006) + 0.06 * blur(front, 0.008)

    ribs *= 1 - 0.65 * step((grid()[1] - body.dome - 0.05) / 0.08)  # behind thick tissue

    shoulder = blank()
    lift = rng.uniform(-0.10, -0.03) if supine else rng.uniform(-0.03, 0.06)
    for side in (-1, 1):
        start = body.apex + 0.17
        collar = [(0.07, start), (0.25, start - 0.03), (0.5, start - 0.11 + lift),
                  (0.85, start - 0.13 + lift)]  # fmt: skip
        stroke(shoulder, smooth(mirror(np.array(collar), side), closed=False), 0.06, 220)
    blades = blank()
    inner = 0.50 if supine else 0.76
    for side in (-1, 1):
        blade = [(inner + 0.04, -0.60), (0.88, -0.66), (0.95, -0.5), (inner + 0.2, -0.25),
                 (inner + 0.06, 0.0), (inner, -0.2)]  # fmt: skip
        outline = smooth(mirror(np.array(blade), side), closed=True)
        blades = np.maximum(blades, fill(outline) // 3)
        stroke(blades, outline, 0.012, 200)
        arm = np.array([(0.97, -0.60), (1.06, -0.1)] if supine else [(0.97, -0.62), (1.2, -0.35)])
        stroke(blades, mirror(arm, side), 0.10, 170)
        disc(blades, mirror(arm, side)[0], 0.09, 200)
    return ribs + 0.22 * blur(shoulder, 0.006) + 0.15 * blur(blades, 0.008)
