"""Sums of products over a dimension: linear, matmul, einsum, bilinear, attention."""

from conjoin.symmetry.axes import ONE, Axes, Axis, Product, size_of_axis
from conjoin.symmetry.rules.elementwise import broadcast
from conjoin.symmetry.values import Call

__all__ = ["addmm", "attention", "bilinear", "distances", "einsum", "linear", "matmul"]


def linear(call: Call) -> list[Axes]:
    """``y[..., o] = sum_i x[..., i] w[o, i] + b[o]``."""
    x, weight = call.axes(0), call.axes(1)
    call.space.equate(x[-1], weight[-1])
    call.space.together(*x, *weight[:-1])
    out = weight[:-1]  # a weight of one dimension gives no output dimension
    if call.get(2, "bias") is not None:
        bias = call.get(2, "bias")
        call.space.equate(bias.whole(call.space)[0], out[0])
    return [(*x[:-1], *out)]


def matmul(call: Call) -> list[Axes]:
    """``y[..., i, j] = sum_k a[..., i, k] b[..., k, j]``, with NumPy's rules; mm and bmm too."""
    return [_product(call, call.axes(0), call.axes(1))]


def addmm(call: Call) -> list[Axes]:
    """``c + a @ b``; baddbmm too."""
    product = _product(call, call.axes(1), call.axes(2))
    return [broadcast(call, call.axes(0), product)]


def _product(call: Call, a: Axes, b: Axes) -> Axes:
    call.space.equate(a[-1], b[-2] if len(b) > 1 else b[-1])
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    front = broadcast(call, a[:-2], b[:-2])
    call.space.together(*front, *rows, a[-1], *columns)
    return (*front, *rows, *columns)


def einsum(call: Call) -> list[Axes]:
    """Equal letters are equal axes."""
    equation = str(call.args[0]).replace(" ", "")
    operands = [value.whole(call.space) for value in call.args[1]]
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    letters: dict[str, Axis] = {}
    dots: list[Axes] = []
    for term, axes in zip(terms, operands, strict=True):
        before, ellipsis, after = term.partition("...")
        middle = axes[len(before) : len(axes) - len(after)] if ellipsis else ()
        dots.append(middle)
        named = [*zip(before, axes, strict=False)]
        named += [*zip(after, axes[len(axes) - len(after) :], strict=True)] if after else []
        for letter, axis in named:
            if size_of_axis(axis) == 1:
                letters.setdefault(letter, ONE)
            elif size_of_axis(letters.get(letter, ONE)) == 1:
                letters[letter] = axis
            else:
                call.space.equate(letters[letter], axis)
    common = broadcast(call, *dots)
    call.space.together(*common, *letters.values())
    if not arrow:
        counts = [letter for letter in sorted(letters) if left.count(letter) == 1]
        right = ("..." if common else "") + "".join(counts)
    before, _, after = right.partition("...")
    shown = [letters[x] for x in before], [letters[x] for x in after]
    return [(*shown[0], *(common if "..." in right else ()), *shown[1])]


def bilinear(call: Call) -> list[Axes]:
    """``y[..., o] = sum_ij x[..., i] w[o, i, j] z[..., j] + b[o]``."""
    x, z, weight = call.axes(0), call.axes(1), call.axes(2)
    call.space.equate(x[-1], weight[1])
    call.space.equate(z[-1], weight[2])
    if call.get(3, "bias") is not None:
        call.space.equate(call.axes(3)[0], weight[0])
    front = broadcast(call, x[:-1], z[:-1])
    call.space.together(*front, *weight)
    return [(*front, weight[0])]


def distances(call: Call) -> list[Axes]:
    """``y[..., i, j] = |a[..., i, :] - b[..., j, :]|``: symmetric in the coordinates."""
    a, b = call.axes(0), call.axes(1)
    call.space.equate(a[-1], b[-1])
    front = broadcast(call, a[:-2], b[:-2])
    call.space.together(*front, a[-2], b[-2], a[-1])
    return [(*front, a[-2], b[-2])]


def attention(call: Call) -> list[Axes]:
    """``softmax(q k^T + mask) v``: q, k [..., L, E] and [..., S, E], v [..., S, V]."""
    q, k, v = call.axes(0), call.axes(1), call.axes(2)
    space = call.space
    space.equate(q[-1], k[-1])
    space.equate(k[-2], v[-2])
    grouped = bool(call.get(7, "enable_gqa", False))
    if grouped and size_of_axis(q[-3]) != size_of_axis(k[-3]):
        space.equate(k[-3], v[-3])
        repeats = size_of_axis(q[-3]) // size_of_axis(k[-3])
        space.equate(q[-3], Product((k[-3], space.atom(repeats))))
        front = (*broadcast(call, q[:-3], k[:-3], v[:-3]), q[-3])
    else:
        front = broadcast(call, q[:-2], k[:-2], v[:-2])
    mask = call.get(3, "attn_mask")
    if mask is not None:
        front = broadcast(call, (*front, q[-2], k[-2]), mask.whole(space))[:-2]
    if call.get(5, "is_causal", False):
        for axis in (q[-2], k[-2]):
            space.pin(axis, "a causal mask knows the order")
    for inner in ((), (q[-1],), (v[-1],)):  # scores, and what they and the result are sums of
        space.together(*front, q[-2], k[-2], *inner)
    return [(*front, q[-2], v[-1])]
