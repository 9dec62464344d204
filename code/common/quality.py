"""How good are generated digits? A small classifier's features, and what is measured in them.

The classifiers of MNIST and of the glyph digits are published beside this file, so that distances are the same on every
machine; code/study/classifiers.py trains them. For other data one is trained once and kept in the data cache. No loss
and no sample depends on them; the Frechet distance to validation images chooses the GAN's epoch.

- Frechet distance between Gaussians fitted to the features of samples and of real images (Heusel et al. 2017), here in
  the 128 features of this classifier: not comparable with distances in Inception features. Its floor is the distance
  between as many training images and the same real images.
- Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), with k = 5 neighbours.
- How many samples fall into each class, and the share that the classifier is more than 90 % sure of.
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
SURE = 0.9


class Classifier(nn.Module):
    """28 x 28 images in 0..1 -> 10 logits, by way of 128 features."""

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
    """On shifted images in 0..1; the random state of the caller is left as it was."""
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
    """The classifier for data of this name: the published one, or one trained on this machine and kept in the cache.

    `splits()` gives the three labelled loaders that it is trained and tested on."""
    name = f"classifier-{data}.pt"
    with torch.random.fork_rng():
        model = Classifier().to(device, memory_format=torch.channels_last)
    for path in (PUBLISHED / name, cache_folder() / name):
        if path.exists():
            load_weights(model, load_state(path, device)["state"], path)
            return model.eval()
    say(f"Training a classifier of {TITLES[data]} (once)")
    train, _, test = splits()
    model = train_classifier(in_unit_range(train.images), train.labels, device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_classifier(path, model, test)
    except OSError as error:
        say(f"{show(path)} cannot be written ({error.strerror}): the classifier will be trained again next time")
    return model


def save_classifier(path, model, test):
    """Its weights, and the share of test images that it classifies correctly."""
    right = classify(model, in_unit_range(test.images))[1].argmax(1) == test.labels.cpu()
    save_state(path, {"accuracy": float(right.float().mean()), "state": model.state_dict()})


def in_unit_range(images):
    """Grey or binary images as floats in 0..1."""
    return images / (255 if images.max() > 1 else 1)


def origin(data):
    """For results: which classifier judged."""
    name = f"classifier-{data}.pt"
    return name if (PUBLISHED / name).exists() else f"a classifier of {TITLES[data]}, trained on this machine"


@torch.no_grad()
def classify(model, images):
    """(features [N, 128], class probabilities [N, 10]) of images in 0..1."""
    device = next(model.parameters()).device
    parts = [model(batch.to(device).float()) for batch in images.split(500)]
    features = torch.cat([features for _, features in parts]).cpu()
    return features, torch.cat([logits.softmax(1) for logits, _ in parts]).cpu()


def frechet(a, b):
    """Frechet distance of the Gaussians with the means and covariances of two sets of features [N, D]:
    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    s_a, s_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    # tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), a symmetric matrix
    values, vectors = scipy.linalg.eigh(s_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(scipy.linalg.eigvalsh(root @ s_b @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * cross)


def manifold_overlap(real, fake, k=5):
    """Precision, recall, density and coverage of `fake` against `real` features [N, D]; a ball reaches from each point
    to its k-th nearest neighbour in its own set."""
    real, fake = real.float(), fake.float()

    def radii(points):
        return torch.cat([torch.cdist(part, points).kthvalue(k + 1).values for part in points.split(1000)])

    real_radius, fake_radius = radii(real), radii(fake)
    in_real_balls = torch.zeros(len(fake))  # for each sample: in how many real images' balls it lies
    recalled, covered = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for start in range(0, len(real), 1000):
        part = slice(start, start + 1000)
        distance = torch.cdist(real[part], fake)  # [1000, fakes]
        in_real_balls += (distance < real_radius[part, None]).sum(0)
        recalled[part] = (distance < fake_radius).any(1)
        covered[part] = distance.min(1).values < real_radius[part]
    return {
        "precision": float((in_real_balls > 0).float().mean()),
        "recall": float(recalled.float().mean()),
        "density": float(in_real_balls.mean() / k),
        "coverage": float(covered.float().mean()),
    }


def sample_metrics(model, images, real_features):
    """All metrics for images in 0..1, against the features of real ones."""
    features, probabilities = classify(model, images)
    classes = torch.bincount(probabilities.argmax(1), minlength=10)
    share = (classes / classes.sum()).double()
    return {
        "frechet": frechet(features, real_features),
        "class_counts": classes.tolist(),
        # nats by which the class histogram differs from the uniform one
        "class_kl": float((share * (10 * share.clamp_min(1e-12)).log()).sum()),
        "confident_share": float((probabilities.max(1).values > SURE).float().mean()),
        **manifold_overlap(real_features, features),
    }


def beside_real(of_samples, of_training_images):
    """Each metric beside its value for training images (`_real`), whose Frechet distance is the floor."""
    results = of_samples | {name + "_real": value for name, value in of_training_images.items()}
    results["frechet_floor"] = results.pop("frechet_real")
    return results


def evaluate_samples(model, samples, real, train):
    """All metrics for samples in 0..1, against real images, and for as many training images."""
    n = len(real)
    real_features, _ = classify(model, real)
    return beside_real(*(sample_metrics(model, images[:n], real_features) for images in (samples, train)))
