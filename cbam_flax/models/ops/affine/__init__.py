"""`x * scale + offset`: a normalisation, a channel gate, or both in one pass over the map."""
