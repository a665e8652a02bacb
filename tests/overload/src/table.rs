//! The table: one line a row.

use serde::Serialize;

use crate::{
    finding::{Figure, Outcome, Verdict},
    rows::Row,
};

/// What came of a row, and when.
#[derive(Debug)]
pub(crate) struct Result {
    pub(crate) row: &'static Row,
    pub(crate) outcome: Outcome,
    pub(crate) began: String,
    pub(crate) seconds: f64,
    /// Whether other work was still much when it began.
    pub(crate) is_disturbed: bool,
}

/// The same as a line of the file has it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    row: &'static str,
    began: &'a str,
    seconds: f64,
    is_disturbed: bool,
    verdict: Verdict,
    load: &'a str,
    figures: &'a [Figure],
    /// Why it was not run, or how it broke.
    reason: Option<&'a str>,
}

impl Result {
    /// A JSON document, without the end of the line.
    pub(crate) fn json(&self) -> String {
        let (load, figures, reason) = match &self.outcome {
            Outcome::Found(finding) => (finding.load.as_str(), &finding.figures[..], None),
            Outcome::NotRun(reason) | Outcome::Broken(reason) => ("", &[][..], Some(reason.as_str())),
        };
        let line = Line {
            row: self.row.id,
            began: &self.began,
            seconds: self.seconds,
            is_disturbed: self.is_disturbed,
            verdict: self.outcome.verdict(),
            load,
            figures,
            reason,
        };
        serde_json::to_string(&line).expect("it has nothing that JSON has not")
    }
}

/// The whole table.
pub(crate) fn render(results: &[Result]) -> String {
    let mut text = "| row | load, as run here | expected | seen | verdict |\n".to_owned();
    text += "| --- | --- | --- | --- | --- |\n";
    for result in results {
        let (load, seen, verdict) = match &result.outcome {
            Outcome::Found(finding) => {
                let figures: Vec<_> = finding.figures.iter().map(Figure::text).collect();
                let met = result.outcome.verdict() == Verdict::Met;
                (finding.load.as_str(), figures.join("; "), if met { "met" } else { "**not met**" })
            }
            Outcome::NotRun(reason) => (result.row.load, reason.clone(), "not run here"),
            Outcome::Broken(reason) => (result.row.load, format!("broken off: {reason}"), "**not met**"),
        };
        let disturbed = if result.is_disturbed { " (other work beside it)" } else { "" };
        let (load, seen) = (cell(load), cell(&seen));
        text += &format!(
            "| {} | {load} | {} | {seen} | {verdict}{disturbed} |\n",
            result.row.id, result.row.expectation
        );
    }
    text
}

/// What goes into a cell: no line ends, and no bars.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{finding::Finding, rows::ROWS};

    fn result(outcome: Outcome) -> Result {
        Result { row: &ROWS[0], outcome, began: "now".to_owned(), seconds: 1.5, is_disturbed: false }
    }

    #[test]
    fn each_row_is_a_line() {
        let mut finding = Finding::of("18,000 clients");
        finding.at_most("memory", 2.0, "KiB", 5.0);
        finding.state("rate", 7.0, "/s");
        let mut disturbed = result(Outcome::Broken("it | fell\n  over".to_owned()));
        disturbed.is_disturbed = true;
        let results =
            [result(Outcome::Found(finding)), result(Outcome::NotRun("no disk".to_owned())), disturbed];
        let text = render(&results);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        let expectation = ROWS[0].expectation;
        assert_eq!(
            lines[2],
            format!("| O01 | 18,000 clients | {expectation} | memory 2 KiB (at most 5); rate 7 /s | met |")
        );
        assert!(lines[3].ends_with("| no disk | not run here |"), "{text}");
        assert!(
            lines[4].ends_with("| broken off: it / fell over | **not met** (other work beside it) |"),
            "{text}"
        );
    }

    #[test]
    fn each_row_is_a_json_document() {
        let mut finding = Finding::of("a");
        finding.exactly("lost", 1.0, "", 0.0);
        let json: serde_json::Value = serde_json::from_str(&result(Outcome::Found(finding)).json()).unwrap();
        assert_eq!((&json["row"], &json["verdict"]), (&"O01".into(), &"not met".into()));
        assert_eq!(json["figures"][0]["exactly"], 0.0);
        let json: serde_json::Value =
            serde_json::from_str(&result(Outcome::NotRun("why".to_owned())).json()).unwrap();
        assert_eq!((&json["reason"], &json["verdict"]), (&"why".into(), &"not run here".into()));
    }
}
