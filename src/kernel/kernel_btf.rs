// SPDX-License-Identifier: Apache-2.0
//! The kernel's BTF, read as far as it is asked for: before 6.16 sysfs gives it in small pieces, and
//! the ids and places of its some 130,000 types are nowhere written down.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use memchr::memchr_iter;
use memmap2::Mmap;
use memmap2::MmapOptions;
use rustix::fs::fstatfs;

use super::btf_types::FUNC;
use super::btf_types::HEAD_LEN;
use super::btf_types::Head;
use super::btf_types::STRUCT;
use super::btf_types::TYPEDEF;
use super::btf_types::UNION;
use super::btf_types::word;

/// Of the header, with which BTF begins.
pub(super) const MAGIC: u16 = 0xeb9f;
/// Its first 24 bytes: magic, version, flags, its own length, then where types and strings are,
/// from its end, each with its length.
pub(super) const HEADER_LEN: usize = 24;
/// linux/magic.h
const SYSFS_MAGIC: i128 = 0x6265_6572;
/// Bytes that sysfs gives at once.
const PAGE: usize = 4096;
const READ_AT_ONCE: usize = 8 * PAGE;
/// A place is noted each time that so many types have been looked at.
const NOTED: usize = 32;
/// So many types are looked into at most: the programs read some 250, and types that contain each
/// other, as in no kernel, would have no end.
const MAX_LOOKS: usize = 4096;

/// What may share its name with a type of another sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sort {
    Composite,
    Function,
    Typedef,
}

impl Sort {
    fn of(head: Head) -> Option<Self> {
        match head.kind() {
            STRUCT | UNION => Some(Sort::Composite),
            FUNC => Some(Sort::Function),
            TYPEDEF => Some(Sort::Typedef),
            _ => None,
        }
    }
}

/// Names that few of many texts have.
struct Names<'n> {
    all: BTreeSet<&'n str>,
    /// A bit for each length, and for each first byte.
    lengths: u64,
    firsts: [bool; 256],
}

impl<'n> Names<'n> {
    fn new(all: BTreeSet<&'n str>) -> Self {
        let mut names = Names { all, lengths: 0, firsts: [false; 256] };
        for name in names.all.iter().filter_map(|name| Some((name.len(), name.bytes().next()?))) {
            names.lengths |= 1 << (name.0 % 64);
            names.firsts[usize::from(name.1)] = true;
        }
        names
    }

    fn find(&self, text: &[u8]) -> Option<&'n str> {
        let first = text.first()?;
        if self.lengths >> (text.len() % 64) & 1 == 0 || !self.firsts[usize::from(*first)] {
            return None;
        }
        self.all.get(std::str::from_utf8(text).ok()?).copied()
    }
}

/// Types that are looked for, each by the place of its name.
#[derive(Default)]
struct Wanted {
    ids: HashMap<(u32, Sort), Option<u32>>,
    /// A bit for the last six of each place.
    places: u64,
    composites_left: usize,
    others_left: usize,
}

impl Wanted {
    fn add(&mut self, name: u32, sort: Sort) {
        if self.ids.insert((name, sort), None).is_none() {
            *self.left(sort) += 1;
            self.places |= 1 << (name % 64);
        }
    }

    fn left(&mut self, sort: Sort) -> &mut usize {
        match sort {
            Sort::Composite => &mut self.composites_left,
            Sort::Function | Sort::Typedef => &mut self.others_left,
        }
    }

    /// The first of a name is the one that libbpf takes, too.
    fn see(&mut self, id: u32, head: Head) {
        if self.places >> (head.name % 64) & 1 == 0 {
            return;
        }
        let Some(sort) = Sort::of(head) else { return };
        if let Some(found @ None) = self.ids.get_mut(&(head.name, sort)) {
            *found = Some(id);
            *self.left(sort) -= 1;
        }
    }
}

