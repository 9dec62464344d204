"""Metrics of sample quality, computed from the features and probabilities of a small classifier.

The classifiers for MNIST and the glyph digits are stored next to this file, so all machines compute the same distances;
code/study/classifiers.py trains them. A classifier for other data is trained once and stored in the data cache. No loss
depends on a classifier, but the Frechet distance to the validation images selects the epoch of the GAN.

- Frechet distance between Gaussians fitted to the features of samples and of real images (Heusel et al. 2017). It uses
  the 128 features of this classifier, so it is not comparable with distances in Inception features. Compare it with the
  distance between the same number of training images and the same real images (`frechet_floor`).
- Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), with k = 5 neighbours.
- The number of samples in each class, `class_kl`, the KL divergence of their frequencies from equal ones, and the share
  of samples that the classifier is more than 90 % confident about.
"""

from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.devices import autocast
from common.files import load_state, load_weights, save_state
from datasets.download import cache_folder
from datasets.files import show
from datasets.loading import TITLES, shifted

PUBLISHED = Path(__file__).parent
EPOCHS, BATCH, LR = 5, 250, 4e-3
CONFIDENT = 0.9


class Classifier(nn.Module):
    """28 x 28 images in 0..1 -> logits [B, 10] and features [B, 128]."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2, padding=1),
        )  # fmt: skip
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU())
        self.dropout = nn.Dropout(0.3)
        self.logits = nn.Linear(128, 10)

    def forward(self, images):
        features = self.features(self.convolutions(images.reshape(-1, 1, 28, 28)))  # [B, 128]
        return self.logits(self.dropout(features)), features


@torch.enable_grad()
def train_classifier(images, labels, device):
    """Train a classifier on randomly shifted images in 0..1, without changing the caller's random state."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier().to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.02)
        steps = EPOCHS * -(-len(images) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
        for _ in range(EPOCHS):
            order = torch.randperm(len(images)).to(images.device)
            for x, y in zip(shifted(images[order], 2).split(BATCH), labels[order].split(BATCH)):
                with autocast(device):
                    logits, _ = model(x.float().to(device))
                loss = F.cross_entropy(logits.float(), y.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def load_classifier(data, device, splits, say=print):
    """The classifier for a dataset: the published one, or one trained on this machine and stored in the cache.

    `splits()` returns the labelled loaders (train, validation, test); it is only called to train a classifier."""
    name = f"classifier-{data}.pt"
    cached = cache_folder() / name
    with torch.random.fork_rng():
        model = Classifier().to(device, memory_format=torch.channels_last)
    for path in (PUBLISHED / name, cached):
        if path.exists():
            saved = load_state(path, device)
            load_weights(model, saved.get("state") if isinstance(saved, dict) else None, path)
            return model.eval()
    say(f"Training a classifier for {TITLES[data]} (only once)")
    train, _, test = splits()
    model = train_classifier(in_unit_range(train.images), train.labels, device)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        save_classifier(cached, model, test)
    except OSError as error:
        say(f"{show(cached)} cannot be written ({error.strerror}): the classifier will be trained again next time")
    return model


def save_classifier(path, model, test):
    """Save the weights and the accuracy on the test images."""
    right = classify(model, in_unit_range(test.images))[1].argmax(1) == test.labels.cpu()
    save_state(path, {"accuracy": float(right.float().mean()), "state": model.state_dict()})


def in_unit_range(images):
    """Grey or binary images as floats in 0..1."""
    return images / (255 if images.max() > 1 else 1)


def origin(data):
    """The name of the classifier, for results.json."""
    name = f"classifier-{data}.pt"
    return name if (PUBLISHED / name).exists() else f"a classifier of {TITLES[data]}, trained on this machine"


@torch.no_grad()
def classify(model, images):
    """(features [N, 128], class probabilities [N, 10]) of images in 0..1."""
    device = next(model.parameters()).device
    parts = [model(batch.to(device).float()) for batch in images.split(250)]  # larger batches do not fit into caches
    features = torch.cat([features for _, features in parts]).cpu()
    return features, torch.cat([logits.softmax(1) for logits, _ in parts]).cpu()


def frechet(a, b):
    """Frechet distance |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two Gaussians.

    m and S are the means and covariances of the features a and b, [N, D] each."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    s_a, s_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    # tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), a symmetric matrix
    values, vectors = scipy.linalg.eigh(s_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(scipy.linalg.eigvalsh(root @ s_b @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * cross)


def radii(points, k=5):
    """The distance from each point [N, D] to its k-th nearest neighbour among the other points: [N]."""
    # k + 1, because each point is its own nearest neighbour
    return torch.cat([torch.cdist(x, points).topk(k + 1, largest=False).values[:, -1] for x in points.split(500)])


def manifold_overlap(real, fake, k=5, real_radius=None):
    """Precision, recall, density and coverage of `fake` with respect to `real` features, [N, D] each.

    Each point is the centre of a ball that reaches to its k-th nearest neighbour in the same set. Precision: the share
    of fake points in the ball of a real point. Recall: the share of real points in the ball of a fake point. Density:
    the mean number of real balls that contain a fake point, divided by k. Coverage: the share of real points whose ball
    contains a fake point. `real_radius` is radii(real, k), if it is already known."""
    fake_radius = radii(fake, k)
    real_radius = radii(real, k) if real_radius is None else real_radius
    in_real_balls = torch.zeros(len(fake))  # the number of balls around real images that contain each sample
    recalled, covered = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for start in range(0, len(real), 500):
        part = slice(start, start + 500)
        distance = torch.cdist(real[part], fake)  # [500, fakes]
        in_real_balls += (distance < real_radius[part, None]).sum(0)
        recalled[part] = (distance < fake_radius).any(1)
        covered[part] = distance.amin(1) < real_radius[part]
    return {
        "precision": float((in_real_balls > 0).float().mean()),
        "recall": float(recalled.float().mean()),
        "density": float(in_real_balls.mean() / k),
        "coverage": float(covered.float().mean()),
    }


def sample_metrics(model, images, real_features, real_radius):
    """All metrics of images in 0..1, compared with the features of real images and their `radii`."""
    features, probabilities = classify(model, images)
    classes = torch.bincount(probabilities.argmax(1), minlength=10)
    share = (classes / classes.sum()).double()
    return {
        "frechet": frechet(features, real_features),
        "class_counts": classes.tolist(),
        # Kullback-Leibler divergence of the class frequencies from the uniform distribution, in nats
        "class_kl": float((share * (10 * share.clamp_min(1e-12)).log()).sum()),
        "confident_share": float((probabilities.max(1).values > CONFIDENT).float().mean()),
        **manifold_overlap(real_features, features, real_radius=real_radius),
    }


def beside_real(of_samples, of_training_images):
    """Both sets of metrics in one dictionary. Names of training images' metrics end in `_real`; `frechet_real` becomes
    `frechet_floor`."""
    results = of_samples | {name + "_real": value for name, value in of_training_images.items()}
    results["frechet_floor"] = results.pop("frechet_real")
    return results


def evaluate_samples(model, samples, real, train):
    """All metrics of samples in 0..1 compared with real images, and of the same number of training images."""
    real_features, _ = classify(model, real)
    against = real_features, radii(real_features)
    return beside_real(*(sample_metrics(model, images[: len(real)], *against) for images in (samples, train)))
