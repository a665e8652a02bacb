//! Retained messages that are the same on every node. Pure.
