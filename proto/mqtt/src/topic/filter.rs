//! Topic filters and the matching rules.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use super::{
    TopicError, TopicFault,
    name::{check_length, check_levels},
};

/// A Topic Filter, maybe of a shared subscription: `$share/<group>/<filter>` or `$queue/<filter>`.
///
/// Two filters are equal when their whole texts are: `a`, `$queue/a` and `$share/g/a` are three subscriptions.
#[derive(Clone)]
pub struct TopicFilter {
    text: Box<str>,
    /// Where the filter starts behind the share prefix; 0 without one.
    filter_start: u16,
    wildcard: bool,
}

impl TopicFilter {
    /// Checks a filter that a client sent.
    ///
    /// # Errors
    /// The text, or the filter behind its share prefix, breaks a rule of section 4.7 or 4.8.2, or has more than
    /// `max_levels` levels.
    pub fn parse(text: &str, max_levels: u16) -> Result<Self, TopicError> {
        let (filter_start, wildcard) = check(text, max_levels).map_err(TopicError::Filter)?;
        Ok(Self { text: text.into(), filter_start, wildcard })
    }

    /// The whole text, as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The filter without the share prefix: what topic names are matched against.
    pub fn filter(&self) -> &str {
        &self.text[usize::from(self.filter_start)..]
    }

    /// The group of a shared subscription: its ShareName, or `$queue/` for `$queue/<filter>`.
    ///
    /// A ShareName has no `/`, so that no `$share/...` can join or observe the group of `$queue/...`.
    pub fn share_group(&self) -> Option<&str> {
        let prefix = self.text.get(..usize::from(self.filter_start)).filter(|prefix| !prefix.is_empty())?;
        Some(prefix.strip_prefix(SHARE).and_then(|name| name.strip_suffix('/')).unwrap_or(prefix))
    }

    /// Whether this is a shared subscription.
    pub fn is_shared(&self) -> bool {
        self.filter_start > 0
    }

    /// Whether there is a `+` or `#` in the filter.
    pub fn has_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether a topic name matches the filter (without its share prefix).
    pub fn matches(&self, name: &str) -> bool {
        matches(self.filter(), name)
    }
}

// Sessions keep many of them.
const _: () = assert!(size_of::<TopicFilter>() <= 24);

/// Whether `filter`, which has no share prefix, matches `name`.
///
/// This is the specification's rule word by word, in one pass over both; they must be valid.
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false; // [MQTT-4.7.2-1]
    }
    let mut levels = name.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true, // Also when no level is left: the parent is included.
            ("+", Some(_)) => {}     // Also an empty level.
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Checks a filter; returns where it starts behind the share prefix, and whether it has a wildcard.
fn check(text: &str, max_levels: u16) -> Result<(u16, bool), TopicFault> {
    check_length(text)?;
    let filter_start = share_prefix(text)?;
    let filter = &text[filter_start..];
    if filter_start > 0 {
        if filter.is_empty() {
            return Err(TopicFault::Share);
        }
        // Such a filter would have to match topics that nobody can publish to, and whoever reads the text again behind
        // the first prefix, an access list for one, would take it for something else.
        if share_prefix(filter) != Ok(0) {
            return Err(TopicFault::NestedShare);
        }
    }
    let wildcard = check_wildcards(filter)?;
    if text.contains('\0') {
        return Err(TopicFault::Nul);
    }
    check_levels(filter.split('/').count(), max_levels)?;
    Ok((u16::try_from(filter_start).expect("the text is at most 65,535 bytes long"), wildcard))
}

/// The length of the share prefix including its last `/`; 0 without one.
fn share_prefix(text: &str) -> Result<usize, TopicFault> {
    if let Some(rest) = text.strip_prefix(SHARE) {
        return match rest.split_once('/') {
            Some((name, _)) if !name.is_empty() && !name.contains(['+', '#']) => {
                Ok(SHARE.len() + name.len() + 1)
            }
            _ => Err(TopicFault::Share), // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
        };
    }
    match text {
        "$share" | "$queue" => Err(TopicFault::Share),
        _ if text.starts_with(QUEUE) => Ok(QUEUE.len()),
        _ => Ok(0),
    }
}

/// Checks the places of wildcards; returns whether there are any.
fn check_wildcards(filter: &str) -> Result<bool, TopicFault> {
    let mut wildcard = false;
    let mut levels = filter.split('/');
    while let Some(level) = levels.next() {
        match level {
            "+" => wildcard = true,
            "#" if levels.next().is_none() => return Ok(true), // [MQTT-4.7.1-1]
            _ if level.contains(['+', '#']) => return Err(TopicFault::Wildcard), // [MQTT-4.7.1-1] [MQTT-4.7.1-2]
            _ => {}
        }
    }
    Ok(wildcard)
}

