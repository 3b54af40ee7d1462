"""Maximum and mean of every 2x2 window."""
