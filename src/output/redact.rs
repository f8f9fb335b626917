// SPDX-License-Identifier: Apache-2.0
//! Arguments as they may be kept: what looks like a password, a token or a key is left out. It
//! rather takes too much than too little, and cannot know a secret that nothing announces.

use crate::config::cli::RecordArgs;

const GONE: &[u8] = b"***";

/// Parts of names whose values are secrets.
const SECRETS: [&[u8]; 12] = [
    b"pass",
    b"pwd",
    b"secret",
    b"token",
    b"key",
    b"credential",
    b"auth",
    b"cookie",
    b"session",
    b"private",
    b"signature",
    b"bearer",
];

/// In this mode; `None`: none are kept.
pub(super) fn arguments<'a>(
    args: impl Iterator<Item = &'a [u8]>,
    mode: RecordArgs,
) -> Option<Vec<Vec<u8>>> {
    let without_secrets = |args: &mut dyn Iterator<Item = &'a [u8]>| {
        let mut words = Words::default();
        args.map(|arg| words.without_secrets(arg)).collect()
    };
    match mode {
        RecordArgs::Full => Some(args.map(<[u8]>::to_vec).collect()),
        // A process may have put all of its arguments into the first.
        RecordArgs::First => Some(without_secrets(&mut args.take(1))),
        RecordArgs::None => None,
        RecordArgs::Redacted => Some(without_secrets(&mut { args })),
    }
}

/// How far a secret goes that begins with a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Word,
    /// To the word that has this quote.
    Quote(u8),
    /// To the end of the argument: a value may have blanks, and so may a header.
    Argument,
}

impl Extent {
    /// Of the value of a name that this word begins with.
    fn of(word: &[u8], is_first: bool) -> Self {
        match word {
            [quote @ (b'\'' | b'"'), ..] => Extent::Quote(*quote),
            _ if is_first => Extent::Argument,
            _ => Extent::Word,
        }
    }
}

/// What came before decides what a word is.
#[derive(Default)]
struct Words {
    /// The next one is the value of a secret.
    value: Option<Extent>,
    /// It may be a user and a password.
    is_user: bool,
    /// A secret goes on.
    rest: Option<Extent>,
}

impl Words {
    fn without_secrets(&mut self, arg: &[u8]) -> Vec<u8> {
        self.rest = None;
        if self.value.is_some() && !announces(arg) {
            self.value = None;
            return GONE.to_vec();
        }
        let mut kept = Vec::with_capacity(arg.len());
        let mut is_first = true;
        for word in arg.split_inclusive(u8::is_ascii_whitespace) {
            let end = word.len() - usize::from(word.last().is_some_and(u8::is_ascii_whitespace));
            let (word, blank) = word.split_at(end);
            if !word.is_empty() {
                self.word(word, is_first, &mut kept);
                is_first = false;
            }
            if self.rest.is_none() {
                kept.extend_from_slice(blank);
            }
        }
        kept
    }

    fn word(&mut self, word: &[u8], is_first: bool, kept: &mut Vec<u8>) {
        match self.rest {
            Some(Extent::Quote(quote)) if word.contains(&quote) => return self.rest = None,
            Some(_) => return,
            None => {}
        }
        let was_user = std::mem::take(&mut self.is_user);
        if let Some(extent) = self.value.take() {
            if !announces(word) {
                return self.hide(word, extent, kept);
            }
            // "Authorization: Bearer ..."
            self.value = Some(extent);
            return kept.extend_from_slice(word);
        }
        if let Some(at) = head(word, was_user) {
            let extent = Extent::of(word, is_first);
            kept.extend_from_slice(&word[..at]);
            match &word[at..] {
                [] => self.value = Some(extent),
                value => self.hide(value, extent, kept),
            }
            return;
        }
        if let Some(at) = find(word, b"://") {
            return url(word, at + 3, kept);
        }
        if let Some(at) = position(word, b'?').filter(|&at| word[at..].contains(&b'=')) {
            return keep_head(word, at + 1, kept);
        }
        match word {
            [b'-', b'p'] => self.value = Some(Extent::Word),
            b"--user" | b"--proxy-user" => self.is_user = true,
            // "-su" is "-s -u"
            [b'-', letters @ .., b'u' | b'U'] if letters.iter().all(u8::is_ascii_alphanumeric) => {
                self.is_user = true;
            }
            [b'-', ..] if name_end(word).is_some() => self.value = Some(Extent::Word),
            _ if announces(word) => self.value = Some(Extent::Word),
            _ => {}
        }
        kept.extend_from_slice(word);
    }

