# BiFormer-S as detectors use it: 16 x 16 regions for large images, batch norms
# on frozen statistics. Detectors put `biformer` in as their backbone.
# ImageNet weights are the user's to give, and only a key that is not here yet can
# become a dict: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=PATH
custom_imports = dict(imports=['biformer_mm'], allow_failed_imports=False)
biformer = dict(type='BiFormer', arch='small', num_regions=16, drop_path_rate=0.2, norm_eval=True)
