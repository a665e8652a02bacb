//! The small key-value store of a node: its port, sled behind it, and an in-memory twin with faults.
