"""The 7x7 convolution of a spatial gate: from two maps to one."""
