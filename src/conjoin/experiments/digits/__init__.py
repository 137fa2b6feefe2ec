"""The thread's experiment: two networks for two kinds of digits, and one network out of both."""

from conjoin.experiments.digits.network import DigitNet, new_network
from conjoin.experiments.digits.run import Options, run_digits

__all__ = ["DigitNet", "Options", "new_network", "run_digits"]
