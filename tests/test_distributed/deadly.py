# A long training in which rank 1 is killed.
_base_ = './segmentor.py'

custom_imports = dict(imports=['biformer_mm', 'sudden_death'])
custom_hooks = [dict(type='SuddenDeathHook')]
train_cfg = dict(max_epochs=1000, val_interval=1000)
