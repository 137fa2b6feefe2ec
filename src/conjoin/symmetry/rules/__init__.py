"""One rule for each class of operations: the axes of its results, and what it equates and pins.

A contributor adds an operation by a line of `RULES`, and a rule if none fits.
"""

from collections.abc import Callable, Mapping, Sequence

from conjoin.symmetry.axes import Axes
from conjoin.symmetry.rules import contraction as contract
from conjoin.symmetry.rules import convolution as conv
from conjoin.symmetry.rules import elementwise as element
from conjoin.symmetry.rules import indexing, normalization, recurrent, reduction, views
from conjoin.symmetry.values import Call, Value

__all__ = ["RULES", "Rule"]

Rule = Callable[[Call], Value | Sequence[Axes | Value]]

_BY_RULE: Mapping[Rule, str] = {
    contract.linear: "linear",
    contract.matmul: "matmul mm bmm mv dot",
    contract.addmm: "addmm baddbmm",
    contract.einsum: "einsum",
    contract.bilinear: "bilinear",
    contract.distances: "_cdist_forward _euclidean_dist",
    contract.attention: "scaled_dot_product_attention",
    conv.convolution: "convolution",
    conv.resampled: (
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
        "max_pool2d_with_indices max_pool3d_with_indices "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d "
        "_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
        "upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d"
    ),
    conv.sampled: "grid_sampler_2d grid_sampler_3d",
    conv.patches: "im2col",
    conv.from_patches: "col2im",
    element.elementwise: "copy lift_fresh_copy masked_fill _to_copy where clamp clamp_min lerp",
    element.same: "detach dropout native_dropout bernoulli",
    element.softmax: "_softmax _log_softmax softmax log_softmax _safe_softmax",
    views.view: "view _unsafe_view reshape flatten unflatten view_copy",
    views.permute: "permute transpose t movedim swapaxes numpy_T",
    views.select: "select",
    views.same: "clone alias contiguous",
    views.unbind: "unbind",
    views.sliced: "slice",
    views.slice_scatter: "slice_scatter",
    views.split: "split split_with_sizes chunk tensor_split split_with_sizes_copy",
    views.cat: "cat concat",
    views.as_complex: "view_as_complex",
    views.as_real: "view_as_real",
    views.squeeze: "squeeze",
    views.unsqueeze: "unsqueeze",
    views.expand: "expand expand_copy broadcast_to",
    views.repeat: "repeat",
    normalization.batch_norm: (
        "_native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm "
        "_native_batch_norm_legit_functional batch_norm"
    ),
    normalization.instance_norm: "instance_norm",
    normalization.layer_norm: "native_layer_norm layer_norm _fused_rms_norm",
    normalization.group_norm: "native_group_norm",
    reduction.reduction: (
        "sum mean amax amin prod var std var_mean norm linalg_vector_norm logsumexp any all"
    ),
    reduction.reduction_with_position: "max min argmax argmin median",
    indexing.embedding: "embedding",
    indexing.embedding_bag: "embedding_bag _embedding_bag _embedding_bag_forward_only",
    indexing.index: "index",
    indexing.index_select: "index_select",
    indexing.rearranged: "gather",
    indexing.windows: "unfold",
    indexing.padded: "constant_pad_nd",
    indexing.positional: (
        "cumsum cumprod logcumsumexp cummax cummin flip roll sort topk argsort "
        "_fft_r2c _fft_c2c _fft_c2r"
    ),
    recurrent.recurrent: "lstm gru rnn_tanh rnn_relu",
}

RULES: Mapping[str, Rule] = {
    f"aten.{name}": rule for rule, names in _BY_RULE.items() for name in names.split()
}
"""Operation -> its rule. Operations that PyTorch tags as pointwise need no entry."""
