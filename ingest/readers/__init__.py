"""Readers: one file per format family; `registry` maps a content type to its reader."""
