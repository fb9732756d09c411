"""Local gradient descent: the networks, one client's steps, and those of many clients at once."""

from fedlab.gradient.descent import Descent
from fedlab.gradient.networks import CNN, Hidden, Linear, Network
from fedlab.gradient.stacked import Stacked

__all__ = ["CNN", "Descent", "Hidden", "Linear", "Network", "Stacked"]
