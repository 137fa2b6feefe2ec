"""What combining can build besides one network."""

from conjoin.modules.multi_head import MultiHead
from conjoin.modules.routed_networks import RoutedNetworks, Rule, first_layer, pooled_outputs
from conjoin.modules.task_networks import TaskNetworks, share_parameters

__all__ = [
    "MultiHead",
    "RoutedNetworks",
    "Rule",
    "TaskNetworks",
    "first_layer",
    "pooled_outputs",
    "share_parameters",
]
