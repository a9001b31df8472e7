"""The whole journey from one recipe: named journeys, their steps as command lines, the run that skips what is done."""
