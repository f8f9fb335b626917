// SPDX-License-Identifier: Apache-2.0
//! An object of JSON becomes a line that no terminal obeys, and that keeps the bytes of a
//! name that is no text.

use std::borrow::Cow;
use std::io;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::Serializer;
use serde_json::ser::Formatter;

use crate::escape::is_harmless;
use crate::escape::is_plain;

/// Also escapes what JSON lets stand but a terminal may act upon.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if is_plain(fragment.as_bytes()) {
            return to.write_all(fragment.as_bytes());
        }
        let mut start = 0;
        for (at, bad) in fragment.match_indices(|c| !is_harmless(c)) {
            to.write_all(&fragment.as_bytes()[start..at])?;
            for unit in bad.encode_utf16() {
                write!(to, "\\u{unit:04x}")?;
            }
            start = at + bad.len();
        }
        to.write_all(&fragment.as_bytes()[start..])
    }
}

pub fn put(out: &mut Vec<u8>, object: &impl Serialize) {
    write(out, object);
    out.push(b'\n');
}

fn write(out: &mut Vec<u8>, object: &impl Serialize) {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Harmless);
    object.serialize(&mut serializer).expect("writing to a Vec cannot fail");
}

/// A line whose fields are those of several objects, one after the other; what was written
/// before can be copied in between.
pub struct Parts<'a>(&'a mut Vec<u8>);

impl<'a> Parts<'a> {
    /// `first` has a field at least.
    pub fn begin(out: &'a mut Vec<u8>, first: &impl Serialize) -> Self {
        write(out, first);
        out.pop();
        Parts(out)
    }

    /// Of an object that may have no fields.
    pub fn add(&mut self, object: &impl Serialize) {
        let start = self.0.len();
        write(self.0, object);
        self.0.pop();
        match self.0.len() == start + 1 {
            true => self.0.truncate(start),
            false => self.0[start] = b',',
        }
    }

    /// What `add` wrote at another time.
    pub fn copy(&mut self, written: &[u8]) {
        self.0.extend_from_slice(written);
    }

    /// What `add` writes.
    pub fn written(&mut self, object: &impl Serialize) -> &[u8] {
        let start = self.0.len();
        self.add(object);
        &self.0[start..]
    }

    pub fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }
}

/// Bytes that are not UTF-8 become U+FFFD.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Bytes in base64.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a>(&'a [u8]);

/// The bytes of a name whose text does not have them all: two names may differ in bytes that
/// are the same there.
pub fn raw(bytes: &[u8]) -> Option<Raw<'_>> {
    std::str::from_utf8(bytes).is_err().then_some(Raw(bytes))
}

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}
