"""Train a classifier of timm with Lightning. Needs timm, torchvision and pytorch_lightning.

python train.py DATA  # folders DATA/train/CLASS and DATA/val/CLASS of pictures
"""

import argparse

import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from timm.data import ImageDataset, create_transform
from torch.utils.data import DataLoader

import biformer_mm.timm  # noqa: F401  (registers the models)


class Classifier(pl.LightningModule):
    """A classifier with its loss, metric and optimizer."""

    def __init__(self, model, lr=1e-3):
        super().__init__()
        self.model = model
        self.lr = lr

    def training_step(self, batch, index):
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self.log('loss', loss, prog_bar=True)
        return loss

    def validation_step(self, batch, index):
        images, labels = batch
        right = self.model(images).argmax(dim=1) == labels
        self.log('accuracy', right.float().mean(), prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.05)


def main():
    parser = argparse.ArgumentParser(description='Train a classifier with Lightning.')
    parser.add_argument('data')
    parser.add_argument('--size', type=int, default=224, help='side of the pictures, in pixels')
    parser.add_argument('--epochs', type=int, default=1)
    parser.add_argument('--precision', default='32-true', help="such as 'bf16-mixed'")
    args = parser.parse_args()

    pl.seed_everything(0)
    train, val = (
        ImageDataset(
            f'{args.data}/{split}',
            transform=create_transform(args.size, is_training=split == 'train'),
        )
        for split in ('train', 'val')
    )
    classes = len(train.reader.class_to_idx)
    model = Classifier(timm.create_model('biformer_tiny', num_classes=classes, drop_path_rate=0.1))
    trainer = pl.Trainer(max_epochs=args.epochs, precision=args.precision)
    trainer.fit(model, DataLoader(train, 16, shuffle=True), DataLoader(val, 16))


if __name__ == '__main__':
    main()
