// SPDX-License-Identifier: Apache-2.0
//! Cells: padding, numbers, addresses as inet_ntop() writes them, and untrusted
//! names made harmless. Appends to a byte buffer; allocates nothing.

use std::io::Write as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use nix::errno::Errno;

use crate::escape::is_harmless;
use crate::escape::is_plain;
use crate::model::process::Args;

/// Pads what was written since `start` to `width` columns, on the right.
pub fn pad(out: &mut Vec<u8>, start: usize, width: usize) {
    pad_columns(out, out.len() - start, width);
}

fn pad_columns(out: &mut Vec<u8>, used: usize, width: usize) {
    pad_with(out, used, width, b' ');
}

fn pad_with(out: &mut Vec<u8>, used: usize, width: usize, byte: u8) {
    out.resize(out.len() + width.saturating_sub(used), byte);
}

pub fn number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// At least `width` digits, zeros in front.
pub fn zero_padded(out: &mut Vec<u8>, n: u64, width: usize) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(n);
    pad_with(out, digits.len(), width, b'0');
    out.extend_from_slice(digits.as_bytes());
}

pub fn address(out: &mut Vec<u8>, addr: &IpAddr) {
    match addr {
        IpAddr::V4(v4) => ipv4(out, v4),
        IpAddr::V6(v6) => ipv6(out, v6),
    }
}

/// Each octet as text, with a dot behind it, and the length of that: a row has eight of them.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut n = 0;
    while n < octets.len() {
        let digits = [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
        octets[n] = match n {
            0..10 => ([digits[2], b'.', 0, 0], 2),
            10..100 => ([digits[1], digits[2], b'.', 0], 3),
            _ => ([digits[0], digits[1], digits[2], b'.'], 4),
        };
        n += 1;
    }
    octets
};

/// Without room of its own.
pub struct Ipv4Text {
    text: [u8; 16],
    len: usize,
}

impl Ipv4Text {
    pub fn new(addr: &Ipv4Addr) -> Self {
        let (mut text, mut len) = ([0; 16], 0);
        for octet in addr.octets() {
            let (digits, used) = &OCTETS[usize::from(octet)];
            text[len..len + 4].copy_from_slice(digits);
            len += usize::from(*used);
        }
        Ipv4Text { text, len: len - 1 }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).expect("digits and dots")
    }
}

fn ipv4(out: &mut Vec<u8>, addr: &Ipv4Addr) {
    let Ipv4Text { text, len } = Ipv4Text::new(addr);
    out.extend_from_slice(&text[..len]);
}

/// As glibc's inet_ntop(), which writes ::a.b.c.d also for addresses that only
/// have their last four bytes set; Rust's Display does not.
fn ipv6(out: &mut Vec<u8>, addr: &Ipv6Addr) {
    let o = addr.octets();
    if o[..12] == [0; 12] && (o[12], o[13]) != (0, 0) {
        out.extend_from_slice(b"::");
        ipv4(out, &Ipv4Addr::new(o[12], o[13], o[14], o[15]));
    } else {
        write!(out, "{addr}").expect("writing to a Vec cannot fail");
    }
}

/// The name of an errno, as in errno(3); the number if it has none.
pub fn error(out: &mut Vec<u8>, errno: u16) {
    match Errno::from_raw(errno.into()) {
        Errno::UnknownErrno => number(out, errno.into()),
        error => write!(out, "{error:?}").expect("writing to a Vec cannot fail"),
    }
}

/// A name from outside, in at most `width` columns, padded to `width`: printable
/// characters as they are, every other byte as \xNN, so that a row stays one
/// line and a terminal obeys nothing. An escape is shown whole or not at all.
pub fn name(out: &mut Vec<u8>, bytes: &[u8], width: usize) {
    let used = untrusted(out, bytes, width);
    pad_columns(out, used, width);
}

/// As `name`, whole and without padding.
pub fn whole_name(out: &mut Vec<u8>, bytes: &[u8]) {
    untrusted(out, bytes, usize::MAX);
}

/// As `whole_name`, for a chain joined by `<`, which no name in it may contain.
pub fn link(out: &mut Vec<u8>, bytes: &[u8]) {
    for (i, part) in bytes.split(|&b| b == b'<').enumerate() {
        if i > 0 {
            escape(out, b'<');
        }
        whole_name(out, part);
    }
}

/// Returns the columns used.
fn untrusted(out: &mut Vec<u8>, bytes: &[u8], width: usize) -> usize {
    if is_plain(bytes) {
        let shown = &bytes[..bytes.len().min(width)];
        out.extend_from_slice(shown);
        return shown.len();
    }
    let mut used = 0;
    'all: for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            let columns = if is_harmless(c) { 1 } else { 4 * utf8.len() };
            if used + columns > width {
                break 'all;
            }
            used += columns;
            if is_harmless(c) {
                out.extend_from_slice(utf8);
            } else {
                utf8.iter().for_each(|&b| escape(out, b));
            }
        }
        for &b in chunk.invalid() {
            if used + 4 > width {
                break 'all;
            }
            used += 4;
            escape(out, b);
        }
    }
    used
}

/// Arguments as a shell would take them: `'it'\''s'`, and $'..' (bash, ksh, zsh)
/// where a byte has no printable form.
pub fn arguments(out: &mut Vec<u8>, args: &Args) {
    for (i, arg) in args.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        argument(out, arg, i == 0);
    }
    if args.truncated {
        // To a shell it is a comment.
        out.extend_from_slice(b" # cut");
    }
}

