"""A model and data -> named tensors: what its layers see."""
