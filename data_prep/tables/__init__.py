"""Tables of labels, folders of classes and public data sets -> the records to be made."""
