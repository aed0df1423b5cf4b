"""What can go wrong in a run beside its options; each message is one line for a person."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another format; the message is one line."""


class TrainingFailed(RuntimeError):
    """Training cannot go on for a reason that is no programming error (a loss that is not finite, a full disk).

    The message is one line; the exit status is 1.
    """


class Diverged(TrainingFailed):
    """A loss, a gradient or a weight is no finite number any more; every rank has found so at the same step."""
