//! Ordered streams of frames between two nodes that neither lose nor repeat. Pure.
