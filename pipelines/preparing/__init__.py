"""Datasets made from others: the catalogue of what there is, the pieces that are written, re-encoding, .beton files."""
