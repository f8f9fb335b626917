// SPDX-License-Identifier: Apache-2.0
//! Values of options: sizes, times, numbers and names, from text.

use std::str::FromStr;

use crate::model::filter::Remote;

/// What the kernel compares with the names of new cgroup directories.
const MAX_CGROUP_NAME: usize = 128;

/// `64K`, `4M`, `100000`: bytes.
pub fn parse_size(text: &str) -> Result<usize, String> {
    const MAX: usize = 1 << 30;
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .filter(|&n| (1..=MAX).contains(&n))
        .ok_or(format!("'{text}' is not a size from 1 to 1024M (bytes, K or M)"))
}

/// `500M`, `1G`: bytes of a recording.
pub fn parse_record_size(text: &str) -> Result<u64, String> {
    const MIN: u64 = 1 << 20;
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => Some(1),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        "t" | "T" => Some(1u64 << 40),
        _ => None,
    };
    let size = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    size.filter(|&size| size >= MIN)
        .ok_or(format!("'{text}' is not a size of 1M or more (bytes, K, M, G or T)"))
}

/// `30d`, `12h`
pub fn parse_record_age(text: &str) -> Result<std::time::Duration, String> {
    let age = humantime::parse_duration(text).ok().filter(|age| age.as_secs() > 0);
    age.ok_or(format!("'{text}' is not a time such as 30d or 12h"))
}

/// The other end of connections, as --who names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    At(Remote),
    /// By a name that its address was found by, and a port if that matters.
    Called(glob::Pattern, Option<u16>),
}

/// An address or a network, as `Remote`; or a name, `example.com` or `*.example.com:443`. A word
/// without a point is none: it may be an address that was mistyped.
impl FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why = match text.parse() {
            Ok(remote) => return Ok(Whom::At(remote)),
            Err(why) => why,
        };
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let is_plain = |c: char| c.is_alphanumeric() || "-_.*?".contains(c);
        let last = name.trim_end_matches('.').rsplit_once('.').map(|(_, last)| last);
        let is_name = name.chars().all(is_plain)
            && last.is_some_and(|last| last.contains(|c: char| !c.is_ascii_digit()));
        let port = port.map(|port| port.parse().ok().filter(|&port: &u16| port != 0));
        match (is_name, port) {
            (true, None) => Ok(Whom::Called(parse_glob(name)?, None)),
            (true, Some(Some(port))) => Ok(Whom::Called(parse_glob(name)?, Some(port))),
            _ => Err(why),
        }
    }
}

/// `1`, `0.5`: seconds, more than zero.
pub fn parse_seconds(text: &str) -> Result<std::time::Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|s| *s > 0.0)
        .and_then(|s| std::time::Duration::try_from_secs_f64(s).ok())
        .ok_or(format!("'{text}' is not a number of seconds greater than 0"))
}

/// `50`, `0.5`: milliseconds.
pub fn parse_milliseconds(text: &str) -> Result<std::time::Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|ms| std::time::Duration::try_from_secs_f64(ms / 1000.0).ok())
        .filter(|time| u64::try_from(time.as_nanos()).is_ok())
        .ok_or(format!("'{text}' is not a number of milliseconds"))
}

/// A pid from 1 to the kernel's limit of 2^22.
pub fn parse_pid(text: &str) -> Result<u32, String> {
    text.parse::<u32>()
        .ok()
        .filter(|pid| (1..=1 << 22).contains(pid))
        .ok_or(format!("'{text}' is not a pid from 1 to 4194304"))
}

/// A name that cannot be a path.
fn parse_cgroup_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("the name is empty".into()),
        _ if text.contains('/') => Err(format!("'{text}' is a path; use --cgroup for it")),
        // Room for what runtimes put before and after it.
        n if n > MAX_CGROUP_NAME - 32 => Err(format!("'{text}' is longer than 96 bytes")),
        _ => Ok(text.to_owned()),
    }
}

/// An id, a name, or the NAMESPACE/POD/NAME of a row.
pub fn parse_container(text: &str) -> Result<String, String> {
    const MAX: usize = 512;
    match text.split('/').count() {
        _ if text.starts_with('/') => Err(format!("'{text}' is a path; use --cgroup for it")),
        _ if text.len() > MAX => Err(format!("'{text}' is longer than {MAX} bytes")),
        1 if text.is_empty() => Err("the name is empty".into()),
        _ if text.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            Err(format!("'{text}' is a path; use --cgroup for it"))
        }
        1..=3 => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is no ID, NAME or NAMESPACE/POD/NAME; use --cgroup for a path")),
    }
}

/// `nginx` is nginx.service, as for systemctl.
pub fn parse_unit(text: &str) -> Result<String, String> {
    let name = parse_cgroup_name(text)?;
    match name.contains('.') {
        true => Ok(name),
        false => Ok(name + ".service"),
    }
}

pub fn parse_glob(text: &str) -> Result<glob::Pattern, String> {
    glob::Pattern::new(text).map_err(|e| format!("{} (for example '*.example.com')", e.msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("4m"), Ok(4_194_304));
        assert_eq!(parse_size("1024M"), Ok(1_073_741_824));
        assert!(parse_size("1048577K").is_err());
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(parse_seconds("0.5"), Ok(std::time::Duration::from_millis(500)));
        assert_eq!(parse_seconds("60"), Ok(std::time::Duration::from_secs(60)));
    }

    #[test]
    fn pids_end_at_the_kernels_limit() {
        assert_eq!(parse_pid("4194304"), Ok(4_194_304));
        assert!(parse_pid("4194305").is_err());
        assert!(parse_pid("0").is_err());
    }
}
