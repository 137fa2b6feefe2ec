"""LSTM, GRU and plain recurrent layers."""

import torch
from symmetry_toys import Case, parameter
from torch import Tensor, nn


def inputs() -> Tensor:
    return torch.randn(3, 5, 4)  # batch, time, features


def _net(layer: nn.Module, outer: int):
    return {"l": layer, "f": nn.Linear(outer, 2)}


def _outputs(m, x):
    return m.f(m.l(x)[0])


def _cell(number: int = 0, *, reverse: bool = False) -> str:
    """Name where the units of a layer and direction are, inside of it."""
    end = f"_l{number}" + ("_reverse" if reverse else "")
    weights = f"l.weight_ih{end}:0 l.weight_hh{end}:0 l.weight_hh{end}:1"
    return f"{weights} l.bias_ih{end}:0 l.bias_hh{end}:0"


def _given(m, x):
    state = m.h.expand(1, len(x), 6).contiguous(), m.c.expand(1, len(x), 6).contiguous()
    return m.f(m.l(x, state)[0])


def _given_projected(m, x):
    state = m.h.expand(1, len(x), 4).contiguous(), m.c.expand(1, len(x), 6).contiguous()
    y, (h, c) = m.l(x, state)
    return m.f(y) + m.e(c[0])[:, None] + m.f(h[0])[:, None]


ONE = (f"6: {_cell()} f.weight:1",)

CASES = {
    "lstm": Case(_outputs, lambda: _net(nn.LSTM(4, 6, batch_first=True), 6), ONE),
    "gru": Case(_outputs, lambda: _net(nn.GRU(4, 6, batch_first=True), 6), ONE),
    "rnn_tanh": Case(_outputs, lambda: _net(nn.RNN(4, 6, batch_first=True), 6), ONE),
    "rnn_relu": Case(
        _outputs, lambda: _net(nn.RNN(4, 6, batch_first=True, nonlinearity="relu"), 6), ONE
    ),
    "no_bias": Case(
        _outputs,
        lambda: _net(nn.LSTM(4, 6, batch_first=True, bias=False), 6),
        ("6: l.weight_ih_l0:0 l.weight_hh_l0:0 l.weight_hh_l0:1 f.weight:1",),
    ),
    "time_first": Case(
        lambda m, x: m.f(m.l(x.transpose(0, 1))[0]).transpose(0, 1),
        lambda: _net(nn.GRU(4, 6), 6),
        ONE,
    ),
    "two_layers": Case(
        _outputs,
        lambda: _net(nn.GRU(4, 6, 2, batch_first=True), 6),
        (f"6: {_cell(0)} l.weight_ih_l1:1", f"6: {_cell(1)} f.weight:1"),
    ),
    "both_directions": Case(
        _outputs,
        lambda: _net(nn.LSTM(4, 6, batch_first=True, bidirectional=True), 12),
        (f"6: {_cell()} f.weight:1", f"6: {_cell(reverse=True)} f.weight:1"),
    ),
    "both_directions_two_layers": Case(
        lambda m, x: m.f(m.l(x)[1][-1]),  # the last state of the backward direction of layer 1
        lambda: _net(nn.GRU(4, 6, 2, batch_first=True, bidirectional=True), 6),
        (
            f"6: {_cell(0)} l.weight_ih_l1:1 l.weight_ih_l1_reverse:1",
            f"6: {_cell(0, reverse=True)} l.weight_ih_l1:1 l.weight_ih_l1_reverse:1",
            f"6: {_cell(1)}",
            f"6: {_cell(1, reverse=True)} f.weight:1",
        ),
    ),
    "projected": Case(
        lambda m, x: m.f(m.l(x)[0]) + m.e(m.l(x)[1][1][0])[:, None],
        lambda: _net(nn.LSTM(4, 6, proj_size=4, batch_first=True), 4) | {"e": nn.Linear(6, 2)},
        (
            "6: l.weight_ih_l0:0 l.weight_hh_l0:0 l.bias_ih_l0:0 l.bias_hh_l0:0 l.weight_hr_l0:1 "
            "e.weight:1",
            "4: l.weight_hh_l0:1 l.weight_hr_l0:0 f.weight:1",
        ),
    ),
    "given_states": Case(
        _given,
        lambda: (
            _net(nn.LSTM(4, 6, batch_first=True), 6)
            | {"h": parameter(1, 1, 6), "c": parameter(1, 1, 6)}
        ),
        (f"6: {_cell()} f.weight:1 h:2 c:2",),
    ),
    "given_states_projected": Case(
        _given_projected,
        lambda: (
            _net(nn.LSTM(4, 6, proj_size=4, batch_first=True), 4)
            | {"e": nn.Linear(6, 2), "h": parameter(1, 1, 4), "c": parameter(1, 1, 6)}
        ),
        (
            "6: l.weight_ih_l0:0 l.weight_hh_l0:0 l.bias_ih_l0:0 l.bias_hh_l0:0 l.weight_hr_l0:1 "
            "e.weight:1 c:2",
            "4: l.weight_hh_l0:1 l.weight_hr_l0:0 f.weight:1 h:2",
        ),
    ),
    "states_of_all_layers_as_one": Case(  # one dimension for both: they move alike
        lambda m, x: m.f(m.l(x)[1].sum(0)),
        lambda: _net(nn.GRU(4, 6, 2, batch_first=True), 6),
        (f"6: {_cell(0)} {_cell(1)} l.weight_ih_l1:1 f.weight:1",),
    ),
    "states_of_all_layers_weighed": Case(
        lambda m, x: m.f(m.l(x)[1].permute(1, 2, 0)).sum(1),
        lambda: _net(nn.GRU(4, 6, 2, batch_first=True), 2),
        (f"6: {_cell(0)} {_cell(1)} l.weight_ih_l1:1",),
    ),
    "learned_time": Case(
        lambda m, x: m.f(m.l(m.p[None].expand(len(x), 7, 4))[0].mean(1)) + x.mean(),
        lambda: _net(nn.GRU(4, 6, batch_first=True), 6) | {"p": parameter(7, 4)},
        (*ONE, "4: p:1 l.weight_ih_l0:1"),
    ),
    "state_from_outside": Case(  # an input says which unit is which
        lambda m, x: m.f(m.l(x, torch.cat([x, x], 2)[None, :, 0, :6].contiguous())[0]),
        lambda: _net(nn.GRU(4, 6, batch_first=True), 6),
        (),
    ),
    "cells_step_by_step": Case(
        lambda m, x: m.f(m.l(x[:, 1], m.l(x[:, 0]))),
        lambda: _net(nn.GRUCell(4, 6), 6),
        ("6: l.weight_ih:0 l.weight_hh:0 l.weight_hh:1 l.bias_ih:0 l.bias_hh:0 f.weight:1",),
    ),
}
