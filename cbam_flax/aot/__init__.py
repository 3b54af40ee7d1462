"""What a training step would cost on a TPU, by the TPU's own compiler, on any machine."""
