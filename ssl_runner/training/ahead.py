"""Makes the next batch while the device works on a step."""

import torch

from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.batching.batching import Batching


class Ahead:
    """The batches of a run, in order. On CUDA each is made on a stream of its own, while the step before it runs.

    Elsewhere a batch is made when it is asked for.

    Args:
        batching: Makes the batches.
        device: The device of the run.
        max_steps: Number of steps of the run.
    """

    def __init__(self, batching: Batching, device: torch.device, max_steps: int) -> None:
        self.batching, self.max_steps = batching, max_steps
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.made: tuple[int, Views | Episodes] | None = None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # which has copied the dataset

    def batch(self, step: int) -> Views | Episodes:
        """The batch of a step."""
        if self.stream is None:
            return self.batching.batch(step)
        if self.made is None or self.made[0] != step:
            self.make(step)
        assert self.made is not None
        batch, self.made = self.made[1], None
        now = torch.cuda.current_stream(self.stream.device)
        now.wait_stream(self.stream)
        for tensor in batch.tensors():
            tensor.record_stream(now)
        return batch

    def make(self, step: int) -> None:
        """Begin with the batch of a step, if there is such a step. Does nothing except on CUDA."""
        if self.stream is None or step >= self.max_steps:
            return
        with torch.cuda.stream(self.stream):
            self.made = step, self.batching.batch(step)
