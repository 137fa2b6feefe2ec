"""The continuum: networks coupled at every strength from 0 to infinity, trained and measured."""

from conjoin.sweeping.points import STRENGTHS, Point, Profile, points_of, profiles_for

__all__ = ["STRENGTHS", "Point", "Profile", "points_of", "profiles_for"]
