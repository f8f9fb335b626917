// SPDX-License-Identifier: Apache-2.0
//! Thrift's compact protocol, as far as the headers of Parquet have it: what they claim is looked
//! at here before anything is made room for. No byte sequence panics, and none takes longer than
//! its length.

/// Structures and lists in one another; a footer has five.
const MAX_DEPTH: usize = 16;

/// A value of a structure.
pub(super) enum Seen<'a> {
    /// Also of a list how long it is.
    Number(i64),
    Text(&'a [u8]),
}

/// The values of a structure, each with the ids of the fields that lead to it; and how many bytes
/// all of it has. `None`: it is not written as by this program, or is cut.
pub(super) fn walk<'a>(bytes: &'a [u8], see: impl FnMut(&[i16], Seen<'a>)) -> Option<usize> {
    let mut walk = Walk { left: bytes, path: [0; MAX_DEPTH], see };
    walk.fields(1, 0)?;
    Some(bytes.len() - walk.left.len())
}

/// Of the front of these bytes.
pub(super) fn unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

pub(super) fn signed(bytes: &mut &[u8]) -> Option<i64> {
    let number = unsigned(bytes)?;
    Some((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
}

struct Walk<'a, F> {
    left: &'a [u8],
    /// Of the fields that lead to the one that is looked at.
    path: [i16; MAX_DEPTH],
    see: F,
}

impl<'a, F: FnMut(&[i16], Seen<'a>)> Walk<'a, F> {
    fn byte(&mut self) -> Option<u8> {
        self.left.split_off_first().copied()
    }

    fn bytes(&mut self, len: u64) -> Option<&'a [u8]> {
        self.left.split_off(..usize::try_from(len).ok()?)
    }

    /// Of a structure in so many others and lists, of which `above` are structures. Ids ascend: a
    /// reader that takes the last of two would see another one than this.
    fn fields(&mut self, depth: usize, above: usize) -> Option<()> {
        let mut last = 0_i16;
        loop {
            let head = self.byte()?;
            let kind = head & 0xf;
            if kind == 0 {
                return (head == 0).then_some(());
            }
            let id = match head >> 4 {
                0 => i16::try_from(signed(&mut self.left)?).ok()?,
                more => last.checked_add(i16::from(more))?,
            };
            if id <= last {
                return None;
            }
            last = id;
            *self.path.get_mut(above)? = id;
            self.value(kind, depth, above + 1)?;
        }
    }

    fn value(&mut self, kind: u8, depth: usize, above: usize) -> Option<()> {
        match kind {
            // The kind is the value.
            1 | 2 => Some(()),
            3 => self.bytes(1).map(drop),
            4..=6 => {
                let number = signed(&mut self.left)?;
                (self.see)(&self.path[..above], Seen::Number(number));
                Some(())
            }
            7 => self.bytes(8).map(drop),
            8 => {
                let len = unsigned(&mut self.left)?;
                let text = self.bytes(len)?;
                (self.see)(&self.path[..above], Seen::Text(text));
                Some(())
            }
            _ if depth == MAX_DEPTH => None,
            9 => self.list(depth + 1, above),
            12 => self.fields(depth + 1, above),
            // Nothing in Parquet is a set or a map.
            _ => None,
        }
    }

    fn list(&mut self, depth: usize, above: usize) -> Option<()> {
        let head = self.byte()?;
        let (kind, few) = (head & 0xf, head >> 4);
        let len = if few == 15 { unsigned(&mut self.left)? } else { u64::from(few) };
        (self.see)(&self.path[..above], Seen::Number(i64::try_from(len).ok()?));
        // Of those that have no bytes there could be any number.
        if len > self.left.len() as u64 || matches!(kind, 1 | 2) {
            return None;
        }
        (0..len).try_for_each(|_| self.value(kind, depth, above))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path to a number, and that.
    type Found = (Vec<i16>, i64);

    fn numbers(bytes: &[u8]) -> Option<(usize, Vec<Found>)> {
        let mut found = Vec::new();
        let len = walk(bytes, |path, seen| match seen {
            Seen::Number(number) => found.push((path.to_vec(), number)),
            Seen::Text(text) => found.push((path.to_vec(), text.len() as i64)),
        })?;
        Some((len, found))
    }

    #[test]
    fn numbers_and_lists_are_found_by_their_fields() {
        // 1: -3, 2: [5, 6], 5: {1: 7}, and a byte behind.
        let bytes = [0x15, 0x05, 0x19, 0x25, 0x0a, 0x0c, 0x3c, 0x15, 0x0e, 0x00, 0x00, 0x99];
        let (len, found) = numbers(&bytes).unwrap();
        assert_eq!(len, 11);
        let expected = [(vec![1], -3), (vec![2], 2), (vec![2], 5), (vec![2], 6), (vec![5, 1], 7)];
        assert_eq!(found, expected);
        for cut in 0..len {
            assert_eq!(numbers(&bytes[..cut]), None);
        }
    }

    #[test]
    fn what_claims_too_much_or_says_it_twice_is_refused() {
        for bytes in [
            // A list of two thousand million.
            &[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x07, 0x02, 0x00][..],
            // Of what takes no bytes.
            &[0x19, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0x00],
            // Field 1 again, and a map.
            &[0x15, 0x02, 0x05, 0x02, 0x04, 0x00],
            &[0x1b, 0x01, 0x55, 0x02, 0x02, 0x00],
        ] {
            assert_eq!(numbers(bytes), None, "{bytes:x?}");
        }
        assert_eq!(numbers(&[0x1c; 100_000]), None);
        assert_eq!(numbers(&[vec![0x19], vec![0x19; 100_000]].concat()), None);
    }
}
