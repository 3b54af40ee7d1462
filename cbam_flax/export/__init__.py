"""Checkpoint -> inference bundle: StableHLO, ONNX and SavedModel with the same numbers inside."""
