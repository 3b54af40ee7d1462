"""Draws synthetic chest radiographs with soft opacities. No pixel of them shows a person.

Thicknesses of tissue, air and bone are added up along the beam (`anatomy`, `findings`), as in an
X-ray, on a coarse `canvas` in body coordinates; `radiograph` adds scatter, sets the exposure and
maps the canvas to the image; only grain and lettering are made at full resolution.
"""

from data_prep.synthetic.phantom.anatomy import Body
from data_prep.synthetic.phantom.canvas import SIDE
from data_prep.synthetic.phantom.findings import BOX_SIDE, FINDINGS, Box
from data_prep.synthetic.phantom.radiograph import Drawn, render

__all__ = ["BOX_SIDE", "FINDINGS", "SIDE", "Body", "Box", "Drawn", "render"]
