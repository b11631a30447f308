"""Retrieval: patches like this one. Embeddings of patches, indexes of them, searches, and how good they are."""
