"""A web page to look through records, what a model says of them, and their neighbours."""
