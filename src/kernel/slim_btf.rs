// SPDX-License-Identifier: Apache-2.0
//! The few types of the kernel's BTF that the programs' relocations ask for, as BTF of their own.
//!
//! libbpf reads and checks all of the kernel's types, some 130,000, and looks through them for
//! each of these: that was half of a start. Here reading ends where the last of them has been
//! found. Of a program that is attached by a type, libbpf still reads all of them for its name.
//! Where anything is not as expected there is no such file, and libbpf reads the kernel's.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::fs::memfd_create;
use rustix::process::Resource;
use rustix::process::getrlimit;

use super::btf::KERNEL_BTF;
use super::btf_types::ARRAY;
use super::btf_types::ENUM;
use super::btf_types::ENUM64;
use super::btf_types::HEAD_LEN;
use super::btf_types::Head;
use super::btf_types::INT;
use super::btf_types::MEMBER_LEN;
use super::btf_types::PTR;
use super::btf_types::word;

/// What a program of src/bpf reads.
struct Program {
    name: &'static str,
    /// Places in `NEEDS`.
    needs: &'static [u16],
}

include!(concat!(env!("OUT_DIR"), "/needs.rs"));

/// Of the header, with which BTF begins.
const MAGIC: u16 = 0xeb9f;
/// Its first 24 bytes: magic, version, flags, its own length, then where types and strings are,
/// from its end, each with its length.
const HEADER_LEN: usize = 24;
/// Bytes that sysfs gives at once, before 6.16.
const PAGE: usize = 4096;
const READ_AT_ONCE: usize = 8 * PAGE;
/// A place is noted each time that so many types have been looked at.
const NOTED: usize = 32;
const INT_ID: u32 = 1;
/// So many types are looked into at most: the programs read some 250, and types that contain each
/// other, as in no kernel, would have no end.
const MAX_LOOKS: usize = 4096;

/// A member, and what is read of it in turn; of a root: a type.
#[derive(Debug, Default)]
struct Tree<'a>(BTreeMap<&'a str, Tree<'a>>);

impl<'a> Tree<'a> {
    fn add(&mut self, path: &'a str) {
        path.split('.').fold(self, |tree, name| tree.0.entry(name).or_default());
    }
}

/// What these programs read of the kernel's types.
fn needs(programs: &[&str]) -> Tree<'static> {
    let mut tree = Tree::default();
    for program in PROGRAMS.iter().filter(|program| programs.contains(&program.name)) {
        let paths = program.needs.iter().map(|&need| NEEDS[usize::from(need)]);
        paths.for_each(|path| tree.add(path));
    }
    tree
}

/// A file of BTF with what these programs read.
pub struct SlimBtf(File);

impl SlimBtf {
    /// `None` if the kernel's BTF is not as expected, or no such file may be written.
    pub fn of(programs: &[&str]) -> Option<SlimBtf> {
        let bytes = slim(&File::open(KERNEL_BTF).ok()?, &needs(programs))?;
        // SIGXFSZ would end the program.
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < bytes.len() as u64) {
            return None;
        }
        let mut file = File::from(memfd_create(c"btf", MemfdFlags::CLOEXEC).ok()?);
        file.write_all(&bytes).ok()?;
        Some(SlimBtf(file))
    }

    /// A name for the open file.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

fn slim(file: &File, needs: &Tree<'_>) -> Option<Vec<u8>> {
    let mut kernel = Kernel::open(file)?;
    let names = kernel.find_names(needs)?;
    let mut made = Made::new();
    kernel.find_types(&names)?;
    for (name, tree) in &needs.0 {
        // This kernel has no such type, as without MPTCP: the programs ask for that.
        let Some(&id) = names.get(name).and_then(|at| kernel.roots.get(at)) else { continue };
        made.composite(&mut kernel, id, name, tree)?;
    }
    Some(made.finish())
}

