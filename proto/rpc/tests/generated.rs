//! The committed code in `src/generated` is what the `.proto` files say.
//!
//! `UPDATE=1 cargo test -p flotilla-rpc` writes it anew.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

#[test]
fn committed_code_is_what_the_proto_files_say() -> TestResult {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/generated");
    let fresh = tempfile::tempdir()?;
    generate(&root.join("proto"), fresh.path())?;

    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        for (name, text) in sources(fresh.path())? {
            fs::write(committed.join(name), text)?;
        }
    }
    assert!(
        sources(&committed)? == sources(fresh.path())?,
        "src/generated is not what the .proto files say: run `UPDATE=1 cargo test -p flotilla-rpc`, and remove what has no .proto file any more"
    );
    Ok(())
}

/// Generates the code of every `.proto` file of the folder `protos`. No `protoc` is needed.
fn generate(protos: &Path, out: &Path) -> TestResult {
    let mut files: Vec<PathBuf> =
        fs::read_dir(protos)?.map(|entry| Ok(entry?.path())).collect::<TestResult<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    let descriptors = protox::compile(&files, [protos])?;
    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .compile_fds(descriptors)?;
    Ok(())
}

/// The Rust files of a folder and their text.
fn sources(folder: &Path) -> TestResult<BTreeMap<OsString, String>> {
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            sources.insert(entry.file_name(), fs::read_to_string(entry.path())?);
        }
    }
    Ok(sources)
}
