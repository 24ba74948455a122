"""Engines: whatever turns windows into scores and offsets, behind one small protocol."""
