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

/// Nearly all text is. It is asked of each name and value of JSON, so eight bytes are looked at at
/// once: a byte below 0x20 borrows from its highest bit, and one from 0x7f on carries into it.
pub fn is_plain(text: &[u8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHEST: u64 = EACH * 0x80;
    let (eights, rest) = text.as_chunks::<8>();
    let is_bad = |eight: &[u8; 8]| {
        let bytes = u64::from_ne_bytes(*eight);
        let low = (bytes | HIGHEST) - EACH * 0x20;
        let high = (bytes & !HIGHEST) + EACH;
        (!low | high | bytes) & HIGHEST != 0
    };
    !eights.iter().any(is_bad) && rest.iter().all(|b| (0x20..0x7f).contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_what_ascii_has_to_print_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for at in 0..19 {
                let mut text = *b"0123456 ~abcdefghij";
                text[at] = byte;
                assert_eq!(is_plain(&text), (b' '..=b'~').contains(&byte), "{byte:x} at {at}");
            }
        }
        assert!(is_plain(b"") && is_plain(b"~ ~ ~ ~ "));
    }

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
