"""What leaks between splits, and what the confounders alone predict, before any training."""
