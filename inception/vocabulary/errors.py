"""The one error of this package: what a user did wrong, in one line that is complete in itself."""


class NetworkError(ValueError):
    """A user's mistake about a network, its options, its images or its weights; the message is one line."""
