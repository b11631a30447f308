"""Programs that go along with converted models, as they are. They know nothing of this package."""
