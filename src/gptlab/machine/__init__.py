"""The machine: devices, processes, memory, drives."""
