"""Draw where a classifier of timm sees a class, by Grad-CAM. Needs timm and grad-cam.

python draw.py PICTURE MAP.png --checkpoint CHECKPOINT --label 207
"""

import argparse

import numpy as np
import timm
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import preprocess_image, show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import biformer_mm.timm  # noqa: F401  (registers the models)

SIZE = 224  # pixels


def find_maps(model, images, labels, stage=-1):
    """Map where a classifier sees classes.

    Args:
        model: Classifier of timm; set to eval mode.
        images: (N, 3, H, W), normalised.
        labels: N class indices; None for the most likely classes.
        stage: Stage whose gradient is used, 0 to 3, or -1 for the last.

    Returns:
        (N, H, W) array, from 0 to 1 (strongest); 0 if nothing speaks for the class.

    Raises:
        IndexError: The model has no such class or stage.
    """
    targets = None if labels is None else [ClassifierOutputTarget(label) for label in labels]
    cam = GradCAM(model, [model.stages[stage]])  # in a with statement it would hide an IndexError
    return cam(images, targets)


def main():
    parser = argparse.ArgumentParser(description='Draw where a classifier sees a class.')
    parser.add_argument('picture')
    parser.add_argument('out')
    parser.add_argument('--model', default='biformer_tiny')
    parser.add_argument('--checkpoint', required=True, help='weights of the model')
    parser.add_argument('--label', type=int, help='class index; the most likely class if not given')
    parser.add_argument('--stage', type=int, default=-1, help='0 to 3; -1 for the last')
    args = parser.parse_args()

    model = timm.create_model(
        args.model, pretrained=True, pretrained_cfg_overlay=dict(file=args.checkpoint)
    )
    picture = Image.open(args.picture).convert('RGB').resize((SIZE, SIZE))
    picture = np.asarray(picture, np.float32) / 255
    cfg = model.pretrained_cfg
    images = preprocess_image(picture, cfg['mean'], cfg['std'])
    labels = None if args.label is None else [args.label]
    (found,) = find_maps(model, images, labels, args.stage)
    Image.fromarray(show_cam_on_image(picture, found, use_rgb=True)).save(args.out)


if __name__ == '__main__':
    main()
