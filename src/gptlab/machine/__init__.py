"""Devices, processes, memory and drives."""
