//! What is printed at the end.

use crate::{
    history::Check,
    world::{Books, Found},
};

/// Prints the verdict of each checker, with the first violations and what was broken meanwhile; whether there were none.
pub(crate) fn print(books: &Books) -> bool {
    let mut found = books.found();
    println!("\n{}", books.tally());
    for (check, about) in Check::ALL {
        let Some(Found { count, violations }) = found.get_mut(&check) else {
            println!("passed  {about}");
            continue;
        };
        // Those that took the shortest time tell most of what went on.
        violations.sort_by_key(|violation| (violation.end.since(violation.begin), violation.begin));
        println!("FAILED  {about}: {count} times");
        for violation in violations.iter().take(SHOWN) {
            println!("        {}", violation.text);
            let faults = books.faults_between(violation.begin, violation.end);
            if faults.is_empty() {
                println!("          meanwhile: {}", books.last_fault_before(violation.begin));
            }
            for fault in faults.iter().take(FAULTS_SHOWN) {
                println!("          meanwhile: {} ({} to {})", fault.what, fault.begin, fault.end);
            }
        }
        if violations.len() > SHOWN {
            println!("        and {} more like these", violations.len() - SHOWN);
        }
    }
    found.is_empty()
}

const SHOWN: usize = 3;

/// A violation that spans a whole round needs no list of all that happened in it.
const FAULTS_SHOWN: usize = 4;