fn argument(out: &mut Vec<u8>, arg: &[u8], first: bool) {
    const RESERVED: [&[u8]; 17] = [
        b"case",
        b"coproc",
        b"do",
        b"done",
        b"elif",
        b"else",
        b"esac",
        b"fi",
        b"for",
        b"function",
        b"if",
        b"in",
        b"select",
        b"then",
        b"time",
        b"until",
        b"while",
    ];
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(b);
    // As the first word an assignment, a job or a keyword; zsh looks up =command anywhere.
    let is_special = arg.starts_with(b"=")
        || first && (arg.contains(&b'=') || arg.starts_with(b"%") || RESERVED.contains(&arg));
    if !arg.is_empty() && arg.iter().all(is_plain) && !is_special {
        out.extend_from_slice(arg);
        return;
    }
    let printable = std::str::from_utf8(arg).is_ok_and(|text| text.chars().all(is_harmless));
    out.extend_from_slice(if printable { b"'" } else { b"$'" });
    for chunk in arg.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            match c {
                '\'' if printable => out.extend_from_slice(b"'\\''"),
                '\'' | '\\' if !printable => out.extend_from_slice(&[b'\\', c as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\t' => out.extend_from_slice(b"\\t"),
                _ if is_harmless(c) => out.extend_from_slice(utf8),
                _ => utf8.iter().for_each(|&b| octal(out, b)),
            }
        }
        chunk.invalid().iter().for_each(|&b| octal(out, b));
    }
    out.push(b'\'');
}

/// Always three digits: \xNN would take more in some shells.
fn octal(out: &mut Vec<u8>, byte: u8) {
    write!(out, "\\{byte:03o}").expect("writing to a Vec cannot fail");
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("writing to a Vec cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8], width: usize) -> String {
        let mut out = Vec::new();
        name(&mut out, bytes, width);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plain_name_is_cut_and_padded() {
        assert_eq!(shown(b"curl", 12), "curl        ");
        assert_eq!(shown(b"0123456789abcde", 12), "0123456789ab");
        assert_eq!(shown(b"", 3), "   ");
    }

    #[test]
    fn control_bytes_and_bad_utf8_are_escaped_whole() {
        assert_eq!(shown(b"\x1b[31mX", 12), "\\x1b[31mX   ");
        assert_eq!(shown(b"a\nb\xff", 12), "a\\x0ab\\xff  ");
        assert_eq!(shown(b"123456789\x07", 12), "123456789   ");
        assert_eq!(shown("\u{202e}x".as_bytes(), 16), "\\xe2\\x80\\xaex   ");
        assert_eq!(shown("\u{9b}x".as_bytes(), 12), "\\xc2\\x9bx   ");
    }

    #[test]
    fn printable_unicode_stays() {
        assert_eq!(shown("häöü".as_bytes(), 6), "häöü  ");
    }

    #[test]
    fn addresses_are_written_as_inet_ntop_does() {
        let shown = |text: &str| {
            let mut out = Vec::new();
            address(&mut out, &text.parse().unwrap());
            String::from_utf8(out).unwrap()
        };
        for same in [
            "127.0.0.1",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "fe80::1:2",
            "1:0:0:2::3",
            "2001:db8::1",
            "1:2:3:4:5:6:7:8",
            "::1.2.3.4",
            "0:1:2:3:4:5:6:7",
        ] {
            assert_eq!(shown(same), same);
        }
        assert_eq!(shown("2001:db8:0:1:1:1:1:1"), "2001:db8:0:1:1:1:1:1");
    }

    #[test]
    fn numbers_have_all_their_digits() {
        let mut out = Vec::new();
        number(&mut out, 0);
        number(&mut out, u64::MAX);
        zero_padded(&mut out, 7, 3);
        zero_padded(&mut out, 1000, 3);
        assert_eq!(out, b"0184467440737095516150071000");
    }

    #[test]
    fn each_octet_is_written_as_it_is_read() {
        for n in 0..=255 {
            for addr in [Ipv4Addr::new(n, 0, 255, n), Ipv4Addr::new(10, n, n, 1)] {
                let mut out = Vec::new();
                address(&mut out, &addr.into());
                assert_eq!(out, addr.to_string().as_bytes());
            }
        }
    }

    #[test]
    fn a_name_cannot_add_a_link_to_a_chain() {
        let mut out = Vec::new();
        link(&mut out, b"sh(9) < a\n");
        assert_eq!(out, b"sh(9) \\x3c a\\x0a");
    }

    #[test]
    fn arguments_can_be_pasted_into_a_shell() {
        let shown = |bytes: &[u8]| {
            let mut out = Vec::new();
            arguments(&mut out, &Args::new(bytes));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(b"curl\0-s\0http://[::1]:80/?a=b\0"), "curl -s 'http://[::1]:80/?a=b'");
        assert_eq!(shown(b"echo\0it's\0a b\0\0"), "echo 'it'\\''s' 'a b' ''");
        assert_eq!(shown(b"a\nb\0\x1b[31m\0\xff1\0"), "$'a\\nb' $'\\033[31m' $'\\3771'");
        assert_eq!(
            shown("h\u{e4}\0a\u{202e}\\'".as_bytes()),
            "'h\u{e4}' $'a\\342\\200\\256\\\\\\''"
        );
        assert_eq!(shown(b"if\0if\0A=1\0=ls\0"), "'if' if A=1 '=ls'");
        assert_eq!(shown(b"A=1\0ls"), "'A=1' ls");
        assert_eq!(shown(b""), "");
        assert!(shown(&vec![b'x'; 5000]).ends_with("xxx # cut"));
    }
}
