"""The words that the networks' pages are written in: layers as data, the modules they become, the network around them."""