/// Notes where in the strings wanted names are; returns where the last that is whole ends. These
/// strings begin at `begins` of all.
fn note_names(
    strings: &[u8],
    begins: usize,
    wanted: &Names<'_>,
    names: &mut HashMap<String, u32>,
) -> Option<usize> {
    let mut start = 0;
    for end in memchr_iter(0, strings) {
        if let Some(name) = wanted.find(&strings[start..end]) {
            names.insert(name.to_owned(), u32::try_from(begins + start).ok()?);
            if names.len() == wanted.all.len() {
                break;
            }
        }
        start = end + 1;
    }
    Some(start)
}

/// As many bytes as there are.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// From 6.16 on it can be seen where the kernel has it, but not as a shared map: 700 calls less.
/// Another file that is mounted there could be cut meanwhile.
fn map(file: &File) -> Option<Mmap> {
    let is_kernels = fstatfs(file).is_ok_and(|fs| i128::from(fs.f_type) == SYSFS_MAGIC);
    // SAFETY: what sysfs has there is memory of the kernel's that does not change.
    is_kernels.then(|| unsafe { MmapOptions::new().map_copy_read_only(file) }.ok())?
}

pub(super) struct Kernel<'a> {
    file: &'a File,
    /// All of it, if it can be had so; else it is read into `types` and `pages`.
    map: Option<Mmap>,
    types_at: u64,
    types_len: usize,
    strings_at: u64,
    strings_len: usize,
    types: Vec<u8>,
    /// Bytes before those, which have been let go.
    gone: usize,
    /// Where the record begins that comes after those that have been looked at, and its id.
    next: (usize, u32),
    /// Where each 32nd record begins; that of void is where the first one does.
    noted: Vec<usize>,
    wanted: Wanted,
    /// Where the names are that were found.
    names: HashMap<String, u32>,
    /// Of the strings.
    pages: HashMap<u64, Vec<u8>>,
    looks: usize,
}

impl<'a> Kernel<'a> {
    pub(super) fn open(file: &'a File) -> Option<Self> {
        let mut header = [0; HEADER_LEN];
        read_at(file, &mut header, 0).ok().filter(|&read| read == HEADER_LEN)?;
        let [len, types, types_len, strings, strings_len] =
            [4, 8, 12, 16, 20].map(|at| word(&header, at).unwrap_or(0));
        let magic = u16::from_ne_bytes([header[0], header[1]]);
        (magic == MAGIC).then(|| Kernel {
            file,
            map: map(file),
            types_at: u64::from(len) + u64::from(types),
            types_len: types_len as usize,
            strings_at: u64::from(len) + u64::from(strings),
            strings_len: strings_len as usize,
            types: Vec::new(),
            gone: 0,
            next: (0, 1),
            noted: vec![0],
            wanted: Wanted::default(),
            names: HashMap::new(),
            pages: HashMap::new(),
            looks: 0,
        })
    }

    /// These are looked for from here on, if their names are there.
    pub(super) fn want(&mut self, types: &[(&str, Sort)]) -> Option<()> {
        self.find_names(&Names::new(types.iter().map(|(name, _)| *name).collect()))?;
        for (name, sort) in types {
            if let Some(&at) = self.names.get(*name) {
                self.wanted.add(at, *sort);
            }
        }
        Some(())
    }

    fn find_names(&mut self, wanted: &Names<'_>) -> Option<()> {
        if let Some(map) = &self.map {
            let strings = map.get(self.strings_at as usize..)?;
            let strings = strings.get(..self.strings_len)?;
            return note_names(strings, 0, wanted, &mut self.names).map(|_| ());
        }
        let (mut rest, mut at) = (Vec::new(), 0);
        let mut page = vec![0; READ_AT_ONCE];
        while self.names.len() < wanted.all.len() && at < self.strings_len {
            let read = read_at(self.file, &mut page, self.strings_at + at as u64).ok()?;
            let read = read.min(self.strings_len - at);
            if read == 0 {
                return None;
            }
            let begins = at - rest.len();
            rest.extend_from_slice(&page[..read]);
            at += read;
            let end = note_names(&rest, begins, wanted, &mut self.names)?;
            rest.drain(..end);
        }
        Some(())
    }

    /// Looks at types in their order until all structs and unions that are wanted have been seen.
    pub(super) fn find_composites(&mut self) -> Option<()> {
        while self.wanted.composites_left > 0 && self.next.0 < self.types_len {
            self.look_at_next()?;
        }
        Some(())
    }

