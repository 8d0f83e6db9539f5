"""Train a classifier of timm with Accelerate. Needs timm, torchvision and accelerate.

accelerate launch train.py DATA  # folders DATA/train/CLASS and DATA/val/CLASS of pictures
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.data import ImageDataset, create_transform
from torch.utils.data import DataLoader

import biformer_mm.timm  # noqa: F401  (registers the models)


def train_epoch(accelerator, model, optimizer, loader):
    """Train for one epoch; return the last loss."""
    model.train()
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(accelerator, model, loader):
    """Return the share of right answers, over all processes."""
    model.eval()
    right = []
    for images, labels in loader:
        found = model(images).argmax(dim=1) == labels
        right.append(accelerator.gather_for_metrics(found))
    return torch.cat(right).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description='Train a classifier with Accelerate.')
    parser.add_argument('data')
    parser.add_argument('--size', type=int, default=224, help='side of the pictures, in pixels')
    parser.add_argument('--epochs', type=int, default=1)
    args = parser.parse_args()

    set_seed(0)
    accelerator = Accelerator()
    train, val = (
        ImageDataset(
            f'{args.data}/{split}',
            transform=create_transform(args.size, is_training=split == 'train'),
        )
        for split in ('train', 'val')
    )
    classes = len(train.reader.class_to_idx)
    model = timm.create_model('biformer_tiny', num_classes=classes, drop_path_rate=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    model, optimizer, train, val = accelerator.prepare(
        model, optimizer, DataLoader(train, 16, shuffle=True), DataLoader(val, 16)
    )
    for epoch in range(args.epochs):
        loss = train_epoch(accelerator, model, optimizer, train)
        right = accuracy(accelerator, model, val)
        accelerator.print(f'epoch {epoch + 1}: loss {loss:.3f}, accuracy {right:.3f}')
        accelerator.save_state('checkpoint')  # accelerator.load_state('checkpoint') resumes


if __name__ == '__main__':
    main()
