//! How a text is cut into levels.

/// Where the level ends that starts at `start`: at the next `/` or at the end of the text.
///
/// The next level starts one byte further on; when that is behind the end of the text, there is none. A `/` at the end of
/// the text is followed by an empty level.
pub(super) fn level_end(text: &[u8], start: usize) -> usize {
    text[start..].iter().position(|&byte| byte == b'/').map_or(text.len(), |length| start + length)
}

/// The first level.
pub(super) fn first_level(text: &[u8]) -> &[u8] {
    &text[..level_end(text, 0)]
}
