"""Synthetic chest radiographs as the RSNA challenge stores them; no pixel shows a person."""