/// The kernel's BTF, read as far as it has been asked for.
struct Kernel<'a> {
    file: &'a File,
    types_at: u64,
    types_len: usize,
    strings_at: u64,
    strings_len: usize,
    types: Vec<u8>,
    /// Where the record begins that comes after those that have been looked at, and its id.
    next: (usize, u32),
    /// Where each 32nd record begins; that of void is where the first one does.
    noted: Vec<usize>,
    /// Types that are wanted, by the place of their name.
    roots: HashMap<u32, u32>,
    /// Of the strings.
    pages: HashMap<u64, Vec<u8>>,
    looks: usize,
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

impl<'a> Kernel<'a> {
    fn open(file: &'a File) -> Option<Self> {
        let mut header = [0; HEADER_LEN];
        read_at(file, &mut header, 0).ok().filter(|&read| read == HEADER_LEN)?;
        let [len, types, types_len, strings, strings_len] =
            [4, 8, 12, 16, 20].map(|at| word(&header, at).unwrap_or(0));
        let magic = u16::from_ne_bytes([header[0], header[1]]);
        (magic == MAGIC).then_some(Kernel {
            file,
            types_at: u64::from(len) + u64::from(types),
            types_len: types_len as usize,
            strings_at: u64::from(len) + u64::from(strings),
            strings_len: strings_len as usize,
            types: Vec::new(),
            next: (0, 1),
            noted: vec![0],
            roots: HashMap::new(),
            pages: HashMap::new(),
            looks: 0,
        })
    }

