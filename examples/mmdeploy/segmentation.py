# For mmdeploy: segmentors of mmseg. The folder of upsampling.py must be on the Python path.
_base_ = './any_size.py'
onnx_config = dict(dynamic_axes=dict(output={0: 'batch', 2: 'height', 3: 'width'}))
# Scores of all classes; with_argmax=True gives class numbers.
codebase_config = dict(type='mmseg', task='Segmentation', with_argmax=False, module=['upsampling'])
