# Token labelling on generated data: make demo TASK=token_label
_base_ = './biformer_demo.py'
custom_imports = dict(
    imports=[
        'biformer_mm',
        'biformer_mm.datasets.token_label_transforms',
        'biformer_mm.models.token_label_classifier',
    ],
    allow_failed_imports=False,
)

model = dict(type='TokenLabelClassifier', neck=None, head=dict(type='TokenLabelHead'))

# The label maps of tools/dataset_tools/make_token_labels.py, by the model of
# biformer_demo.py.
image_root, label_root = 'data/shapes/imagenet/train', 'data/shapes/token_labels'
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type='LoadTokenLabels', image_root=image_root, label_root=label_root, num_classes=4),
    dict(type='PackInputs', algorithm_keys=('gt_token_scores',)),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
