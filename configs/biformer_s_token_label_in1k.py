# BiFormer-S*, trained with token labelling. The authors did not publish their
# recipe: it is WaveViT's (github.com/YehLi/ImageNetModel), which is LV-ViT's
# with other weights of the loss; docs/token_labelling.md says what is open.
_base_ = './biformer_s_in1k.py'
custom_imports = dict(
    imports=[
        'biformer_mm',
        'biformer_mm.datasets.token_label_transforms',
        'biformer_mm.models.token_label_classifier',
    ],
    allow_failed_imports=False,
)

model = dict(
    type='TokenLabelClassifier',  # MixToken, with boxes from Beta(1, 1): LV-ViT
    neck=None,  # the head needs the map
    head=dict(type='TokenLabelHead', token_weight=0.5),  # WaveViT; of the loss and of the scores
    train_cfg=None,  # neither Mixup nor CutMix: LV-ViT
)

# LV-ViT's maps of NFNet-F6, 18 x 18, or your own.
image_root, label_root = 'data/imagenet/train', 'data/imagenet/token_labels'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TokenLabelRandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='LoadTokenLabels',
        image_root=image_root,
        label_root=label_root,
        num_classes=1000,
        grid=(18, 18),
    ),
    # RandAugment m9, mstd 0.5, inc 1 and random erasing 0.25: LV-ViT, WaveViT
    *_base_.train_pipeline[3:5],
    dict(type='PackInputs', algorithm_keys=('gt_token_scores',)),
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),  # not repeated: WaveViT
    dataset=dict(pipeline=train_pipeline),
)

# AdamW 1e-3 for a batch of 1024, decay 0.05, 5 epochs of warm-up: as inherited, and WaveViT's.
# Cosine to 1e-5 in 300 epochs, then 10 epochs at that: LV-ViT.
param_scheduler = [
    _base_.param_scheduler[0],
    dict(
        type='CosineAnnealingLR',
        begin=5,
        end=300,
        by_epoch=True,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=310)
