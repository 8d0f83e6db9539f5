_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['mmdet.models', 'biformer_mm'])
model = dict(
    backbone=dict(
        type='mmdet.ResNet',  # mmpretrain's own takes no plugins
        norm_eval=False,
        plugins=[
            dict(
                cfg=dict(type='BRAPlugin', topk=4),
                stages=(False, False, True, True),
                position='after_conv2',
            )
        ],
    )
)
