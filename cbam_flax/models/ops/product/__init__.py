"""A map times a matrix: a 1x1 convolution. The reference is `jax.numpy.matmul`."""
