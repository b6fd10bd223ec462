"""KoLeo: embeddings spread evenly."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class KoLeo(Loss):
    """Minus the mean log distance of each embedding to its nearest neighbour in its view (Sablayrolles et al. 2018,
    arXiv:1806.03198, eq. 2; DINOv2, arXiv:2304.07193, sec. 4).

    Embeddings are L2-normalised. The nearest neighbour is found without gradient, and distances get 1e-8 added, as in
    DINOv2's code. Deviation: neighbours are those of all processes' images (DINOv2: of the process's own).
    """

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), at least two images."""
        online = embeddings.online.to(torch.promote_types(embeddings.online.dtype, torch.float32))
        points = F.normalize(online, dim=-1, eps=1e-8)
        with torch.no_grad():
            cosines = points @ points.transpose(1, 2)
            nearest = cosines.diagonal_scatter(torch.full_like(cosines[..., 0], -torch.inf), dim1=1, dim2=2).argmax(
                dim=2
            )
        neighbours = points.gather(1, nearest[..., None].expand_as(points))
        distance = F.pairwise_distance(points, neighbours, eps=1e-8)
        return -(distance + 1e-8).log().mean(), {"nearest_distance": distance.detach().mean()}
