// SPDX-License-Identifier: Apache-2.0
//! Which characters of a text from outside a terminal may be given as they are.

/// Not a control character, and nothing that reorders, hides or alters what stands beside
/// it: bidirectional controls, zero-width and other format characters, variation selectors,
/// tags, line and paragraph separators.
pub fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// With everything else escaped: what others chose does nothing to a terminal.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_harmless(c) {
            true => out.push(c),
            false => out.extend(c.escape_default()),
        }
    }
    out
}

/// Nearly all text is.
pub fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|b| (0x20..0x7f).contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_marks_are_harmless_and_what_hides_or_turns_is_not() {
        assert!("aä→ \u{301}本\u{1f600}".chars().all(is_harmless));
        // Controls, bidirectional marks and isolates, selectors of variants, tags.
        for c in "\0\x1b\x7f\u{9b}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\u{61c}\
                  \u{fe00}\u{fe0f}\u{e0100}\u{e01ef}\u{e0041}\u{feff}\u{200b}\u{2028}"
            .chars()
        {
            assert!(!is_harmless(c), "{:x}", c as u32);
        }
    }
}
