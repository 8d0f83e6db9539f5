# The demo by PyTorch's FSDP, with weights, gradients and the optimiser's state sharded over the
# processes. docs/distributed.md says when that is worth it.
_base_ = './retinanet_biformer_demo.py'

runner_type = 'FlexibleRunner'
strategy = dict(type='FSDPStrategy')
train_dataloader = dict(batch_size=4)
