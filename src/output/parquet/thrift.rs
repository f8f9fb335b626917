// SPDX-License-Identifier: Apache-2.0
//! Thrift's compact protocol, as far as the headers of Parquet have it: what they claim is looked
//! at here before anything is made room for. No byte sequence panics, and none takes longer than
//! its length.

/// Structures and lists in one another; a footer has five.
const MAX_DEPTH: u8 = 16;

/// The numbers of a structure, each with the ids of the fields that lead to it, and of each list how
/// long it is; and how many bytes all of it has. `None`: it is not written as by this program, or
/// is cut.
pub(super) fn walk(bytes: &[u8], see: &mut dyn FnMut(&[i16], i64)) -> Option<usize> {
    let mut walk = Walk { left: bytes, path: Vec::new(), see };
    walk.fields(MAX_DEPTH)?;
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

struct Walk<'a> {
    left: &'a [u8],
    path: Vec<i16>,
    see: &'a mut dyn FnMut(&[i16], i64),
}

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.left.split_off_first().copied()
    }

    fn skip(&mut self, len: u64) -> Option<()> {
        self.left = self.left.get(usize::try_from(len).ok()?..)?;
        Some(())
    }

    /// Ids ascend: a reader that takes the last of two would see another one than this.
    fn fields(&mut self, depth: u8) -> Option<()> {
        let depth = depth.checked_sub(1)?;
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
            self.path.push(id);
            self.value(kind, depth)?;
            self.path.pop();
        }
    }

    fn value(&mut self, kind: u8, depth: u8) -> Option<()> {
        match kind {
            // The kind is the value.
            1 | 2 => Some(()),
            3 => self.skip(1),
            4..=6 => {
                let number = signed(&mut self.left)?;
                (self.see)(&self.path, number);
                Some(())
            }
            7 => self.skip(8),
            8 => {
                let len = unsigned(&mut self.left)?;
                self.skip(len)
            }
            9 => self.list(depth),
            12 => self.fields(depth),
            // Nothing in Parquet is a set or a map.
            _ => None,
        }
    }

    fn list(&mut self, depth: u8) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let head = self.byte()?;
        let (kind, few) = (head & 0xf, head >> 4);
        let len = if few == 15 { unsigned(&mut self.left)? } else { u64::from(few) };
        (self.see)(&self.path, i64::try_from(len).ok()?);
        // Of those that have no bytes there could be any number.
        if len > self.left.len() as u64 || matches!(kind, 1 | 2) {
            return None;
        }
        (0..len).try_for_each(|_| self.value(kind, depth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path to a number, and that.
    type Found = (Vec<i16>, i64);

    fn numbers(bytes: &[u8]) -> Option<(usize, Vec<Found>)> {
        let mut found = Vec::new();
        let len = walk(bytes, &mut |path, number| found.push((path.to_vec(), number)))?;
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
