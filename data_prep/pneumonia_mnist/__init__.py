"""TFDS builder: importing this registers `tfds.load("pneumonia_mnist/28px")`."""

from data_prep.pneumonia_mnist.pneumonia_mnist_dataset_builder import Builder

__all__ = ["Builder"]
