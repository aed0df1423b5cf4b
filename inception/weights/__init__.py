"""Weights in and out: our files, and those of other projects under the names that they give to the same tensors."""
