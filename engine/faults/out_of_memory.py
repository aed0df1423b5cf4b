"""Errors that mean that a device's memory is spent, whatever they call themselves."""

import torch

# What cuDNN, cuBLAS and NCCL say when they find no memory for their workspace.
_DISGUISES = ("unable to find an engine to execute", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` would not have come with more memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _DISGUISES)
