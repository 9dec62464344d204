"""Train the classifiers whose features the sample-quality metrics use; they are saved beside code/common/quality.py.

    python code/study/classifiers.py          for MNIST and glyph digits, grey and binary
    python code/study/classifiers.py mnist    for one of them

Do not retrain them without need: published distances are comparable only with the same classifier.
"""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli, quality
from common.files import load_state
from datasets.bmnist import bmnist
from datasets.files import UserError, show
from datasets.mnist import GREY, mnist

NAMES = ["mnist", "mnist-binarised", "glyphs", "glyphs-binary"]


def main(args):
    if unknown := set(args.data) - set(NAMES):
        raise UserError(f"there is no classifier for {', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}")
    for name in args.data or NAMES:
        train, _, test = (mnist if name in GREY else bmnist)(data=name)
        path = quality.PUBLISHED / f"classifier-{name}.pt"
        model = quality.train_classifier(quality.in_unit_range(train.images), train.labels, torch.device("cpu"))
        quality.save_classifier(path, model, test)
        print(f"{show(path)}: {load_state(path)['accuracy']:.2%} test accuracy")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("data", nargs="*", metavar="DATA", help=f"any of {', '.join(NAMES)}")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
