"""The table of methods: one visible row for each."""

from collections.abc import Mapping
from difflib import get_close_matches

from conjoin.errors import MethodError
from conjoin.methods.arcee_fusion import arcee_fusion
from conjoin.methods.averages import linear, mean, passthrough, sum
from conjoin.methods.breadcrumbs import breadcrumbs, breadcrumbs_ties, find_ranges
from conjoin.methods.consensus import consensus, tall_mask
from conjoin.methods.dare import dare_linear, dare_ties, find_factors
from conjoin.methods.della import della, della_linear
from conjoin.methods.differences import add_difference, train_difference
from conjoin.methods.emr import emr, find_magnitudes
from conjoin.methods.expo import expo
from conjoin.methods.geometric_median import find_geometric_median, geometric_median
from conjoin.methods.isotropic import iso_c, iso_cts
from conjoin.methods.karcher import find_karcher_mean, karcher
from conjoin.methods.knots import knots_ties
from conjoin.methods.magmax import magmax
from conjoin.methods.medians import median, trimmed_mean
from conjoin.methods.method import Method, Need
from conjoin.methods.model_stock import find_ratio, model_stock
from conjoin.methods.multislerp import find_barycentre, multislerp
from conjoin.methods.nearswap import nearswap
from conjoin.methods.nuslerp import find_arc, nuslerp
from conjoin.methods.ram import count_changed, ram, ramplus_tl
from conjoin.methods.sce import find_coefficients, sce
from conjoin.methods.spheres import measure_angle, slerp
from conjoin.methods.task_arithmetic import task_arithmetic
from conjoin.methods.ties import find_thresholds, ties
from conjoin.methods.tsv import tsv

__all__ = ["METHODS", "find_method"]

_BASE_AND_WEIGHTS = frozenset({Need.BASE, Need.WEIGHTS})

