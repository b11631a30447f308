"""A trained model in other forms: smaller, or for other runtimes, each with what that costs in accuracy."""
