// SPDX-License-Identifier: Apache-2.0
//! Arguments as they may be kept: what looks like a password, a token or a key is left out. It
//! rather takes too much than too little, and cannot know a secret that nothing announces.

use crate::config::cli::RecordArgs;

const GONE: &[u8] = b"***";

/// Parts of names whose values are secrets.
const SECRETS: [&str; 12] = [
    "pass",
    "pwd",
    "secret",
    "token",
    "key",
    "credential",
    "auth",
    "cookie",
    "session",
    "private",
    "signature",
    "bearer",
];

/// In this mode; `None`: none are kept.
pub(super) fn arguments<'a>(
    args: impl Iterator<Item = &'a [u8]>,
    mode: RecordArgs,
) -> Option<Vec<Vec<u8>>> {
    match mode {
        RecordArgs::Full => Some(args.map(<[u8]>::to_vec).collect()),
        RecordArgs::First => Some(args.take(1).map(<[u8]>::to_vec).collect()),
        RecordArgs::None => None,
        RecordArgs::Redacted => {
            let mut words = Words::default();
            Some(args.map(|arg| words.without_secrets(arg)).collect())
        }
    }
}

/// What came before decides what a word is.
#[derive(Default)]
struct Words {
    /// The next one is the value of a secret.
    is_secret: bool,
    /// It may be a user and a password.
    is_user: bool,
}

impl Words {
    fn without_secrets(&mut self, arg: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(arg.len());
        for word in arg.split_inclusive(u8::is_ascii_whitespace) {
            let end = word.len() - usize::from(word.last().is_some_and(u8::is_ascii_whitespace));
            let (word, blank) = word.split_at(end);
            if !word.is_empty() {
                self.word(word, &mut kept);
            }
            kept.extend_from_slice(blank);
        }
        kept
    }

    fn word(&mut self, word: &[u8], kept: &mut Vec<u8>) {
        let was_user = std::mem::take(&mut self.is_user);
        if std::mem::take(&mut self.is_secret) {
            // "Authorization: Bearer ..."
            self.is_secret = announces(word);
            return kept.extend_from_slice(if self.is_secret { word } else { GONE });
        }
        if was_user && let Some(at) = position(word, b':') {
            return keep_head(word, at + 1, kept);
        }
        if let Some(at) = find(word, b"://") {
            return url(word, at + 3, kept);
        }
        if let Some(at) = word.iter().position(|b| b"=:".contains(b))
            && is_secret_name(&word[..at])
        {
            self.is_secret = at + 1 == word.len();
            return keep_head(word, at + 1, kept);
        }
        match word {
            [b'-', b'p'] => self.is_secret = true,
            [b'-', b'p', _, ..] => return keep_head(word, 2, kept),
            [b'-', b'u'] | b"--user" | b"--proxy-user" => self.is_user = true,
            [b'-', ..] => self.is_secret = is_secret_name(word),
            _ => self.is_secret = announces(word),
        }
        kept.extend_from_slice(word);
    }
}

/// The first bytes, and that there were more.
fn keep_head(word: &[u8], len: usize, kept: &mut Vec<u8>) {
    kept.extend_from_slice(&word[..len]);
    if len < word.len() {
        kept.extend_from_slice(GONE);
    }
}

/// Without a password and what is asked for; `at` is behind the scheme.
fn url(word: &[u8], at: usize, kept: &mut Vec<u8>) {
    let end = word[at..].iter().position(|b| b"/?#".contains(b)).map_or(word.len(), |n| at + n);
    let authority = &word[at..end];
    kept.extend_from_slice(&word[..at]);
    match authority.iter().rposition(|&b| b == b'@') {
        Some(host) => {
            let user = position(&authority[..host], b':').map_or(host, |colon| colon + 1);
            keep_head(&authority[..host], user, kept);
            kept.extend_from_slice(&authority[host..]);
        }
        None => kept.extend_from_slice(authority),
    }
    let rest = &word[end..];
    match rest.iter().position(|b| b"?#".contains(b)) {
        Some(query) => keep_head(rest, query + 1, kept),
        None => kept.extend_from_slice(rest),
    }
}

fn is_secret_name(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    SECRETS.iter().any(|secret| name.contains(secret))
}

/// Of an HTTP header.
fn announces(word: &[u8]) -> bool {
    [&b"bearer"[..], b"basic", b"digest", b"token"]
        .iter()
        .any(|name| word.eq_ignore_ascii_case(name))
}

fn position(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().position(|&b| b == byte)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(line: &str) -> String {
        // Arguments are divided by a bar.
        let args = line.split('|').map(str::as_bytes);
        let kept = arguments(args, RecordArgs::Redacted).unwrap();
        String::from_utf8(kept.join(&b'|')).unwrap()
    }

    #[test]
    fn what_looks_like_a_secret_is_left_out() {
        for (line, expected) in [
            ("mysql|-u|root|-phunter2", "mysql|-u|root|-p***"),
            ("mysql|-p|hunter2|db", "mysql|-p|***|db"),
            ("x|--password=hunter2|y", "x|--password=***|y"),
            ("x|--password|hunter2|y", "x|--password|***|y"),
            ("x|--api-key|k|--token=t", "x|--api-key|***|--token=***"),
            ("env|AWS_SECRET_ACCESS_KEY=abc|x", "env|AWS_SECRET_ACCESS_KEY=***|x"),
            ("curl|-u|me:pw|x", "curl|-u|me:***|x"),
            ("curl|-H|Authorization: Bearer abc|x", "curl|-H|Authorization: Bearer ***|x"),
            ("curl|-H|Authorization: abc|x", "curl|-H|Authorization: ***|x"),
            ("curl|-H|X-Api-Key: abc", "curl|-H|X-Api-Key: ***"),
            ("curl|-H|Cookie:a=b", "curl|-H|Cookie:***"),
            ("curl|https://me:pw@a.example/x?t=1#f", "curl|https://me:***@a.example/x?***"),
            ("curl|https://a.example/x", "curl|https://a.example/x"),
            ("psql|postgres://me:p@w@h/db", "psql|postgres://me:***@h/db"),
            (
                "sh|-c|curl -u me:pw https://a/?q=1; x --token t",
                "sh|-c|curl -u me:*** https://a/?*** x --token ***",
            ),
            ("nc|-v|192.0.2.1|80", "nc|-v|192.0.2.1|80"),
            ("ssh|host|ls -l /etc", "ssh|host|ls -l /etc"),
        ] {
            assert_eq!(kept(line), expected, "{line}");
        }
    }

    #[test]
    fn a_mode_keeps_what_it_says() {
        let args = || [&b"a"[..], b"--token=b"].into_iter();
        let of = |mode| arguments(args(), mode).map(|args| args.len());
        assert_eq!(of(RecordArgs::Full), Some(2));
        assert_eq!(of(RecordArgs::First), Some(1));
        assert_eq!(of(RecordArgs::None), None);
        assert_eq!(arguments(args(), RecordArgs::Full).unwrap()[1], b"--token=b");
    }
}
