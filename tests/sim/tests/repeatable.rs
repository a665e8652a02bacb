//! The same seed gives the same run, in another process, too. Without that a failure could not be looked at.

use std::process::Command;

fn run(seed: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let output = Command::new(env!("CARGO_BIN_EXE_flotilla-sim")).arg(seed).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[test]
fn a_seed_gives_the_same_run_twice() -> Result<(), Box<dyn std::error::Error>> {
    let (first, second) = (run("1")?, run("1")?);
    assert!(!first.is_empty());
    assert_eq!(String::from_utf8_lossy(&first), String::from_utf8_lossy(&second));
    Ok(())
}
