//! Numbers of several runs, and how they are written.

/// The middle one, or the mean of the two in the middle; `None`: there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[half]),
        _ => Some(f64::midpoint(values[half - 1], values[half])),
    }
}

/// How many times the reference it is; `None` where that says nothing, as of a memory that has not grown.
pub fn ratio(value: f64, reference: f64) -> Option<f64> {
    (reference > 0.0 && value >= 0.0).then(|| value / reference)
}

/// With three digits at least, and its thousands set apart.
pub fn short(value: f64) -> String {
    let decimals = match value.abs() {
        size if size == 0.0 || size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    separated(&format!("{value:.decimals$}"))
}

/// A whole number with its thousands set apart.
pub fn grouped(count: u64) -> String {
    separated(&count.to_string())
}

fn separated(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut grouped = sign.to_owned();
    for (index, digit) in whole.char_indices() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let check = |values: &[f64], expected| assert_eq!(median(values.iter().copied()), expected);
        check(&[], None);
        check(&[7.0], Some(7.0));
        check(&[9.0, 1.0], Some(5.0));
        check(&[9.0, 1.0, 2.0], Some(2.0));
        check(&[4.0, -1.0, 2.0, 100.0], Some(3.0));
    }

    #[test]
    fn a_ratio_needs_a_reference() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(ratio(0.0, 2.0), Some(0.0));
        assert_eq!((ratio(3.0, 0.0), ratio(3.0, -1.0), ratio(-3.0, 2.0)), (None, None, None));
    }

    #[test]
    fn numbers_have_three_digits_and_thousands() {
        let check = |value, expected| assert_eq!(short(value), expected);
        check(0.0, "0");
        check(0.683, "0.68");
        check(9.996, "10.0");
        check(24.24, "24.2");
        check(99.96, "100");
        check(1_234_567.8, "1,234,568");
        check(-4_096.0, "-4,096");
        assert_eq!([0, 999, 17_000].map(grouped), ["0", "999", "17,000"]);
    }
}
