"""From raw radiographs to TFRecords. Nothing here imports `cbam_flax`."""
