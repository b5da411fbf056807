"""Exports of the network for other software, kept on disk by what they were made from."""
