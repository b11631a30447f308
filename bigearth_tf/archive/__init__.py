"""The archives as published: layout, names, GeoTIFF bytes, labels, splits. NumPy only; never loads TensorFlow."""
