import torch

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.report.maps import BRIGHT, DARK, SIDE, map_picture
from ssl_runner.report.pictures import GAP


def test_each_value_is_a_square_from_dark_to_bright():
    picture = map_picture(Map(torch.tensor([[0.0, 0.2, 0.4], [0.1, 0.0, 0.3]]), "queries", "images"))
    cell = SIDE // 3
    middles = [[picture[:, GAP + cell * r + cell // 2, GAP + cell * c + cell // 2] for c in range(3)] for r in range(2)]
    assert middles[0][0].tolist() == list(DARK)
    assert middles[0][2].tolist() == list(BRIGHT)
    halfway = torch.tensor([DARK, BRIGHT]).float().mean(dim=0)
    torch.testing.assert_close(middles[0][1].float(), halfway, atol=1.0, rtol=0)
    assert not torch.equal(middles[1][0], middles[1][2])


def test_a_map_of_zeros_is_dark():
    picture = map_picture(Map(torch.zeros(2, 2), "rows", "columns"))
    assert picture[:, GAP + 10, GAP + 10].tolist() == list(DARK)
