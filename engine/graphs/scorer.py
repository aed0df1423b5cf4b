"""One evaluation step as one graph: from uint8 images to counts of right answers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.graphs.normalisation import Normalise


class Scorer(nn.Module):
    """Counts of right answers and the summed loss of a batch, in evaluation mode; the network computes in `dtype`. among: the
    classes that alone are to be guessed in a second way of counting; order: the network's outputs in the order of the labels,
    where that is another."""

    among: Tensor | None
    order: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        flip: bool = False,
        among: Sequence[int] | None = None,
        order: Sequence[int] | None = None,
    ):
        super().__init__()
        self.network = network
        self.normalise = Normalise(network.mean, network.std)  # type: ignore[arg-type]
        self.dtype = dtype
        self.flip = flip
        mask = None
        if among is not None:
            mask = torch.zeros(network.num_classes)  # type: ignore[call-overload]
            mask[list(among)] = 1
        self.register_buffer("among", mask, persistent=False)
        self.register_buffer("order", None if order is None else torch.tensor(order), persistent=False)

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, classes) float32; the mean over the image and its mirror image with `flip`."""
        pixels = self.normalise(images)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            result = self.network(pixels).float().softmax(dim=1)
            if self.flip:
                result = (result + self.network(pixels.flip(3)).float().softmax(dim=1)) / 2
        return result if self.order is None else result[:, self.order]

    def forward(
        self, images: Tensor, labels: Tensor, earlier: Tensor | None = None, share: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images (N, 3, H, W) uint8, labels (N,) int64 with -1 for slots that do not count -> float64 (4,): images
        counted, right at first guess, right within five guesses, summed cross-entropy, with `among` float64 (6,), right
        at first and within five guesses among those; and of every slot the five most likely classes, int64 (N, 5) (all of
        them where there are fewer), and their probabilities, float32 (N, 5). earlier: the sum of other predictions for these
        images, of which this network's are a `share`."""
        probabilities = self.probabilities(images)
        if earlier is not None:
            probabilities = earlier + share * probabilities
        counts = labels >= 0
        classes = probabilities.shape[1]
        best = probabilities.topk(min(5, classes), dim=1)
        guesses = best.indices
        right = (guesses == labels[:, None]) & counts[:, None]
        # Probabilities of 0 in float32 would make the loss infinite; the smallest normal number bounds it at 87.
        log = probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
        loss = -log.gather(1, labels.clamp_min(0)[:, None])[:, 0] * counts
        values = [counts.sum(), right[:, 0].sum(), right.sum(), loss.sum(dtype=torch.float64)]
        if self.among is not None:
            best_among = torch.where(self.among > 0, probabilities, -1.0).topk(min(5, classes), dim=1).indices
            right_among = (best_among == labels[:, None]) & counts[:, None]
            values += [right_among[:, 0].sum(), right_among.sum()]
        return torch.stack([value.double() for value in values]), guesses, best.values
