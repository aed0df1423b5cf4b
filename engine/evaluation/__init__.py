"""Accuracy that counts every image once, what is taken for what, statistics measured anew."""
