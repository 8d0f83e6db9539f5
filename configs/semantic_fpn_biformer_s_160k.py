# The 80k schedule's run on half the GPUs: half the batch, half the rate, twice
# the iterations.
_base_ = './semantic_fpn_biformer_s_80k.py'

optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=1000),
    dict(
        type='CosineAnnealingLR', by_epoch=False, begin=1000, end=160000, T_max=159000, eta_min=0.0
    ),
]
train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
auto_scale_lr = dict(base_batch_size=16)
