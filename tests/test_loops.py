"""The loop of the VAE's ablation: from the template to our training, one change at a time."""

import pytest
import torch

import a3_vae_template as vae
from common.run import one_cycle
from datasets.loading import Batches
from study import loops


def images(batch_size=8, n=24):
    torch.manual_seed(7)
    x = (torch.rand(n, 784) < 0.3).to(torch.uint8)
    return Batches(x, None, "glyphs-binary", "", batch_size, with_labels=False, shuffle=True, shift=1)


def trained(changes, epochs=2):
    torch.manual_seed(0)
    data = images()
    loop = loops.changed_vae(data, epochs, changes)
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        loop.epoch()
    return torch.cat([weights.detach().flatten() for weights in loop.nets[0].parameters()])


def test_all_changes_together_are_the_training_of_the_script():
    mine = trained(tuple(loops.VAE_CHANGES))
    torch.manual_seed(0)
    data, model, args = images(), vae.VAE(), vae.parse_args([])
    optimizer = vae.make_optimizer(model, args.lr)
    schedule = one_cycle(optimizer, args.lr, 2 * len(data))
    for epoch in range(2):
        torch.manual_seed(epoch)
        data.share = max(0.3, 1 - epoch / (0.9 * 2))
        vae.epoch_iter(model.train(), data, optimizer, schedule)
    assert torch.equal(mine, torch.cat([weights.detach().flatten() for weights in model.parameters()]))


@pytest.mark.parametrize("left_out", loops.VAE_CHANGES)
def test_every_change_makes_a_difference(left_out):
    everything = tuple(loops.VAE_CHANGES)
    assert not torch.equal(trained(everything), trained([change for change in everything if change != left_out]))


def test_without_changes_it_is_the_plain_template():
    """Adam with its default settings on the ordinary gradient of a tanh network."""
    torch.manual_seed(0)
    data = images()
    loop = loops.changed_vae(data, 1)
    (model,) = loop.nets
    x = torch.rand(3, 784).round()
    h = torch.tanh(model.encoder.hidden(x))
    torch.testing.assert_close(model.encoder(x)[0], model.encoder.out(h)[:, :20])
    z = torch.randn(3, 20)
    torch.testing.assert_close(model.decoder.logits(z), model.decoder.out(torch.tanh(model.decoder.hidden(z))))
    assert model.decoder.hidden.weight.abs().max() <= 20**-0.5
    other = vae.VAE()
    other.encoder, other.decoder = loops.TanhEncoder(), loops.TanhDecoder()
    other.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    loop.epoch()
    assert data.share == 0
    optimizer = torch.optim.Adam(other.parameters(), fused=True)
    torch.manual_seed(1)
    for batch in data:
        with loops.autocast(batch.device):
            loss = other.eval()(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(mine, theirs)
