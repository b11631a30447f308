"""tf.data pipelines: shards in, batches of named raw grids and multi-hot labels out."""
