//! Where the program under test is, and where its files may be.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// What a test must know of the machine.
#[derive(Debug)]
pub(crate) struct Place {
    /// The broker's program.
    pub(crate) program: PathBuf,
    /// A directory for what the nodes keep.
    pub(crate) scratch: PathBuf,
}

/// The place: what [`set_place`] said, else what cargo tells the tests that it builds along with the program.
pub(crate) fn place() -> &'static Place {
    PLACE.get_or_init(|| {
        let told = option_env!("CARGO_BIN_EXE_flotilla").zip(option_env!("CARGO_TARGET_TMPDIR"));
        let (program, scratch) = told.expect("who is no test of the broker's own crate has said where it is");
        Place { program: Path::new(program).to_owned(), scratch: Path::new(scratch).to_owned() }
    })
}

/// Says where things are, before anybody has asked.
#[allow(dead_code, reason = "cargo has told the tests")]
pub(crate) fn set_place(place: Place) {
    PLACE.set(place).expect("it is said once, at the beginning");
}

static PLACE: OnceLock<Place> = OnceLock::new();
