"""Synthetic chest films in the layout of the RSNA challenge; no pixel of them is of a person."""
