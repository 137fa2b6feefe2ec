"""Merging with data: the weights of one network from what its parents do on their data."""
