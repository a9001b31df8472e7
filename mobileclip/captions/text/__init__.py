"""Captions as texts: cleaned, described by rules, measured."""
