"""What combining can build besides one network."""

from conjoin.modules.multi_head import MultiHead
from conjoin.modules.task_networks import TaskNetworks, share_parameters

__all__ = ["MultiHead", "TaskNetworks", "share_parameters"]
