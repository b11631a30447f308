"""A model server of our own: TensorFlow Serving's interface and the Open Inference Protocol in one asyncio process."""
