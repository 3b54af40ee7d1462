"""Anybody's images: tables of labels and folders of classes -> records to be made."""
