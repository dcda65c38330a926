"""What becomes of an int8 file: predictions, and releases that pass a gate."""
