# BiFormer-T.
_base_ = './recipe.py'

# Maps of 16, 8 and 4 tokens a side have regions of 4 x 4, 2 x 2 and 1 token, 16 of them in each:
# k of the paper, 1, 4, 16, would attend to all in stage 3. With 8 it routes there, too, and a
# query attends to 16, 16 and 8 tokens. The last map, 2 x 2, has full attention, as in the paper.
model = dict(
    backbone=dict(
        type='BiFormer',
        arch='tiny',
        num_regions=4,
        topks=(1, 4, 8, None),
        out_indices=(3,),
        out_norm='BN',
    ),
    head=dict(in_channels=512),
)
