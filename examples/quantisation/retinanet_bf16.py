_base_ = '../../configs/retinanet_biformer_demo.py'
custom_imports = dict(imports=['biformer_mm', 'bfloat16'])
custom_hooks = [dict(type='BFloat16Hook')]
