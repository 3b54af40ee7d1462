"""Bundle and radiographs -> predictions. Needs the bundle and the decoder, no training code.

The Python interface is Predictor.load("bundle").predict(["radiograph.dcm"]).
"""

from cbam_flax.predict.choice import RUNTIMES
from cbam_flax.predict.predictor import Predictor

__all__ = ["RUNTIMES", "Predictor"]