const SHARE: &str = "$share/";
const QUEUE: &str = "$queue/";

impl PartialEq for TopicFilter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TopicFilter {}

impl PartialOrd for TopicFilter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TopicFilter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for TopicFilter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Maps keyed by filters can be asked with the whole text: equality, order and hash are those of the text.
impl Borrow<str> for TopicFilter {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_the_multi_level_wildcard() {
        // Section 4.7.1.2.
        check("sport/tennis/player1/#", "sport/tennis/player1", true);
        check("sport/tennis/player1/#", "sport/tennis/player1/ranking", true);
        check("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true);
        check("sport/#", "sport", true);
        check("#", "sport/tennis", true);
        valid(&["#", "sport/tennis/#"]);
        faulty(&["sport/tennis#", "sport/tennis/#/ranking"], TopicFault::Wildcard);
    }

    #[test]
    fn examples_of_the_single_level_wildcard() {
        // Section 4.7.1.3.
        check("sport/tennis/+", "sport/tennis/player1", true);
        check("sport/tennis/+", "sport/tennis/player2", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        valid(&["+", "+/tennis/#", "sport/+/player1"]);
        faulty(&["sport+"], TopicFault::Wildcard);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
    }

    #[test]
    fn leading_wildcards_skip_dollar_topics() {
        // Section 4.7.2 [MQTT-4.7.2-1].
        check("#", "$SYS/uptime", false);
        check("#", "$", false);
        check("+/monitor/Clients", "$SYS/monitor/Clients", false);
        check("+/#", "$SYS", false);
        check("$SYS/#", "$SYS/", true);
        check("$SYS/#", "$SYS", true);
        check("$SYS/#", "$SYS/uptime", true);
        check("$SYS/monitor/+", "$SYS/monitor/Clients", true);
        check("/#", "/$SYS", true);
        check("+/+", "/$SYS", true);
        check("a/#", "a/$SYS", true);
    }

    #[test]
    fn names_are_compared_as_they_are() {
        // Section 4.7.3 [MQTT-4.7.3-4].
        check("ACCOUNTS", "Accounts", false);
        check("Accounts payable", "Accounts payable", true);
        check("/finance", "finance", false);
        check("finance/", "finance", false);
        check("a//b", "a/b", false);
        check("a/+/b", "a//b", true);
        check("\u{FEFF}a", "a", false);
        check("\u{E9}", "e\u{301}", false);
    }

    #[test]
    fn further_matches() {
        check("a/b/#", "a", false);
        check("a/#", "ab", false);
        check("a/#", "a/", true);
        check("/#", "/", true);
        check("/#", "a", false);
        check("+/#", "a", true);
        check("+/#", "/", true);
        check("a/+/#", "a", false);
        check("a/+/#", "a/b", true);
        check("a/+/#", "a/", true);
        check("+", "a", true);
        check("a", "a/b", false);
        check("a/b", "a", false);
        check("+/b", "a/b/c", false);
        check("//", "//", true);
        check("//", "/", false);
    }

    #[test]
    fn faulty_filters() {
        faulty(&[""], TopicFault::Empty);
        faulty(&["a\0", "$share/\0/a", "$share/g/\0"], TopicFault::Nul);
        faulty(
            &["##", "#/", "#/a", "a#", "+a", "a+", "++", "a/++", "+#", "a/#/", "a/#/#", "$share/g/a#"],
            TopicFault::Wildcard,
        );
        faulty(
            &["a/b/c/d/e", "////", "+/+/+/+/+", "a/b/c/d/#", "$share/g/a/b/c/d/e"],
            TopicFault::TooManyLevels { limit: 4 },
        );
        valid(&["a/b/c/d", "///", "+/+/+/#", "$share/g/a/b/c/d", "$queue/a/b/c/d"]);
        faulty(&["a".repeat(65_536).as_str()], TopicFault::TooLong);
        valid(&["a".repeat(65_535).as_str(), &format!("$share/{}/a", "g".repeat(65_526))]);
    }

    #[test]
    fn faulty_share_names() {
        // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
        faulty(
            &[
                "$share",
                "$share/",
                "$share//",
                "$share//t",
                "$share/g",
                "$share/g/",
                "$share/+/t",
                "$share/g#/t",
                "$share/#",
                "$share/g+/t",
                "$share/+",
                "$queue",
                "$queue/",
            ],
            TopicFault::Share,
        );
        faulty(
            &[
                "$share/g/$share/h/t",
                "$share/g/$queue/t",
                "$queue/$share/g/t",
                "$queue/$queue/t",
                "$share/g/$share",
                "$queue/$queue",
            ],
            TopicFault::NestedShare,
        );
    }

    #[test]
    fn shared_subscriptions() {
        parts("$share/g/t", Some("g"), "t", false);
        parts("$share/g//", Some("g"), "/", false);
        parts("$share/g/#", Some("g"), "#", true);
        parts("$share/g g/a/+", Some("g g"), "a/+", true);
        parts("$share/$share/t", Some("$share"), "t", false);
        parts("$queue/t", Some("$queue/"), "t", false);
        parts("$queue//", Some("$queue/"), "/", false);
        parts("$queue/+/t", Some("$queue/"), "+/t", true);
        parts("$share/$queue/t", Some("$queue"), "t", false);
        parts("$share/g/$SYS/#", Some("g"), "$SYS/#", true);
    }

    #[test]
    fn plain_filters() {
        parts("a/+", None, "a/+", true);
        parts("$shared/g/t", None, "$shared/g/t", false);
        parts("$SHARE/g/t", None, "$SHARE/g/t", false);
        parts("/$share/g/t", None, "/$share/g/t", false);
        parts("$queues", None, "$queues", false);
        parts("$", None, "$", false);
    }

    #[test]
    fn shared_filters_match_without_their_prefix() {
        let shared = |text| TopicFilter::parse(text, 4).unwrap();
        assert!(shared("$share/g/a/+").matches("a/b"));
        assert!(!shared("$share/g/a/+").matches("$share/g/a/b"));
        assert!(!shared("$share/g/#").matches("$SYS/uptime"));
        assert!(shared("$queue/$SYS/#").matches("$SYS/uptime"));
    }

    #[test]
    fn filters_are_told_apart_by_their_whole_text() {
        let texts = ["a", "$queue/a", "$share/g/a", "$share/h/a"];
        let filters: BTreeSet<_> = texts.iter().map(|text| TopicFilter::parse(text, 4).unwrap()).collect();
        assert_eq!(filters.len(), texts.len());
        assert!(filters.contains("$share/g/a"));
        assert_eq!(format!("{:?}", filters.get("a").unwrap()), "\"a\"");
        assert_eq!(filters.get("$queue/a").unwrap().to_string(), "$queue/a");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_text_is_judged_by_its_levels(prefix in "(\\$share/|\\$queue/|\\$share/g/)?", rest in "[$ag+#/]{0,8}") {
            let text = prefix + &rest;
            let levels: Vec<_> = text.split('/').collect();
            let expected = match levels.as_slice() {
                ["$share", group, filter @ ..] => is_group(group) && is_filter(filter) && !is_shared(filter),
                ["$queue", filter @ ..] => is_filter(filter) && !is_shared(filter),
                ["$share"] => false,
                filter => is_filter(filter),
            };
            prop_assert_eq!(TopicFilter::parse(&text, 128).is_ok(), expected, "{}", text);
        }
    }

    fn is_group(group: &str) -> bool {
        !group.is_empty() && group.chars().all(|c| c != '+' && c != '#')
    }

    fn is_shared(levels: &[&str]) -> bool {
        matches!(levels[0], "$share" | "$queue")
    }

    fn is_filter(levels: &[&str]) -> bool {
        let Some((last, upper)) = levels.split_last() else { return false };
        let is_plain = |level: &&str| *level == "+" || !level.contains(['+', '#']);
        levels != [""] && upper.iter().all(is_plain) && (*last == "#" || is_plain(last))
    }

    fn check(filter: &str, name: &str, expected: bool) {
        assert_eq!(matches(filter, name), expected, "{filter} {name}");
        assert_eq!(TopicFilter::parse(filter, 128).unwrap().matches(name), expected, "{filter} {name}");
    }

    fn valid(texts: &[&str]) {
        for text in texts {
            assert_eq!(TopicFilter::parse(text, 4).map(|filter| filter.to_string()).as_deref(), Ok(*text));
        }
    }

    fn faulty(texts: &[&str], fault: TopicFault) {
        for text in texts {
            assert_eq!(TopicFilter::parse(text, 4), Err(TopicError::Filter(fault)), "{text:?}");
        }
    }

    fn parts(text: &str, group: Option<&str>, filter: &str, wildcard: bool) {
        let parsed = TopicFilter::parse(text, 4).unwrap();
        assert_eq!(parsed.as_str(), text);
        assert_eq!(parsed.share_group(), group, "{text}");
        assert_eq!(parsed.is_shared(), group.is_some(), "{text}");
        assert_eq!(parsed.filter(), filter, "{text}");
        assert_eq!(parsed.has_wildcard(), wildcard, "{text}");
    }
}
