"""Recurrences of other frameworks, in the order and with the settings that gradscope computes with."""
