"""Models, and the segments that compose them."""

import pytest
import torch
from torch import nn

from tilewright.training import models


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_simple_resnet_has_the_parameters_and_names_of_the_notebook():
    model = models.SimpleResNet()
    assert parameters(model) == 11_000_138
    names = [name for name, _ in model.named_parameters()]
    assert names[:4] == ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.0.weight"]
    assert names[-2:] == ["fc.weight", "fc.bias"]


def test_as_printed_a_block_ends_in_its_norm_and_adds_nothing():
    """Erratum 1: no residual addition, no trailing ReLU."""
    block = models.SimpleResNet(width=4).layer1[0].eval()
    x = torch.randn(2, 4, 8, 8)
    y = block(x)
    assert torch.equal(y, block[4](block[3](torch.relu(block[1](block[0](x))))))
    assert (y < 0).any()


def test_with_residuals_a_block_adds_its_input_and_the_parameters_stay_the_same():
    model = models.SimpleResNet(residual=True, width=4).eval()
    assert parameters(models.SimpleResNet(residual=True)) == 11_000_138
    block = model.layer1[0]
    x = torch.randn(2, 4, 8, 8)
    plain = nn.Sequential(*block.children())
    assert torch.equal(block(x), torch.relu(plain(x) + x))
    smaller = model.layer2[0](x)
    assert smaller.shape == (2, 8, 4, 4)
    assert torch.equal(
        smaller[:, :4], torch.relu(nn.Sequential(*model.layer2[0].children())(x)[:, :4] + x[:, :, ::2, ::2])
    )


def test_resnet18_for_32_x_32_has_11_173_962_parameters():
    model = models.ResNet18()
    assert parameters(model) == 11_173_962
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    "model",
    [
        models.SimpleResNet(width=4),
        models.SimpleResNet(width=4, residual=True),
        models.ResNet18(width=4),
        models.MLP(3 * 16 * 16, (8, 8)),
        models.MLP(3 * 16 * 16, ()),
    ],
)
def test_the_segments_compose_to_the_model_and_share_its_parameters(model):
    model.eval()
    x = torch.randn(2, 3, 16, 16)
    y = x
    for segment in models.segments(model):
        y = segment(y)
    assert torch.equal(y, model(x))
    mine = [p for segment in models.segments(model) for p in segment.parameters()]
    assert {id(p) for p in mine} == {id(p) for p in model.parameters()} and len(mine) == len(list(model.parameters()))


def test_segments_are_joined_to_the_count_that_is_asked_for():
    model = models.SimpleResNet(width=4)
    assert [len(models.group(model, models.cuts(model, count))) for count in (None, 1, 2, 6)] == [6, 1, 2, 6]
    with pytest.raises(ValueError, match="cut into 1 to 6 segments, not 7"):
        models.cuts(model, 7)


def test_small_segments_are_joined_to_their_neighbours():
    model = models.SimpleResNet()  # 1,856 147,968 524,800 2,098,176 ... 5,130 parameters
    assert models.cuts(model, None, 1 << 16) == (0, 2, 3, 4, 6)
    assert models.cuts(model, None, 1 << 30) == (0, 6) and models.cuts(model) == tuple(range(7))
    x = torch.randn(2, 3, 8, 8)
    y = x
    for segment in models.group(model.eval(), (0, 2, 3, 4, 6)):
        y = segment(y)
    assert torch.equal(y, model(x))


def test_any_module_is_one_segment_and_a_sequential_one_per_child_with_parameters():
    class Own(nn.Module):
        pass

    own = Own()
    assert models.segments(own) == [own]
    layers = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2), nn.Dropout())
    assert [len(part) for part in models.segments(layers)] == [3, 2]


def test_an_unknown_model_lists_those_there_are():
    with pytest.raises(ValueError, match="unknown model 'vgg'; known: simple-resnet, resnet18, mlp"):
        models.build("vgg", (3, 32, 32))
