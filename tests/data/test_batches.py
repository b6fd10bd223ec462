import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_runner.data.batches import Episodes, Views

sizes = st.integers(min_value=1, max_value=9)


@given(size=sizes, pieces=sizes)
def test_pieces_of_views_make_up_the_batch(size, pieces):
    crops = (torch.rand(2, size, 1, 4, 4), torch.rand(3, size, 1, 2, 2))
    batch = Views(crops, torch.arange(size), torch.arange(size))
    parts = batch.chunk(pieces)
    assert sum(len(part) for part in parts) == size
    assert len(parts) <= pieces
    for resolution, whole in enumerate(crops):
        assert torch.equal(torch.cat([part.crops[resolution] for part in parts], dim=1), whole)
    assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
    assert all(part.labels is None for part in Views(crops, None, batch.indices).chunk(pieces))


@given(size=sizes, pieces=sizes)
def test_pieces_of_episodes_make_up_the_batch(size, pieces):
    images, labels = torch.rand(size, 4, 1, 2, 2), torch.arange(4).expand(size, 4)
    batch = Episodes(images, labels, images + 1, labels, n_way=4)
    parts = batch.chunk(pieces)
    assert len(parts) <= pieces
    assert torch.equal(torch.cat([part.support_images for part in parts]), images)
    assert torch.equal(torch.cat([part.query_images for part in parts]), images + 1)
    assert {part.n_way for part in parts} == {4}


def test_to_moves_every_tensor():
    batch = Views((torch.rand(1, 2, 1, 2, 2),), torch.arange(2), torch.arange(2)).to("meta")
    assert {tensor.device.type for tensor in (*batch.crops, batch.labels, batch.indices)} == {"meta"}
