//! What the tests and the sources say they are about: clauses must exist, and every row of the bad-input table that
//! concerns TCP must have a test.

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn cited_clauses_exist() {
    let clauses: BTreeSet<&str> =
        include_str!("clauses-5.0.txt").lines().filter(|line| line.starts_with("MQTT-")).collect();
    assert_eq!(clauses.len(), 251, "the list is whole");
    let mut wrong = Vec::new();
    let mut cited = 0;
    for directory in ["src", "proto", "cluster", "tests", "xtask"] {
        visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut |path, text| {
            for (number, line) in (1..).zip(text.lines()) {
                for clause in citations(line) {
                    cited += 1;
                    if !clauses.contains(clause) {
                        wrong.push(format!("{}:{number}: [{clause}]", path.display()));
                    }
                }
            }
        });
    }
    assert!(cited > 0, "clauses are cited");
    assert!(wrong.is_empty(), "no such clauses in MQTT 5.0:\n{}", wrong.join("\n"));
}

#[test]
fn every_row_has_a_test() {
    let mut sources = String::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), &mut |_, text| sources += text);
    let tests: Vec<&str> = sources.lines().filter_map(|line| line.strip_prefix("fn b")).collect();
    let has_test = |row: &u32| tests.iter().any(|test| format!("_b{test}").contains(&format!("_b{row:02}_")));
    let missing: Vec<u32> = (1..=71).filter(|row| !has_test(row)).collect();
    assert!(missing.is_empty(), "no test for rows {missing:?}");
}

/// Clauses in brackets. Those of 3.1.1 are written without: `(v3.1.1: MQTT-3.1.4-2)`.
fn citations(line: &str) -> impl Iterator<Item = &str> {
    let parts = line.split('[').skip(1).filter_map(|part| part.split_once(']'));
    parts.map(|(clause, _)| clause).filter(|clause| clause.starts_with("MQTT-"))
}

#[test]
fn citations_are_found() {
    let line = "// Never zero [MQTT-2.2.1-3], not [even] here [MQTT-9.9.9-9] (v3.1.1: MQTT-2.3.1-1).";
    assert_eq!(citations(line).collect::<Vec<_>>(), ["MQTT-2.2.1-3", "MQTT-9.9.9-9"]);
}

fn visit(directory: &Path, each: &mut impl FnMut(&Path, &str)) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("a directory of the sources is readable").path();
        if path.is_dir() && !path.ends_with("target") {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("clauses.rs")
        {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            each(&path, &text);
        }
    }
}