    /// Where the names of the wanted types are, of those that are there.
    fn find_names<'n>(&self, needs: &Tree<'n>) -> Option<HashMap<&'n str, u32>> {
        let (mut found, mut rest, mut at) = (HashMap::new(), Vec::new(), 0);
        let mut page = vec![0; READ_AT_ONCE];
        while found.len() < needs.0.len() && at < self.strings_len {
            let read = read_at(self.file, &mut page, self.strings_at + at as u64).ok()?;
            let read = read.min(self.strings_len - at);
            if read == 0 {
                return None;
            }
            let begins = at - rest.len();
            rest.extend_from_slice(&page[..read]);
            at += read;
            let mut start = 0;
            while let Some(len) = rest[start..].iter().position(|&byte| byte == 0) {
                let name = std::str::from_utf8(&rest[start..start + len]).unwrap_or_default();
                if let Some((name, _)) = needs.0.get_key_value(name) {
                    found.insert(*name, u32::try_from(begins + start).ok()?);
                }
                start += len + 1;
            }
            rest.drain(..start);
        }
        Some(found)
    }

    /// Looks at types in their order until each of these names has one.
    fn find_types(&mut self, names: &HashMap<&str, u32>) -> Option<()> {
        let names: Vec<u32> = names.values().copied().collect();
        while self.roots.len() < names.len() && self.next.0 < self.types_len {
            let (id, head) = self.look_at_next()?;
            // A type that is only declared, or a function, may have the same name.
            if head.is_composite() && names.contains(&head.name) {
                self.roots.entry(head.name).or_insert(id);
            }
        }
        Some(())
    }

    fn look_at_next(&mut self) -> Option<(u32, Head)> {
        let (at, id) = self.next;
        self.read_to(at + HEAD_LEN)?;
        let head = Head::read(&self.types[at..])?;
        self.next = (at + head.len()?, id + 1);
        if (self.next.1 as usize).is_multiple_of(NOTED) {
            self.noted.push(self.next.0);
        }
        Some((id, head))
    }

    /// What begins there; all of its record, if that is there.
    fn record(&mut self, at: usize) -> Option<&[u8]> {
        self.read_to(at + HEAD_LEN)?;
        let len = Head::read(&self.types[at..])?.len()?;
        self.read_to(at + len)?;
        self.types.get(at..at + len)
    }

    fn read_to(&mut self, end: usize) -> Option<()> {
        while self.types.len() < end {
            let have = self.types.len();
            let more = READ_AT_ONCE.min(self.types_len.checked_sub(have).filter(|&left| left > 0)?);
            self.types.resize(have + more, 0);
            let read =
                read_at(self.file, &mut self.types[have..], self.types_at + have as u64).ok()?;
            self.types.truncate(have + read);
            if read == 0 {
                return None;
            }
        }
        Some(())
    }

    /// The record of a type, behind its other names.
    fn type_of(&mut self, mut id: u32) -> Option<Vec<u8>> {
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
    fn is_name(&mut self, at: u32, name: &str) -> Option<bool> {
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

    /// The wanted name that is there.
    fn wanted<'n, 't>(
        &mut self,
        at: u32,
        tree: &'t Tree<'n>,
    ) -> Option<Option<(&'n str, &'t Tree<'n>)>> {
        for (name, below) in &tree.0 {
            if self.is_name(at, name)? {
                return Some(Some((name, below)));
            }
        }
        Some(None)
    }
}

/// BTF that is being made. Its first type is an integer, as which arrays count.
struct Made {
    types: Vec<u8>,
    count: u32,
    strings: Vec<u8>,
    /// Where each name is in the strings.
    names: HashMap<String, u32>,
}

impl Made {
    fn new() -> Self {
        let strings = vec![0];
        let mut made = Made { types: Vec::new(), count: 0, strings, names: HashMap::new() };
        let bits = 32;
        let id = made.push(&[0, INT << 24, 4, bits]);
        debug_assert_eq!(id, INT_ID);
        made
    }

    fn push(&mut self, words: &[u32]) -> u32 {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        self.count += 1;
        self.count
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        *self.names.entry(name.to_owned()).or_insert_with(|| {
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        })
    }

    /// A struct or union with those of its members that are read.
    fn composite(
        &mut self,
        kernel: &mut Kernel<'_>,
        id: u32,
        name: &str,
        tree: &Tree<'_>,
    ) -> Option<u32> {
        let record = kernel.type_of(id)?;
        let (mut members, mut missing) = (Vec::new(), tree.0.len());
        self.members(kernel, &record, tree, &mut members, &mut missing)?;
        self.push_composite(Head::read(&record)?, name, &members)
    }

    /// As that type, but with these members alone.
    fn push_composite(&mut self, head: Head, name: &str, members: &[u32]) -> Option<u32> {
        let name = self.name(name);
        let info = head.info & !0xffff | u32::try_from(members.len() / 3).ok()?;
        Some(self.push(&[&[name, info, head.size_or_type], members].concat()))
    }

    /// Each as its name, type and offset. Those of a struct without a name are in one without.
    fn members(
        &mut self,
        kernel: &mut Kernel<'_>,
        record: &[u8],
        tree: &Tree<'_>,
        members: &mut Vec<u32>,
        missing: &mut usize,
    ) -> Option<()> {
        for member in record[HEAD_LEN..].chunks_exact(MEMBER_LEN) {
            if *missing == 0 {
                break;
            }
            let [name, id, offset] = [0, 4, 8].map(|at| word(member, at));
            let (name, id, offset) = (name?, id?, offset?);
            if name == 0 {
                let inner = kernel.type_of(id)?;
                let head = Head::read(&inner)?;
                if !head.is_composite() {
                    continue;
                }
                let mut within = Vec::new();
                self.members(kernel, &inner, tree, &mut within, missing)?;
                if !within.is_empty() {
                    members.extend([0, self.push_composite(head, "", &within)?, offset]);
                }
            } else if let Some((name, below)) = kernel.wanted(name, tree)? {
                let made = self.value(kernel, id, below)?;
                members.extend([self.name(name), made, offset]);
                *missing -= 1;
            }
        }
        Some(())
    }

    /// What a member is: of an array its elements, of a pointer only that it is one.
    fn value(&mut self, kernel: &mut Kernel<'_>, id: u32, below: &Tree<'_>) -> Option<u32> {
        let record = kernel.type_of(id)?;
        let head = Head::read(&record)?;
        match head.kind() {
            PTR => Some(self.push(&[0, PTR << 24, 0])),
            INT => Some(self.push(&[0, head.info, head.size_or_type, word(&record, HEAD_LEN)?])),
            ENUM | ENUM64 => Some(self.push(&[0, head.info & !0xffff, head.size_or_type])),
            ARRAY => {
                let element = self.value(kernel, word(&record, HEAD_LEN)?, below)?;
                let count = word(&record, HEAD_LEN + 8)?;
                Some(self.push(&[0, ARRAY << 24, 0, element, INT_ID, count]))
            }
            _ if head.is_composite() => self.composite(kernel, id, "", below),
            _ => None,
        }
    }

    fn finish(self) -> Vec<u8> {
        let [types, strings] = [self.types.len(), self.strings.len()].map(|len| len as u32);
        let magic_and_version = u32::from(MAGIC) | 1 << 16;
        let header = [magic_and_version, HEADER_LEN as u32, 0, types, types, strings];
        let header = header.iter().flat_map(|word| word.to_ne_bytes());
        header.chain(self.types).chain(self.strings).collect()
    }
}

#[cfg(test)]
mod tests {
    use libbpf_rs::btf::Btf;
    use libbpf_rs::btf::BtfKind;
    use libbpf_rs::btf::BtfType;
    use libbpf_rs::btf::types::Composite;
    use libbpf_rs::btf::types::MemberAttr;
    use proptest::prelude::*;

    use super::*;

    fn all() -> Tree<'static> {
        needs(&PROGRAMS.map(|program| program.name))
    }

    fn of_kernel() -> Vec<u8> {
        slim(&File::open(KERNEL_BTF).unwrap(), &all()).expect("the kernel's BTF is as expected")
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = File::from(memfd_create(c"btf", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        file
    }

    /// Offset in bits, size of a bit field and type of a member, wherever it is.
    fn member<'a>(btf: &'a Btf<'_>, of: BtfType<'a>, name: &str) -> Option<(u32, u8, BtfType<'a>)> {
        let composite = Composite::try_from(of).ok()?;
        composite.iter().find_map(|member| {
            let (offset, bits) = match member.attr {
                MemberAttr::Normal { offset } => (offset, 0),
                MemberAttr::BitField { size, offset } => (offset, size),
            };
            let ty = btf.type_by_id::<BtfType<'_>>(member.ty)?.skip_mods_and_typedefs();
            match member.name {
                Some(own) if own == name => Some((offset, bits, ty)),
                Some(_) => None,
                None => self::member(btf, ty, name).map(|(at, bits, ty)| (offset + at, bits, ty)),
            }
        })
    }

    /// As libbpf sees it: offset in bits, size of a bit field, kind of type.
    fn place(btf: &Btf<'_>, path: &str) -> Option<(u32, u8, BtfKind)> {
        let mut names = path.split('.');
        let root = names.next()?;
        let root =
            btf.type_by_kind::<Composite<'_>>().find(|t| t.name().is_some_and(|n| n == root))?;
        let mut found = (0, 0, *root);
        for name in names {
            let (at, bits, ty) = member(btf, found.2, name)?;
            found = (found.0 + at, bits, ty);
        }
        Some((found.0, found.1, found.2.kind()))
    }

    #[test]
    fn what_the_programs_read_is_where_the_kernel_has_it() {
        let slim = of_kernel();
        assert!(slim.len() < 16 << 10, "{} bytes", slim.len());
        let slim = SlimBtf(file(&slim));
        let slim = Btf::from_path(slim.path()).expect("libbpf takes it");
        let whole = Btf::from_vmlinux().unwrap();
        let places = NEEDS.map(|need| (need, place(&whole, need)));
        assert!(places.iter().filter(|(_, place)| place.is_some()).count() > NEEDS.len() / 2);
        for (need, place) in places {
            assert_eq!(self::place(&slim, need), place, "{need}");
        }
    }

    #[test]
    fn what_is_slim_becomes_no_slimmer() {
        let once = of_kernel();
        assert_eq!(slim(&file(&once), &all()), Some(once));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            len in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut bytes = of_kernel();
            for (at, byte) in changes {
                let len = bytes.len();
                bytes[at.index(len)] = byte;
            }
            if !whole {
                bytes.truncate(len.index(bytes.len()));
            }
            slim(&file(&bytes), &all());
        }
    }
}
