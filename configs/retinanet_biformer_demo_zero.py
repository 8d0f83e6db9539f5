# The demo by DeepSpeed, with the optimiser's state sharded over the processes
# (ZeRO stage 1). docs/distributed.md says what this takes.
_base_ = './retinanet_biformer_demo.py'

runner_type = 'FlexibleRunner'
strategy = dict(type='DeepSpeedStrategy', gradient_clipping=10, zero_optimization=dict(stage=1))
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(
    _delete_=True,
    type='DeepSpeedOptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05),
)
