"""The course's data loaders: `from datasets.mnist import mnist` and `from datasets.bmnist import bmnist`."""