_ROWS = (
    Method("sum", sum, "w_1 + ... + w_n", passes_nonfinite=True),
    Method(
        "mean",
        mean,
        "(w_1 + ... + w_n) / n",
        passes_nonfinite=True,
        paper="arXiv:2203.05482",
    ),
    Method(
        "linear",
        linear,
        "sum_i a_i w_i / sum_i a_i",
        needs=frozenset({Need.WEIGHTS}),
        passes_nonfinite=True,
        paper="arXiv:2203.05482",
    ),
    Method(
        "passthrough",
        passthrough,
        "s w_1",
        passes_nonfinite=True,
        models=1,
        paper="arXiv:2312.15166",
    ),
    Method(
        "slerp",
        slerp,
        "(sin((1-t) theta) w_1 + sin(t theta) w_2) / sin(theta)",
        summarize=measure_angle,
        models=2,
        paper="doi:10.1145/325165.325242",
    ),
    Method("median", median, "the middle one of w_1, ..., w_n", paper="arXiv:1803.01498"),
    Method(
        "trimmed_mean",
        trimmed_mean,
        "mean of w_1, ..., w_n without the k smallest and the k largest",
        paper="arXiv:1803.01498",
    ),
    Method(
        "geometric_median",
        geometric_median,
        "argmin_y sum_i a_i |y - w_i|",
        needs=frozenset({Need.WEIGHTS}),
        summarize=find_geometric_median,
        paper="arXiv:1912.13445",
    ),
    Method(
        "nuslerp",
        nuslerp,
        "w_0 + (sin((1-t) theta) v_1 + sin(t theta) v_2) / sin(theta), v_i = w_i - w_0",
        needs=frozenset({Need.WEIGHTS}),
        optional=frozenset({Need.BASE}),
        whole_with=frozenset({"flatten"}),
        summarize=find_arc,
        models=2,
        paper="doi:10.1145/325165.325242",
    ),
    Method(
        "multislerp",
        multislerp,
        "w_0 + m sum_i a_i |v_i|, m = direction of sum_i a_i v_i / |v_i|, v_i = w_i - w_0",
        needs=frozenset({Need.WEIGHTS}),
        optional=frozenset({Need.BASE}),
        summarize=find_barycentre,
        paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    ),
    Method(
        "karcher",
        karcher,
        "argmin_u sum_i a_i angle(u, w_i)^2, with the length sum_i a_i |w_i|",
        needs=frozenset({Need.WEIGHTS}),
        summarize=find_karcher_mean,
        paper="doi:10.1002/cpa.3160300502",
    ),
    Method(
        "model_stock",
        model_stock,
        "w_0 + t (mean_i w_i - w_0), t = n c / (1 + (n-1) c), c = mean cosine of w_i - w_0",
        needs=frozenset({Need.BASE}),
        whole_with=frozenset({"filter_wise"}),
        summarize=find_ratio,
        least=2,
        paper="arXiv:2403.19522",
    ),
    Method(
        "nearswap",
        nearswap,
        "w_0 + clamp(w_1 - w_0, -t, t)",
        needs=frozenset({Need.BASE}),
        models=1,
        paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    ),
    Method(
        "arcee_fusion",
        arcee_fusion,
        "w_0 + those w_1 - w_0 whose score |w_1 - w_0| KL(row) is an outlier",
        needs=frozenset({Need.BASE}),
        elementwise=False,
        widens=True,
        models=1,
    ),
    Method(
        "add_difference",
        add_difference,
        "w_1 + alpha (w_2 - w_0)",
        needs=frozenset({Need.BASE}),
        models=2,
    ),
    Method(
        "train_difference",
        train_difference,
        "w_1 + 1.8 alpha (w_2 - w_0) |w_2 - w_1| / (|w_2 - w_0| + |w_2 - w_1|)",
        needs=frozenset({Need.BASE}),
        models=2,
        paper="https://github.com/hako-mikan/sd-webui-supermerger",
    ),
    Method(
        "task_arithmetic",
        task_arithmetic,
        "w_0 + s sum_i a_i (w_i - w_0)",
        needs=_BASE_AND_WEIGHTS,
        passes_nonfinite=True,
        paper="arXiv:2212.04089",
    ),
    Method(
        "ties",
        ties,
        "w_0 + s mean of those a_i trim(w_i - w_0) that have the sign of their sum",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_thresholds,
        paper="arXiv:2306.01708",
    ),
    Method(
        "dare_linear",
        dare_linear,
        "w_0 + s sum_i a_i m_i (w_i - w_0) / p_i",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_factors,
        paper="arXiv:2311.03099",
    ),
    Method(
        "dare_ties",
        dare_ties,
        "w_0 + s mean of those a_i m_i (w_i - w_0) / p_i that have the sign of their sum",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_factors,
        paper="arXiv:2311.03099",
    ),
    Method(
        "tsv",
        tsv,
        "w_0 + s U' S V'^T; U', V' = the leading singular vectors of all changes, orthogonalised",
        needs=_BASE_AND_WEIGHTS,
        elementwise=False,
        paper="arXiv:2412.00081",
    ),
    Method(
        "iso_c",
        iso_c,
        "w_0 + s mean(S) U V^T; U S V^T = sum_i a_i (w_i - w_0)",
        needs=_BASE_AND_WEIGHTS,
        elementwise=False,
        paper="arXiv:2502.04959",
    ),
    Method(
        "iso_cts",
        iso_cts,
        "iso_c of the leading singular vectors of the sum of changes, and of what is left of each",
        needs=_BASE_AND_WEIGHTS,
        elementwise=False,
        paper="arXiv:2502.04959",
    ),
    Method(
        "knots_ties",
        knots_ties,
        "w_0 + s U ties(U^T (w_1 - w_0), ...); U S V^T = [w_1 - w_0 ... w_n - w_0]",
        needs=_BASE_AND_WEIGHTS,
        elementwise=False,
        paper="arXiv:2410.19735",
    ),
    Method(
        "della",
        della,
        "w_0 + s mean of those a_i m_i (w_i - w_0) / p_i that have the sign of their sum",
        needs=_BASE_AND_WEIGHTS,
        elementwise=False,
        widens=True,
        paper="arXiv:2406.11617",
    ),
    Method(
        "della_linear",
        della_linear,
        "w_0 + s sum_i a_i m_i (w_i - w_0) / p_i",
        needs=_BASE_AND_WEIGHTS,
        elementwise=False,
        widens=True,
        paper="arXiv:2406.11617",
    ),
    Method(
        "breadcrumbs",
        breadcrumbs,
        "w_0 + s sum_i a_i m_i (w_i - w_0)",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_ranges,
        paper="arXiv:2312.06795",
    ),
    Method(
        "breadcrumbs_ties",
        breadcrumbs_ties,
        "w_0 + s mean of those a_i m_i (w_i - w_0) that have the sign of their sum",
        needs=_BASE_AND_WEIGHTS,
        summarize=find_ranges,
        paper="arXiv:2312.06795",
    ),
    Method(
        "magmax",
        magmax,
        "w_0 + s (the w_i - w_0 of largest magnitude)",
        needs=frozenset({Need.BASE}),
        paper="arXiv:2407.06322",
    ),
    Method(
        "sce",
        sce,
        "w_0 + s sum of those e_i sel(w_i - w_0) that have the sign of their sum",
        needs=frozenset({Need.BASE}),
        summarize=find_coefficients,
        paper="arXiv:2408.07990",
    ),
    Method(
        "ram",
        ram,
        "w_0 + s mean of those w_i - w_0 that are not 0",
        needs=frozenset({Need.BASE}),
        paper="arXiv:2601.13572",
    ),
    Method(
        "ramplus_tl",
        ramplus_tl,
        "w_0 + s mean of those w_i - w_0 that are not 0, times f_i where there is one",
        needs=frozenset({Need.BASE}),
        summarize=count_changed,
        paper="arXiv:2601.13572",
    ),
    Method(
        "expo",
        expo,
        "w_1 + a (w_1 - w_0)",
        needs=frozenset({Need.BASE}),
        models=1,
        paper="arXiv:2404.16792",
    ),
    Method(
        "consensus",
        consensus,
        "w_0 + s [sum_i m_i >= k] t,  t = sum_i a_i (w_i - w_0)",
        needs=_BASE_AND_WEIGHTS,
        least=2,
        paper="arXiv:2405.07813",
    ),
    Method(
        "tall_mask",
        tall_mask,
        "w_0 + s m_task t,  t = sum_i a_i (w_i - w_0)",
        needs=_BASE_AND_WEIGHTS,
        per_task=True,
        paper="arXiv:2405.07813",
    ),
    Method(
        "emr",
        emr,
        "w_0 + s l_task m_task u,  u = sign(t) max of |w_i - w_0| with that sign",
        needs=frozenset({Need.BASE}),
        summarize=find_magnitudes,
        per_task=True,
        paper="arXiv:2405.17461",
    ),
)

METHODS: Mapping[str, Method] = {row.name: row for row in _ROWS}


def find_method(name: str) -> Method:
    """Give the method of this name.

    Raises:
        MethodError: there is none; the message has the closest.

    >>> find_method("mean").elementwise
    True
    """
    if name not in METHODS:
        close = get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise MethodError(f"no method {name!r}{hint} There are: {', '.join(METHODS)}")
    return METHODS[name]
