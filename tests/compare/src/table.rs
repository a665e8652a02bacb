//! Runs as a Markdown table.

use crate::{
    disturbance::Tolerance,
    figure::{ratio, short},
    result::{Cell, Run},
    scenario::Scenario,
};

/// A load and those who take part in it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) scenario: &'static Scenario,
    pub(crate) title: String,
    /// By name, in the order of the columns. The first one is what the others are compared with.
    pub(crate) brokers: Vec<String>,
}

/// The table, with notes below it. `brokers`: the columns.
pub(crate) fn render(rows: &[Row], brokers: &[String], runs: &[Run], tolerance: &Tolerance) -> String {
    let mut lines = vec![
        format!("| load | figure | {} |", brokers.join(" | ")),
        format!("| --- | --- |{}", " ---: |".repeat(brokers.len())),
    ];
    let mut notes = Vec::new();
    for row in rows {
        let cells: Vec<_> =
            brokers.iter().map(|broker| Cell::of(runs, row.scenario, broker, tolerance)).collect();
        if cells.iter().all(Cell::is_empty) {
            continue;
        }
        let marks: Vec<_> = cells.iter().map(|cell| mark(cell, &mut notes)).collect();
        let reference = row.brokers.first().and_then(|name| brokers.iter().position(|broker| broker == name));
        for (index, figure) in row.scenario.figures.iter().enumerate() {
            let medians: Vec<_> = cells.iter().map(|cell| cell.median(figure)).collect();
            let texts = medians.iter().enumerate().map(|(column, median)| {
                let reference = reference.filter(|reference| *reference != column);
                let mut text = value(*median, reference.and_then(|column| medians[column]), &cells[column]);
                // A note is about the whole load; said once is enough.
                if index == 0 {
                    text += &marks[column];
                }
                text
            });
            let title = if index == 0 { row.title.as_str() } else { "" };
            lines.push(format!("| {title} | {} | {} |", figure.title, texts.collect::<Vec<_>>().join(" | ")));
        }
    }
    if !notes.is_empty() {
        lines.push(String::new());
    }
    lines.extend(notes.iter().enumerate().map(|(index, note)| format!("{}. {note}", index + 1)));
    lines.join("\n") + "\n"
}

/// A number and how it compares.
fn value(median: Option<f64>, reference: Option<f64>, cell: &Cell<'_>) -> String {
    match median {
        Some(median) => {
            let ratio = reference.and_then(|reference| ratio(median, reference));
            let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({}x)", short(ratio)));
            short(median) + &ratio
        }
        None if cell.is_empty() => "-".to_owned(),
        None if cell.failures().is_some() => "failed".to_owned(),
        None => "?".to_owned(),
    }
}

/// Adds what a reader must know of a cell to the notes, each once; the mark that leads there.
fn mark(cell: &Cell<'_>, notes: &mut Vec<String>) -> String {
    let mut numbers = Vec::new();
    for remark in cell.remarks() {
        // What a log or a broker says is no Markdown.
        let remark = remark.replace(['\n', '|', '`', '<', '>'], " ");
        let index = notes.iter().position(|note| *note == remark).unwrap_or_else(|| {
            notes.push(remark);
            notes.len() - 1
        });
        numbers.push((index + 1).to_string());
    }
    if numbers.is_empty() { String::new() } else { format!(" [{}]", numbers.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        result::tests::{TOLERANCE, run},
        scenario::SCENARIOS,
    };

    fn rows(brokers: &[&str]) -> Vec<Row> {
        let brokers = brokers.iter().map(|broker| (*broker).to_owned()).collect();
        vec![Row { scenario: &SCENARIOS[0], title: "50 pairs".to_owned(), brokers }]
    }

    fn table(taking_part: &[&str], runs: &[Run]) -> String {
        let columns = ["a", "b", "c"].map(str::to_owned);
        render(&rows(taking_part), &columns, runs, &TOLERANCE)
    }

    #[test]
    fn each_broker_is_compared_with_the_first() {
        let runs = [run("a", 1_000.0, 0.0, None), run("b", 2_500.0, 0.0, None)];
        let expected = "\
            | load | figure | a | b | c |\n\
            | --- | --- | ---: | ---: | ---: |\n\
            | 50 pairs | messages/s | 1,000 | 2,500 (2.50x) | - |\n\
            |  | broker CPU µs/message | 10.0 | 10.0 (1.00x) | - |\n";
        assert_eq!(table(&["a", "b"], &runs), expected);
        assert!(table(&["b", "a"], &runs).contains("| 1,000 (0.40x) | 2,500 | - |"));
    }

    #[test]
    fn a_load_that_nobody_ran_is_left_out() {
        assert_eq!(table(&["a"], &[]).lines().count(), 2);
    }

    #[test]
    fn a_failure_is_in_the_table_and_its_words_are_below() {
        let runs = [run("a", 1.0, 0.0, Some("lost | gone\n  log")), run("b", 2_500.0, 0.0, None)];
        let text = table(&["a", "b"], &runs);
        assert!(text.contains("| failed [1] | 2,500 | - |"), "{text}");
        assert!(text.contains("| failed | 10.0 | - |"), "{text}");
        assert!(text.ends_with("\n\n1. 1 of 1 runs failed: lost   gone   log\n"), "{text}");
    }

    #[test]
    fn what_is_to_be_said_of_several_is_said_once() {
        let runs =
            [run("a", 1.0, 0.5, None), run("b", 2_500.0, 0.4, Some("gone")), run("b", 2_500.0, 0.3, None)];
        let text = table(&["a", "b"], &runs);
        assert!(text.contains("| 1.00 [1] | 2,500 (2,500x) [2, 1] | - |"), "{text}");
        let notes = "\n\n1. disturbed by other work\n2. 1 of 2 runs failed: gone\n";
        assert!(text.ends_with(notes), "{text}");
    }
}
