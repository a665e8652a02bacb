//! What a row has found, and whether that is what was expected.

use flotilla_compare::figure::short;
use serde::Serialize;

/// What came of a row.
#[derive(Debug)]
pub(crate) enum Outcome {
    Found(Finding),
    /// It is not for this machine, or for this broker: why.
    NotRun(String),
    /// It could not be brought to its end: why. That is never what was expected.
    Broken(String),
}

/// The load as it was run here, and what was seen.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) load: String,
    pub(crate) figures: Vec<Figure>,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    pub(crate) bound: Bound,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
    /// Nothing: it is stated.
    #[serde(rename = "stated")]
    None,
}

/// What the table says of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Verdict {
    #[serde(rename = "met")]
    Met,
    #[serde(rename = "not met")]
    NotMet,
    #[serde(rename = "not run here")]
    NotRun,
}

impl Finding {
    /// Nothing yet, of a load that is described as it runs here.
    pub(crate) fn of(load: impl Into<String>) -> Self {
        Self { load: load.into(), figures: Vec::new() }
    }

    pub(crate) fn at_most(&mut self, what: impl Into<String>, value: f64, unit: &'static str, limit: f64) {
        self.add(what, value, unit, Bound::AtMost(limit));
    }

    pub(crate) fn at_least(&mut self, what: impl Into<String>, value: f64, unit: &'static str, limit: f64) {
        self.add(what, value, unit, Bound::AtLeast(limit));
    }

    pub(crate) fn exactly(&mut self, what: impl Into<String>, value: f64, unit: &'static str, expected: f64) {
        self.add(what, value, unit, Bound::Exactly(expected));
    }

    /// Something that is to be so.
    pub(crate) fn holds(&mut self, what: impl Into<String>, is_so: bool) {
        self.add(what, f64::from(u8::from(is_so)), YES_OR_NO, Bound::Exactly(1.0));
    }

    /// A figure that is good whatever it is.
    pub(crate) fn state(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.add(what, value, unit, Bound::None);
    }

    fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str, bound: Bound) {
        self.figures.push(Figure { what: what.into(), value, unit, bound });
    }
}

impl Figure {
    /// What is no number is not what was expected.
    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(limit) => self.value <= limit,
            Bound::AtLeast(limit) => self.value >= limit,
            Bound::Exactly(expected) => self.value == expected,
            Bound::None => !self.value.is_nan(),
        }
    }

    /// As the table has it.
    pub(crate) fn text(&self) -> String {
        if self.unit == YES_OR_NO {
            let Self { what, .. } = self;
            return if self.is_met() { format!("{what}: yes") } else { format!("**{what}: no**") };
        }
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let bound = match self.bound {
            Bound::AtMost(limit) => format!(" (at most {})", number(limit)),
            Bound::AtLeast(limit) => format!(" (at least {})", number(limit)),
            Bound::Exactly(expected) => format!(" (of {})", number(expected)),
            Bound::None => String::new(),
        };
        let text = format!("{} {}{unit}{bound}", self.what, number(self.value));
        if self.is_met() { text } else { format!("**{text}**") }
    }
}

impl Outcome {
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Found(finding) if finding.figures.iter().all(Figure::is_met) => Verdict::Met,
            Self::Found(_) | Self::Broken(_) => Verdict::NotMet,
            Self::NotRun(_) => Verdict::NotRun,
        }
    }
}

/// With three digits at least, but for what is whole.
fn number(value: f64) -> String {
    let text = short(value);
    if value.fract() != 0.0 {
        return text;
    }
    text.split('.').next().unwrap_or_default().to_owned()
}

/// The unit of what is so (1) or is not (0).
const YES_OR_NO: &str = "yes or no";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bound: Bound, value: f64, expected: bool) {
        let figure = Figure { what: "x".to_owned(), value, unit: "ms", bound };
        assert_eq!(figure.is_met(), expected, "{figure:?}");
        let outcome = Outcome::Found(Finding { load: String::new(), figures: vec![figure] });
        let verdict = if expected { Verdict::Met } else { Verdict::NotMet };
        assert_eq!(outcome.verdict(), verdict);
    }

    #[test]
    fn a_figure_is_held_against_its_bound() {
        check(Bound::AtMost(5.0), 5.0, true);
        check(Bound::AtMost(5.0), 5.1, false);
        check(Bound::AtMost(5.0), f64::NAN, false);
        check(Bound::AtLeast(5.0), 5.0, true);
        check(Bound::AtLeast(5.0), 4.9, false);
        check(Bound::Exactly(5.0), 5.0, true);
        check(Bound::Exactly(5.0), 6.0, false);
        check(Bound::None, 1e9, true);
        check(Bound::None, f64::NAN, false);
    }

    #[test]
    fn one_figure_that_is_not_met_is_enough() {
        let mut finding = Finding::of("a load");
        finding.at_most("p99", 3.0, "ms", 5.0);
        finding.state("rate", 1.0, "/s");
        assert_eq!(finding.figures.iter().filter(|figure| figure.is_met()).count(), 2);
        finding.exactly("lost", 1.0, "", 0.0);
        assert_eq!(Outcome::Found(finding).verdict(), Verdict::NotMet);
        assert_eq!(Outcome::Broken(String::new()).verdict(), Verdict::NotMet);
        assert_eq!(Outcome::NotRun(String::new()).verdict(), Verdict::NotRun);
    }

    #[test]
    fn figures_have_words_and_keys() {
        let figure = Figure { what: "p99".to_owned(), value: 1_234.5, unit: "ms", bound: Bound::AtMost(2.0) };
        assert_eq!(figure.text(), "**p99 1,234 ms (at most 2)**");
        let json = serde_json::to_value(&figure).unwrap();
        assert_eq!(json, serde_json::json!({"what": "p99", "value": 1_234.5, "unit": "ms", "at_most": 2.0}));
        let mut finding = Finding::of("a");
        finding.holds("it stays", true);
        finding.holds("it goes", false);
        finding.at_least("share", 0.5, "", 0.25);
        let texts: Vec<_> = finding.figures.iter().map(Figure::text).collect();
        assert_eq!(texts, ["it stays: yes", "**it goes: no**", "share 0.50 (at least 0.25)"]);
        let stated = Figure { what: "lost".to_owned(), value: 0.0, unit: "", bound: Bound::None };
        assert_eq!(stated.text(), "lost 0");
    }
}
