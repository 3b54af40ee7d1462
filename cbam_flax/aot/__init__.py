"""What a training step would cost on a TPU or GPU, by its own compiler, on any machine."""
