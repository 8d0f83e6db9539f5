_base_ = '../../configs/retinanet_biformer_demo.py'
custom_imports = dict(imports=['biformer_mm', 'torchao_int8'])
custom_hooks = [dict(type='Int8Hook')]
