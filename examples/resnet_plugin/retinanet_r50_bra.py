_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['biformer_mm'])
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='BRAPlugin', topk=4),
                stages=(False, False, True, True),
                position='after_conv3',
            )
        ]
    )
)