    /// A secret begins with this word.
    fn hide(&mut self, word: &[u8], extent: Extent, kept: &mut Vec<u8>) {
        kept.extend_from_slice(GONE);
        self.rest = match (extent, word) {
            (Extent::Word, [quote @ (b'\'' | b'"'), ..]) => {
                let is_open = word.iter().filter(|&b| b == quote).count() % 2 == 1;
                is_open.then_some(Extent::Quote(*quote))
            }
            (Extent::Word, _) => None,
            (Extent::Quote(quote), _) if word.contains(&quote) => None,
            _ => Some(extent),
        };
    }
}

/// How much of the word stands before a secret in it: a name with its `=` or `:`, `-p`, or a
/// user with a colon.
fn head(word: &[u8], was_user: bool) -> Option<usize> {
    // A URL may be the value of a secret, and what it asks for has names, too.
    let names = &word[..find(word, b"://").unwrap_or(word.len())];
    if let Some(end) = name_end(names)
        && let Some(at) = names[end..].iter().position(|b| b"=:".contains(b))
    {
        return Some(end + at + 1);
    }
    let user = match word {
        [b'-', b'p', _, ..] => return Some(2),
        _ if was_user => 0,
        [b'-', b'u' | b'U', ..] => 2,
        [b'-', b'-', b'u', b's', b'e', b'r', b'=', ..] => 7,
        _ if word.starts_with(b"--proxy-user=") => 13,
        _ => return None,
    };
    position(&word[user..], b':').map(|colon| user + colon + 1)
}

/// Where the first name of a secret in it ends.
fn name_end(text: &[u8]) -> Option<usize> {
    let text = text.to_ascii_lowercase();
    let ends = SECRETS.iter().filter_map(|secret| Some(find(&text, secret)? + secret.len()));
    ends.min()
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
    let query = rest.iter().position(|b| b"?#".contains(b)).unwrap_or(rest.len());
    match find(&rest[..query], b"://") {
        // One that is part of the other's path, or stands behind a comma.
        Some(next) => url(rest, next + 3, kept),
        None => keep_head(rest, (query + 1).min(rest.len()), kept),
    }
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
            ("x|--password|my hunter2|y", "x|--password|***|y"),
            ("x|--password=my hunter2|y", "x|--password=***|y"),
            ("x|--password||y", "x|--password|***|y"),
            ("curl|-H|Cookie: a=b; c=d|x", "curl|-H|Cookie: ***|x"),
            ("curl|-H|Authorization: Digest a=b, c=d|x", "curl|-H|Authorization: Digest ***|x"),
            ("curl|-d|user=me&password=pw|x", "curl|-d|user=me&password=***|x"),
            (
                r#"curl|-d|{"user":"me","password":"p w"}|x"#,
                r#"curl|-d|{"user":"me","password":***|x"#,
            ),
            ("curl|-ume:pw|-su|me:p w|x", "curl|-ume:***|-su|me:***|x"),
            ("curl|--user=me:pw|x", "curl|--user=me:***|x"),
            ("x|--hook-secret=https://a/pw|y", "x|--hook-secret=***|y"),
            ("x|DB_PASSWORD=a://pw|y", "x|DB_PASSWORD=***|y"),
            ("java|-Da.b:password=pw", "java|-Da.b:password=***"),
            ("x|https://a/,https://me:pw@b/c|y", "x|https://a/,https://me:***@b/c|y"),
            ("curl|a.example/?q=pw", "curl|a.example/?***"),
            (
                r#"sh|-c|curl -H "Cookie: a=b; c=d" x --password 'p w' y; A_KEY="k l" z"#,
                r#"sh|-c|curl -H "Cookie: *** x --password *** y; A_KEY=*** z"#,
            ),
            (
                "sh|-c|curl -H 'Authorization: Bearer a b' x",
                "sh|-c|curl -H 'Authorization: Bearer *** x",
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
        let title = [&b"x --token=b"[..]].into_iter();
        assert_eq!(arguments(title, RecordArgs::First).unwrap(), [b"x --token=***"]);
        assert_eq!(arguments(args(), RecordArgs::Full).unwrap()[1], b"--token=b");
    }
}
