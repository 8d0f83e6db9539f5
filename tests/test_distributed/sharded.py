# The demo by FSDP, with settings that differ between parameters and gradients that are clipped.
_base_ = '../../configs/retinanet_biformer_demo_fsdp.py'

custom_imports = dict(imports=['biformer_mm', 'local_state'])
custom_hooks = [dict(type='LocalStateHook')]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
optim_wrapper = dict(
    # Biases before batch norm have gradients of rounding errors, which a small eps would make
    # steps of. And Adam's steps would hardly depend on the norm that gradients are clipped to.
    optimizer=dict(eps=1e-3),
    clip_grad=dict(max_norm=1),
    paramwise_cfg=dict(flat_decay_mult=0, custom_keys={'backbone.stages.0': dict(lr_mult=0.5)}),
)
