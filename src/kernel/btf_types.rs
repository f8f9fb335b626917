// SPDX-License-Identifier: Apache-2.0
//! The records of BTF, as Documentation/bpf/btf.rst of the kernel has them: integers in the
//! machine's byte order. build.rs reads those of our programs with it, slim_btf.rs the kernel's.

/// What each record begins with: name, info, and a size or another type.
pub const HEAD_LEN: usize = 12;
/// Of a member of a struct: name, type, offset.
pub const MEMBER_LEN: usize = 12;

pub const INT: u32 = 1;
pub const PTR: u32 = 2;
pub const ARRAY: u32 = 3;
pub const STRUCT: u32 = 4;
pub const UNION: u32 = 5;
pub const ENUM: u32 = 6;
const FWD: u32 = 7;
pub const TYPEDEF: u32 = 8;
pub const VOLATILE: u32 = 9;
pub const CONST: u32 = 10;
pub const RESTRICT: u32 = 11;
pub const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
pub const TYPE_TAG: u32 = 18;
pub const ENUM64: u32 = 19;

pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What each type's record begins with.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Where its name is in the strings; 0: it has none.
    pub name: u32,
    pub info: u32,
    /// Bytes of what has a size, else the id of another type.
    pub size_or_type: u32,
}

impl Head {
    pub fn read(record: &[u8]) -> Option<Head> {
        let [name, info, size_or_type] = [0, 4, 8].map(|at| word(record, at));
        Some(Head { name: name?, info: info?, size_or_type: size_or_type? })
    }

    pub fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// How many members or values follow.
    pub fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    pub fn is_composite(self) -> bool {
        matches!(self.kind(), STRUCT | UNION)
    }

    /// Whether it only names or qualifies another type.
    pub fn is_other_type(self) -> bool {
        matches!(self.kind(), TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG)
    }

    /// Bytes of the whole record; `None` if nobody knows its kind.
    pub fn len(self) -> Option<usize> {
        let more = match self.kind() {
            INT | VAR | DECL_TAG => 4,
            ARRAY => 12,
            STRUCT | UNION | DATASEC | ENUM64 => 12 * self.count(),
            ENUM | FUNC_PROTO => 8 * self.count(),
            PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
            _ => return None,
        };
        Some(HEAD_LEN + more)
    }
}
