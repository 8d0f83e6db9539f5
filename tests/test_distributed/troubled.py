# A training in which a rank hangs or fails; its timeout fits a test.
_base_ = './segmentor.py'

custom_imports = dict(imports=['biformer_mm', 'trouble'])
custom_hooks = [dict(type='TroubleHook'), dict(type='HangHook', timeout=10)]
train_cfg = dict(max_epochs=6, val_interval=6)
train_dataloader = dict(dataset=dict(pipeline=[dict(type='Trouble'), *_base_.train_pipeline]))
