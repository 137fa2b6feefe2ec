"""The continuum: networks coupled at every strength from 0 to infinity, trained and measured."""

from conjoin.sweeping.points import (
    STRENGTHS,
    Point,
    Profile,
    find_profile,
    points_of,
    profile_info,
    profiles_for,
)
from conjoin.sweeping.search import Found, find_strength
from conjoin.sweeping.sweep import continuum

__all__ = [
    "STRENGTHS",
    "Found",
    "Point",
    "Profile",
    "continuum",
    "find_profile",
    "find_strength",
    "points_of",
    "profile_info",
    "profiles_for",
]
