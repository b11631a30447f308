"""TFRecord shards: one serialised tf.Example per patch pair, raw values at native resolution, and their manifest."""
