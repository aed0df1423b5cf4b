"""Questions asked once, which can be asked again: what an option, a decoder or a normalisation brings."""
