"""Means and extremes of feature maps: over the positions of an image, or over the channels."""
