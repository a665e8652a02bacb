//! The command line clients: `flotilla pub` and `flotilla sub`.
