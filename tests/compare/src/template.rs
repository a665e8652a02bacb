//! Texts with names to be replaced: `{{port}}`.

use std::collections::BTreeMap;

/// What stands for a name.
pub(crate) type Values = BTreeMap<&'static str, String>;

/// Why a text cannot be filled in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("nothing is known by the name {{{{{0}}}}}")]
    Unknown(String),
    #[error("a {{{{ has no }}}}: {0:?}")]
    Open(String),
}

/// The text with every `{{name}}` replaced. What is put in is not looked at again.
///
/// # Errors
/// A name is not among the values: a broker that is started with half a configuration measures something else.
pub(crate) fn fill(text: &str, values: &Values) -> Result<String, TemplateError> {
    let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) =
            after.split_once("}}").ok_or_else(|| TemplateError::Open(after.chars().take(SHOWN).collect()))?;
        let value = values.get(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Characters of a text that are enough to find it.
const SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced() {
        let values = Values::from([("port", "1883".to_owned()), ("directory", "/a/{{port}}".to_owned())]);
        let check = |text, expected: Result<&str, TemplateError>| {
            assert_eq!(fill(text, &values), expected.map(str::to_owned));
        };
        check("", Ok(""));
        check("listen {\n  port {{port}}\n}", Ok("listen {\n  port 1883\n}"));
        check("{{port}}{{port}}", Ok("18831883"));
        check("{{directory}}", Ok("/a/{{port}}"));
        check("{{prot}}", Err(TemplateError::Unknown("prot".to_owned())));
        check("{{ port }}", Err(TemplateError::Unknown(" port ".to_owned())));
        check("{{port", Err(TemplateError::Open("port".to_owned())));
    }

    #[test]
    fn an_unknown_name_is_told_as_it_is_written() {
        assert_eq!(
            TemplateError::Unknown("prot".to_owned()).to_string(),
            "nothing is known by the name {{prot}}"
        );
    }
}
