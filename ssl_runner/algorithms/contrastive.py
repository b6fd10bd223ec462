"""Views of a batch through one network, compared by a loss: SimCLR."""

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.algorithms.views import embed_views, refuse_pieces
from ssl_runner.data.batches import Views
from ssl_runner.losses.loss import Embeddings, Loss, gathered
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext


class Contrastive(Algorithm):
    """SimCLR's arrangement (Chen et al. 2020, arXiv:2002.05709): one encoder and head for all views.

    All views of a resolution go through in one forward pass, so that batch normalisation sees them together and cannot
    reveal to the loss which view an image came from.

    Args:
        encode_chunks: Pieces of the batch that are encoded one after the other, for batches that do not fit into
            memory; 1 to encode the whole batch at once. The loss still sees the whole batch, and its gradient is that
            of the whole batch, except that batch normalisation sees one piece at a time. The price is a second forward
            pass.
    """

    batch_type = Views
    supports_accumulation = False  # every image is a negative of the others

    def __init__(self, network: Network, loss: Loss, encode_chunks: int) -> None:
        super().__init__(network)
        refuse_pieces("encode_chunks", encode_chunks)
        self.loss = loss
        self.pieces = encode_chunks

    def training_step(self, batch: Views, context: StepContext) -> Step:
        online = embed_views(self.network, batch.crops, self.pieces, checkpointed=True)
        seen = Embeddings(online=online, labels=batch.labels, global_views=len(batch.crops[0]))
        return Step(*self.loss(gathered(seen), context))
