"""SavedModel bundles: what TensorFlow Serving loads, and how to ask one here."""
