// SPDX-License-Identifier: Apache-2.0
//! A row is at most 64 KiB, whatever others have put into it: who makes a connect
//! chooses names, paths, arguments and the number of its ancestors, and without a
//! limit could have 2 MB written for each. What is cut is said. Pure.

use std::borrow::Cow;

use crate::escape::is_harmless;
pub use crate::model::process::CUT;

/// The sum of all that is below, with some 2 KiB for all that is a number.
#[cfg(test)]
pub const MAX_ROW: usize = 64 << 10;

/// Bytes as they stand in the row, escapes included. A path of PATH_MAX fits, and so
/// do all arguments that are kept, if they hold nothing that must be escaped.
pub const EXE: usize = 5 << 10;
pub const ARGS: usize = 12 << 10;
pub const CGROUP: usize = 4 << 10;
pub const PEER_EXE: usize = 4 << 10;
pub const CHAIN: usize = 4 << 10;
/// A name in DNS has at most 255 bytes, a file's name too.
pub const NAME: usize = 255 * 6;
/// Of each name of a container: Kubernetes allows 253 bytes, and docker an image 255.
pub const CONTAINER: usize = 256;
pub const PARENT_EXE: usize = 256;
/// Of a path that is no text, its bytes; in base64 they take a third more.
pub const RAW_EXE: usize = 1536;

/// What a character takes in JSON, at most: some writers also escape what a
/// terminal may act upon.
fn cost(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        _ if c.is_alphanumeric() && is_harmless(c) => c.len_utf8(),
        _ => 6 * c.len_utf16(),
    }
}

fn fits(text: &str, budget: usize) -> bool {
    // No byte takes more than a control character does.
    text.len() * 6 <= budget || text.chars().map(cost).sum::<usize>() <= budget
}

/// As much of the beginning as takes `budget` bytes in JSON; true if that is not all.
pub fn head(bytes: &[u8], budget: usize) -> (Cow<'_, str>, bool) {
    let mut text = String::from_utf8_lossy(bytes);
    let whole = fits(&text, budget);
    if !whole {
        let mut left = budget;
        let end = text.char_indices().find(|&(_, c)| match left.checked_sub(cost(c)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        let end = end.map_or(text.len(), |(at, _)| at);
        match &mut text {
            Cow::Borrowed(text) => *text = &text[..end],
            Cow::Owned(text) => text.truncate(end),
        }
    }
    (text, !whole)
}

/// As much of the end of a path as takes `budget` bytes in JSON, from a slash on if
/// there is one; true if that is not all.
pub fn tail(path: &[u8], budget: usize) -> (Cow<'_, str>, bool) {
    let text = String::from_utf8_lossy(path);
    if fits(&text, budget) {
        return (text, false);
    }
    let mut left = budget.saturating_sub(CUT.len());
    let mut start = text.len();
    for (at, c) in text.char_indices().rev() {
        let Some(rest) = left.checked_sub(cost(c)) else { break };
        (left, start) = (rest, at);
    }
    let kept = &text[start..];
    let kept = kept.find('/').map_or(kept, |slash| &kept[slash..]);
    (Cow::Owned(format!("{CUT}{kept}")), true)
}

/// The last `max` bytes of a path, as `tail`.
pub fn tail_of_bytes(path: &[u8], max: usize) -> Cow<'_, [u8]> {
    let Some(start) = path.len().checked_sub(max).filter(|&start| start > 0) else {
        return Cow::Borrowed(path);
    };
    let kept = &path[start + CUT.len()..];
    let slash = kept.iter().position(|&b| b == b'/').unwrap_or(0);
    Cow::Owned([CUT.as_bytes(), &kept[slash..]].concat())
}

/// As many as take `budget` bytes in JSON, of the last one its beginning; true if
/// that is not all.
pub fn list<'a>(items: impl Iterator<Item = &'a [u8]>, budget: usize) -> (Vec<Cow<'a, str>>, bool) {
    /// Quotes and a comma.
    const BESIDE: usize = 3;
    let mut left = budget;
    let mut kept = Vec::new();
    for item in items {
        let Some(room) = left.checked_sub(BESIDE) else { return (kept, true) };
        let (text, is_cut) = head(item, room);
        if is_cut && text.is_empty() {
            return (kept, true);
        }
        left -= BESIDE + text.chars().map(cost).sum::<usize>();
        kept.push(text);
        if is_cut {
            return (kept, true);
        }
    }
    (kept, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_in_front_at_a_slash() {
        assert_eq!(tail(b"/usr/bin/curl", 13), ("/usr/bin/curl".into(), false));
        assert_eq!(tail(b"/usr/bin/curl", 12), (".../bin/curl".into(), true));
        assert_eq!(tail(b"/usr/bin/curl", 11), (".../curl".into(), true));
        assert_eq!(tail(b"/usr/bin/curl", 7), ("...curl".into(), true));
        assert_eq!(tail(b"/abcd/\x01/\x01", 18), (".../\u{1}/\u{1}".into(), true));
        assert_eq!(tail(b"/abcd/\x01/\x01", 16), (".../\u{1}".into(), true));
        assert_eq!(&*tail_of_bytes(b"/usr/bin/curl", 13), b"/usr/bin/curl");
        assert_eq!(&*tail_of_bytes(b"/usr/bin/curl", 12), b".../bin/curl");
        assert_eq!(&*tail_of_bytes(b"/usr/bin/curl", 6), b"...url");
    }

    #[test]
    fn a_list_ends_where_there_is_no_more_room() {
        let items = [&b"abc"[..], b"\n\n", b"", b"x"];
        let of = |budget| {
            let (kept, cut) = list(items.iter().copied(), budget);
            (kept.iter().map(|item| item.to_string()).collect::<Vec<_>>().join(","), cut)
        };
        assert_eq!(of(100), ("abc,\n\n,,x".into(), false));
        assert_eq!(of(24), ("abc,\n\n,".into(), true));
        assert_eq!(of(15), ("abc,\n".into(), true));
        assert_eq!(of(5), ("ab".into(), true));
    }

    #[test]
    fn all_limits_together_are_less_than_a_row() {
        let parent = PARENT_EXE + 16 * 6 + 37 + 130 + r#","exe_raw":"""#.len();
        let all = EXE + RAW_EXE * 4 / 3 + ARGS + CGROUP + PEER_EXE + CHAIN + 4 * NAME;
        let containers = 2 * 7 * CONTAINER;
        assert!(all + containers + 36 * parent + (4 << 10) < MAX_ROW);
    }
}
