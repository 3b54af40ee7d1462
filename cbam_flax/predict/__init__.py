"""Bundle x DICOM files -> predictions. Needs the bundle and the decoder, no training code.

Predictor.load("bundle").predict(["film.dcm"]) is the whole Python interface.
"""

from cbam_flax.predict.predictor import RUNTIMES, Predictor

__all__ = ["RUNTIMES", "Predictor"]
