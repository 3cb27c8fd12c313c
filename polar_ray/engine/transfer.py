"""Between the host and the device, without making the host wait for what the device is doing."""

import numpy as np
import torch


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Returns an array on a device; on CUDA the host goes on while it is copied.

    A copy from ordinary memory would make the host wait until the device has done all that it was given before.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda" or len(array) == 0:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Fetched:
    """A tensor on its way to the host."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """Starts the copy, after what the device was given before."""
        # Lands in pinned memory, and so goes on by itself.
        self._host = tensor.to("cpu", non_blocking=True)
        self._done: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def array(self) -> np.ndarray:
        """Returns the values, once they are here."""
        if self._done is not None:
            self._done.synchronize()
        array: np.ndarray = self._host.numpy()
        return array
