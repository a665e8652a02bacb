//! Patterns of names: `*` stands for anything, also for nothing.

/// Whether a pattern fits the whole of a name.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<_> = tail.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    // The first place that fits leaves most for the parts behind it.
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

/// Whether one of several fits.
pub(crate) fn any_fits(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_anything() {
        let check = |pattern, name, expected| assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        check("idle", "idle", true);
        check("idle", "idle-subscribed", false);
        check("idle*", "idle", true);
        check("idle*", "idle-subscribed", true);
        check("*-q1", "pairs-w64-q1", true);
        check("*-q1", "pairs-w64-q0", false);
        check("pairs-*-q0", "pairs-w1-q0", true);
        check("*w*q*", "pairs-w1-q0", true);
        check("*q*w*", "pairs-w1-q0", false);
        check("ab*ba", "aba", false);
        check("*", "", true);
        check("", "a", false);
    }
}