    /// The same for the rest, after which no type can be read any more: functions are among the
    /// last, and what is before them takes room.
    pub(super) fn find_others(&mut self) -> Option<()> {
        while self.wanted.others_left > 0 && self.next.0 < self.types_len {
            self.look_at_next()?;
            let seen = self.next.0 - self.gone;
            if self.map.is_none() && seen >= READ_AT_ONCE {
                self.types.drain(..seen.min(self.types.len()));
                self.gone = self.next.0;
            }
        }
        Some(())
    }

    /// Of what was wanted, if it has been seen.
    pub(super) fn id(&self, name: &str, sort: Sort) -> Option<u32> {
        *self.wanted.ids.get(&(*self.names.get(name)?, sort))?
    }

    fn look_at_next(&mut self) -> Option<()> {
        let (at, id) = self.next;
        let head = Head::read(self.part(at, HEAD_LEN)?)?;
        self.wanted.see(id, head);
        self.next = (at + head.len()?, id + 1);
        if (self.next.1 as usize).is_multiple_of(NOTED) {
            self.noted.push(self.next.0);
        }
        Some(())
    }

    /// All of the record that begins there.
    fn record(&mut self, at: usize) -> Option<&[u8]> {
        let len = Head::read(self.part(at, HEAD_LEN)?)?.len()?;
        self.part(at, len)
    }

    /// So many bytes of the types.
    fn part(&mut self, at: usize, len: usize) -> Option<&[u8]> {
        let end = at.checked_add(len).filter(|&end| end <= self.types_len)?;
        if self.map.is_none() {
            self.read_to(end)?;
        }
        match &self.map {
            Some(map) => {
                let types = map.get(self.types_at as usize..)?;
                types.get(at..end)
            }
            None => self.types.get(at.checked_sub(self.gone)?..end - self.gone),
        }
    }

    fn read_to(&mut self, end: usize) -> Option<()> {
        while self.gone + self.types.len() < end {
            let have = self.types.len();
            let before = self.gone + have;
            let left = self.types_len.checked_sub(before).filter(|&left| left > 0)?;
            self.types.resize(have + READ_AT_ONCE.min(left), 0);
            let at = self.types_at + before as u64;
            let read = read_at(self.file, &mut self.types[have..], at).ok()?;
            self.types.truncate(have + read);
            if read == 0 {
                return None;
            }
        }
        Some(())
    }

    /// The record of a type, behind its other names.
    pub(super) fn type_of(&mut self, mut id: u32) -> Option<Vec<u8>> {
        loop {
            self.looks += 1;
            if self.looks > MAX_LOOKS {
                return None;
            }
            while self.next.1 <= id {
                self.look_at_next()?;
            }
            let mut at = *self.noted.get(id as usize / NOTED)?;
            let first = (id as usize / NOTED * NOTED).max(1);
            for _ in first..id as usize {
                at += Head::read(self.record(at)?)?.len()?;
            }
            let record = self.record(at)?.to_vec();
            let head = Head::read(&record)?;
            if !head.is_other_type() {
                return Some(record);
            }
            id = head.size_or_type;
        }
    }

    /// Whether the name that is there is this one.
    pub(super) fn is_name(&mut self, at: u32, name: &str) -> Option<bool> {
        if let Some(map) = &self.map {
            let rest = map.get(self.strings_at as usize + at as usize..)?;
            let rest = rest.strip_prefix(name.as_bytes());
            return Some(rest.is_some_and(|rest| rest.first() == Some(&0)));
        }
        let (mut page, mut within) = (u64::from(at) / PAGE as u64, at as usize % PAGE);
        for wanted in name.bytes().chain([0]) {
            if within == PAGE {
                (page, within) = (page + 1, 0);
            }
            if !self.pages.contains_key(&page) {
                let mut bytes = vec![0; PAGE];
                read_at(self.file, &mut bytes, self.strings_at + page * PAGE as u64).ok()?;
                self.pages.insert(page, bytes);
            }
            if self.pages[&page][within] != wanted {
                return Some(false);
            }
            within += 1;
        }
        Some(true)
    }
}
