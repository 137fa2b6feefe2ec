"""LSTM, GRU and plain recurrent layers, kept as one operation."""

from conjoin.symmetry.axes import Axes, Axis, Sum, size_of_axis
from conjoin.symmetry.values import Call, Value

__all__ = ["recurrent"]


def recurrent(call: Call) -> list[Axes | Value]:
    """``lstm(x, [h, c], weights, has_biases, layers, dropout, train, bidirectional, batch_first)``.

    The gates of a layer (4 of an LSTM, 3 of a GRU, 1 else) are one after another, each with the
    hidden units of that layer and direction, which move together.
    """
    x: Value = call.args[0]
    space = call.space
    states: list[Value] = (
        list(call.args[1]) if isinstance(call.args[1], list | tuple) else [call.args[1]]
    )
    weights = [value.whole(space) for value in call.args[2]]
    has_biases, layers, bidirectional = call.args[3], call.args[4], call.args[7]
    batch_first = call.args[8] if len(call.args) > 8 else False
    gates = {"lstm": 4, "gru": 3}.get(call.name.removeprefix("aten."), 1)
    directions = 2 if bidirectional else 1
    hidden_sizes = [size_of_axis(s.axes[-1]) for s in states]
    projected = gates == 4 and len(set(hidden_sizes)) > 1
    per_cell = (4 if has_biases else 2) + (1 if projected else 0)
    axes = x.whole(space)
    below: Axis = axes[-1]
    ends: list[Axis] = []  # of the output of each layer and direction
    cells: list[Axis] = []  # of the units inside: the same, unless the output is projected
    for layer in range(layers):
        outputs: list[Axis] = []
        for direction in range(directions):
            at = (layer * directions + direction) * per_cell
            cell = weights[at : at + per_cell]
            hidden = space.atom(size_of_axis(cell[0][0]) // gates)
            output = space.atom(size_of_axis(cell[1][1])) if projected else hidden
            for number, one in enumerate(cell[: 4 if has_biases else 2]):
                space.equate(one[0], Sum((hidden,) * gates) if gates > 1 else hidden)
                if number == 0:
                    space.equate(one[1], below)
                elif number == 1:
                    space.equate(one[1], output)
            if projected:
                space.equate(cell[-1][0], output)
                space.equate(cell[-1][1], hidden)
            outputs.append(output)
            ends.append(output)
            cells.append(hidden)
        below = outputs[0] if directions == 1 else Sum(tuple(outputs))
    # A state that is given holds the units of every layer and direction in one dimension.
    for number, value in enumerate(states):
        if value.source != "uniform":
            space.equate_all([value.whole(space)[-1], *(cells if number else ends)])
    time = axes[1] if batch_first and len(axes) == 3 else axes[0]
    space.pin(time, "its order is time")
    batch = () if len(axes) == 2 else (axes[0] if batch_first else axes[1],)
    results: list[Axes | Value] = [(*axes[:-1], below)]
    for number, shape in enumerate(call.shapes[1:]):
        # One position of the first dimension is the end of one layer and direction.
        first = space.pinned_atom(shape[0], "layers of a recurrent network")
        slices = tuple((*batch, end) for end in (cells if number else ends))
        whole = (first, *batch, space.atom(shape[-1]))
        results.append(Value(whole, "learned", slices, 0))
    return results
