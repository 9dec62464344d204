"""Muon's step against the singular value decomposition and against a calculation by hand."""

import io

import pytest
import torch

from nets import multiscale
from nets.muon import Muon, orthogonalized


def by_svd(matrix):
    """The polynomial applied five times to the singular values of a matrix of norm 1."""
    u, s, vt = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vt


@pytest.mark.parametrize("shape", [(3, 3), (3, 8), (8, 3)])
def test_each_matrix_keeps_its_singular_vectors_and_gets_singular_values_near_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(2, *shape, dtype=torch.float64)
    found = orthogonalized(matrices)
    for matrix, each in zip(1000 * matrices, found, strict=True):
        torch.testing.assert_close(each, by_svd(matrix), rtol=0, atol=1e-6)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() < values.max() < 1.2
    assert torch.equal(orthogonalized(torch.zeros(1, *shape)), torch.zeros(1, *shape))


def test_a_step_by_hand():
    """diag(3, 4) has norm 5: the singular values 0.6 and 0.8 go through the polynomial."""
    weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = Muon([weight, torch.nn.Parameter(torch.zeros(1))], 1.0, [weight], 0.1)
    weight.grad = torch.diag(torch.tensor([3.0, 4], dtype=torch.float64))
    optimizer.step()
    a, b = 0.6, 0.8
    for _ in range(5):
        a, b = (3.4445 * s - 4.775 * s**3 + 2.0315 * s**5 for s in (a, b))
    expected = torch.diag(torch.tensor([-0.1 * a, -0.1 * b], dtype=torch.float64))
    torch.testing.assert_close(weight.data, expected, rtol=0, atol=1e-6)


def model():
    torch.manual_seed(0)
    net = torch.nn.Sequential(multiscale.Net(2, 2, 4), multiscale.Net(2, 3, 4)).double()
    for part in net:
        torch.nn.init.normal_(part.last.weight)
    return net, Muon(net.parameters(), 0.01, multiscale.hidden_weights(net), 0.03, weight_decay=0.1)


def step(net, optimizer, seed):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    net(torch.randn(5, 2, 4, 4, dtype=torch.float64)).pow(2).sum().backward()
    gradients = [weight.grad.clone() for weight in net.parameters()]
    optimizer.step()
    return gradients


def test_hidden_weights_follow_the_momentum_and_all_others_adamw():
    net, optimizer = model()
    optimizer.param_groups[1]["weight_decay"] = 0.5
    hidden = {
        name
        for name, weight in net.named_parameters()
        if any(weight is each for each in optimizer.param_groups[1]["params"])
    }
    assert hidden == {f"{part}.block.{layer}.weight" for part in (0, 1) for layer in (1, 3)}
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    others = [torch.nn.Parameter(before[name]) for name in before if name not in hidden]
    adamw = torch.optim.AdamW(others, 0.01, weight_decay=0.1)
    momentum = {name: torch.zeros_like(before[name]) for name in hidden}
    for seed in (1, 2):
        gradients = dict(zip(before, step(net, optimizer, seed), strict=True))
        for name in hidden:
            momentum[name] = 0.95 * momentum[name] + 0.05 * gradients[name]
            direction = 0.05 * gradients[name] + 0.95 * momentum[name]
            step_of = 0.5 * before[name] + by_svd(direction.flatten(1)).view_as(direction)
            before[name] = before[name] - 0.03 * step_of
        for weight, gradient in zip(others, (gradients[name] for name in before if name not in hidden)):
            weight.grad = gradient
        adamw.step()
    expected = before | dict(zip((name for name in before if name not in hidden), others))
    for name, weight in net.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5, msg=name)


def test_a_saved_state_continues_with_the_same_numbers():
    net, optimizer = model()
    step(net, optimizer, 1)
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], file)
    step(net, optimizer, 2)
    file.seek(0)
    again, continued = model()
    for part, state in zip((again, continued), torch.load(file, weights_only=True)):
        part.load_state_dict(state)
    step(again, continued, 2)
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), again.parameters(), strict=True))
