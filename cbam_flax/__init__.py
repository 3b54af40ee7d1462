"""Train, evaluate and export a CBAM-ResNet chest-radiograph classifier in JAX / Flax."""
