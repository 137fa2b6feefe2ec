"""What combining can build besides one network."""

from conjoin.modules.multi_head import MultiHead

__all__ = ["MultiHead"]
