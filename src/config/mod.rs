//! Configuration: one TOML file, the environment, `--set`.
