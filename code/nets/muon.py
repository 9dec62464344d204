"""Muon for the weight matrices between hidden layers, AdamW for all other parameters (Jordan et al. 2024).

Muon replaces the momentum of a weight matrix by a nearly orthogonal matrix with the same singular vectors, so that a
step has about the same size in all singular directions. https://kellerjordan.github.io/posts/muon
"""

import torch

MOMENTUM = 0.95


def orthogonalized(matrices, steps=5):
    """Bring the singular values of each matrix near 1: [N, R, C] -> the same shape.

    Each step replaces a singular value s by 3.4445 s - 4.775 s^3 + 2.0315 s^5. The coefficients of Jordan et al. move
    small values up fast: after division by the Frobenius norm, five steps bring all above 0.002 to 0.68..1.21."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.mT if x.shape[1] > x.shape[2] else x  # so that x @ x.mT is the smaller of both products
    for _ in range(steps):
        square = x @ x.mT
        factor = torch.baddbmm(square, square, square, beta=-4.775, alpha=2.0315)
        x = torch.baddbmm(x, factor, x, beta=3.4445)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(torch.optim.AdamW):
    """`hidden`: the parameters for Muon, with their own learning rate and weight decay. Each is read as a matrix
    [outputs, inputs x height x width]. Without any, this is AdamW. `step` sets their gradients to None."""

    def __init__(self, parameters, lr, hidden, hidden_lr, hidden_decay=0.0, **options):
        hidden = list(hidden)
        others = [parameter for parameter in parameters if all(parameter is not each for each in hidden)]
        groups = [{"params": others}, {"params": hidden, "lr": hidden_lr, "weight_decay": hidden_decay}]
        super().__init__(groups, lr, **options)

    @torch.no_grad()
    def step(self):
        by_shape, group = {}, self.param_groups[1]
        for parameter in group["params"]:
            state = self.state[parameter]
            if not state:  # AdamW cannot load a state without "step"
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
            momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            update = parameter.grad.lerp(momentum, MOMENTUM)  # Nesterov
            by_shape.setdefault(update.flatten(1).shape, []).append((parameter, update.flatten(1)))
            parameter.grad = None  # AdamW skips parameters without a gradient
        for pairs in by_shape.values():
            updates = orthogonalized(torch.stack([update for _, update in pairs]))
            for (parameter, _), update in zip(pairs, updates):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update.view_as(parameter), alpha=group["lr"])
        super().step()
