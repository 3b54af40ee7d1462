"""TFDS builder: importing this registers `tfds.load("rsna_pneumonia/256px")`."""

from data_prep.rsna_pneumonia.rsna_pneumonia_dataset_builder import Builder

__all__ = ["Builder"]
