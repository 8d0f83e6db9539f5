# For mmdeploy: classifiers of mmpretrain.
_base_ = './any_size.py'
onnx_config = dict(dynamic_axes=dict(output={0: 'batch'}))
codebase_config = dict(type='mmpretrain', task='Classification')
