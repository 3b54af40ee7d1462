"""Convolutions of stride 1 that keep the size of the map, at any rate."""
