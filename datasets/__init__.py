"""The data loaders of the course: `from datasets.mnist import mnist` and `from datasets.bmnist import bmnist`."""
