"""Draws radiograph-like chest films with soft opacities in them. No pixel of them is of a person.

A film is built the way an X-ray is: thicknesses of tissue, air and bone are added up along the
beam (`anatomy`, `findings`) on a coarse `canvas` in body coordinates; `film` adds scatter, sets the
exposure and maps the canvas to the film; only grain and lettering are made at full resolution.
"""

from data_prep.synthetic.phantom.anatomy import Body
from data_prep.synthetic.phantom.canvas import FILM
from data_prep.synthetic.phantom.film import Film, render
from data_prep.synthetic.phantom.findings import BOX_SIDE, FINDINGS, Box

__all__ = ["BOX_SIDE", "FILM", "FINDINGS", "Body", "Box", "Film", "render"]
